/* The time-stamp counter is the clock. KVM's paravirtual clock, where there is one, tells its rate and is
   watched as well: neither may go backwards. */
#include "machine.h"
#include "shared.h"

#define LEAF_TSC 0x15u
#define LEAF_HYPERVISOR 0x40000000u
#define LEAF_KVM_FEATURES 0x40000001u
#define LEAF_FREQUENCIES 0x40000010u
#define FEATURE_CLOCKSOURCE2 (1u << 3)
#define CPUID_HYPERVISOR (1u << 31)
#define KVMK 0x4b4d564bu /* first letters of the signature, in ebx */
#define MSR_SYSTEM_TIME 0x4b564d01u
#define CHECK_US 100000

/* What CPUID says, or 0. */
static uint64_t told_hz;

/* Last seen by each processor. */
static struct {
    uint64_t tsc, ns, steps_back, next_check;
} __attribute__((aligned(64))) seen[MAX_WORKERS];

static uint64_t cpuid_hz(void)
{
    if (cpuid(0, 0).a >= LEAF_TSC) {
        struct cpuid tsc = cpuid(LEAF_TSC, 0);
        if (tsc.a != 0 && tsc.b != 0 && tsc.c != 0)
            return (uint64_t)tsc.c * tsc.b / tsc.a;
    }
    if ((cpuid(1, 0).c & CPUID_HYPERVISOR) && cpuid(LEAF_HYPERVISOR, 0).a >= LEAF_FREQUENCIES)
        return (uint64_t)cpuid(LEAF_FREQUENCIES, 0).a * 1000;
    return 0;
}

void clock_open_processor(void)
{
    if (CPU->number == 0)
        told_hz = cpuid_hz();
    if ((cpuid(1, 0).c & CPUID_HYPERVISOR) && cpuid(LEAF_HYPERVISOR, 0).b == KVMK &&
        (cpuid(LEAF_KVM_FEATURES, 0).a & FEATURE_CLOCKSOURCE2))
        msr_write(MSR_SYSTEM_TIME, (uint64_t)(uintptr_t)&CPU->self->clock | 1);
}

/* A nanosecond is `mul` 2^-32ths of a tick that is shifted left before. */
static uint64_t pvclock_hz(void)
{
    const struct pvclock *clock = &CPU->self->clock;
    if (clock->mul == 0)
        return 0;
    uint64_t hz = (1000000000ul << 32) / clock->mul;
    return clock->shift < 0 ? hz << -clock->shift : hz >> clock->shift;
}

/* By the timer, whose rate is known: over fifty of its periods. */
static uint64_t measured_hz(void)
{
    const unsigned periods = 50, periods_a_second = 1000;
    uint64_t from = CPU->ticks + 1;
    while (CPU->ticks < from)
        kernel_call(CALL_SLEEP, CPU->rung, 0);
    from = CPU->ticks;
    uint64_t began = CPU->tick_at;
    while (CPU->ticks < from + periods)
        kernel_call(CALL_SLEEP, CPU->rung, 0);
    return (CPU->tick_at - began) * periods_a_second / (CPU->ticks - from);
}

void clock_open(void)
{
    uint64_t hz = told_hz != 0 ? told_hz : pvclock_hz();
    ticks_open(hz != 0 ? hz : measured_hz());
}

uint64_t clock_ticks(void)
{
    return rdtsc();
}

static uint64_t pvclock_ns(void)
{
    const volatile struct pvclock *clock = &CPU->self->clock;
    uint32_t version;
    uint64_t ns;
    if (clock->mul == 0)
        return 0;
    do {
        version = clock->version;
        uint64_t went = rdtsc() - clock->tsc;
        went = clock->shift < 0 ? went >> -clock->shift : went << clock->shift;
        ns = clock->system_ns + (uint64_t)((unsigned __int128)went * clock->mul >> 32);
    } while ((version & 1) || version != clock->version);
    return ns;
}

static void look_at_clocks(void)
{
    uint64_t number = CPU->number, tsc = rdtsc(), ns = pvclock_ns();
    if ((int64_t)(tsc - seen[number].tsc) < 0 || (int64_t)(ns - seen[number].ns) < 0)
        seen[number].steps_back++;
    seen[number].tsc = tsc;
    seen[number].ns = ns;
}

uint64_t clock_steps_back(void)
{
    uint64_t sum = 0;
    for (unsigned number = 0; number < MAX_WORKERS; number++)
        sum += seen[number].steps_back;
    return sum;
}

/* Looks at all that a move must keep, often enough for one look to come soon after a move. */
static void look(void)
{
    uint64_t now = rdtsc();
    look_at_clocks();
    registers_check();
    if ((int64_t)(now - seen[CPU->number].next_check) < 0)
        return;
    seen[CPU->number].next_check = now + clock_ticks_of_us(CHECK_US);
    kernel_call(CALL_CHECK, 0, 0);
}

/* Early when another processor rings; by up to a period of the timer too late. */
void clock_sleep_until(uint64_t tick)
{
    look();
    while ((int64_t)(tick - clock_ticks()) > 0 && CPU->rung == CPU->rung_taken)
        kernel_call(CALL_SLEEP, CPU->rung_taken, 0);
}
