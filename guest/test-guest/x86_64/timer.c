/* The local APIC's timer, an interrupt each millisecond.

   Whether it keeps its rate: before and after each sleep the processor reads the time-stamp counter and how
   far the timer has counted. Between two such pairs, whatever was late in between, both must have gone on by
   the same time, except for whole periods of the timer. */
#include "machine.h"

#define PERIOD_NS 1000000ul
#define PERIODIC (1u << 17)
#define DIVIDE_BY_1 0xb
#define CPUID_HYPERVISOR (1u << 31)
#define LEAF_HYPERVISOR 0x40000000u
#define LEAF_FREQUENCIES 0x40000010u
/* Reading both takes less, or something came between. */
#define PAIR_NS 40000
/* A pair of pairs further apart says nothing: the machine stood still, perhaps to be moved. */
#define APART_NS 20000000
/* What the two may differ by. */
#define TOLERANCE_NS 100000

static uint64_t counts; /* a period in units of the timer */

/* Both KVM and QEMU count at 1 GHz unless they say otherwise. */
static uint64_t bus_hz(void)
{
    if ((cpuid(1, 0).c & CPUID_HYPERVISOR) && cpuid(LEAF_HYPERVISOR, 0).a >= LEAF_FREQUENCIES) {
        uint64_t khz = cpuid(LEAF_FREQUENCIES, 0).b;
        if (khz != 0)
            return khz * 1000;
    }
    return 1000000000;
}

void timer_open(void)
{
    counts = bus_hz() / (1000000000 / PERIOD_NS);
    apic_write(APIC_TIMER_DIVIDE, DIVIDE_BY_1);
    apic_write(APIC_LVT_TIMER, PERIODIC | VECTOR_TICK);
    apic_write(APIC_TIMER_INITIAL, counts);
    CPU->tick_at = rdtsc();
}

void timer_tick(void)
{
    uint64_t now = rdtsc(), gap = now - CPU->tick_at;
    CPU->tick_at = now;
    CPU->ticks++;
    if (gap > CPU->tick_gap)
        CPU->tick_gap = gap;
}

struct pair {
    uint64_t tsc, width, left;
};

static struct pair look(void)
{
    struct pair pair;
    pair.tsc = rdtsc();
    pair.left = apic_read(APIC_TIMER_CURRENT);
    pair.width = rdtsc() - pair.tsc;
    return pair;
}

static void compare(const struct pair *from, const struct pair *to)
{
    uint64_t hz = clock_hz();
    uint64_t went = to->tsc - from->tsc;
    if (hz == 0 || went > hz / 1000 * (APART_NS / 1000000))
        return;
    if (from->width > hz / 1000 * PAIR_NS / 1000000 || to->width > hz / 1000 * PAIR_NS / 1000000)
        return;
    uint64_t by_tsc = went * counts / (hz / (1000000000 / PERIOD_NS)); /* in units of the timer */
    uint64_t off = (by_tsc + to->left + counts - from->left) % counts;
    uint64_t tolerance = counts * TOLERANCE_NS / PERIOD_NS;
    CPU->timer_checks++;
    if (off > tolerance && off < counts - tolerance)
        CPU->timer_off++;
}

void timer_sleep(void)
{
    struct pair before = look();
    __asm__ volatile("sti\n\thlt\n\tcli" ::: "memory");
    struct pair after = look();
    compare(&before, &after);
}
