/* What the processors do to each other while they write, and what they must keep across a move. */
#include "machine.h"
#include "devices.h"
#include "shared.h"

#define TRAMPOLINE 0x8000ul /* below 1 MiB, and not needed afterwards */
#define START_US 10000000
#define SIPI_US 10000
#define RING_US 2000000

extern char trampoline[], trampoline_end[];
extern volatile uint32_t processors_met;

static unsigned workers;

void ring(unsigned worker)
{
    CPU->rings_sent++;
    kernel_call(CALL_RING, worker, 0);
}

bool take_ring(void)
{
    uint64_t rung = CPU->rung;
    bool any = rung != CPU->rung_taken;
    CPU->rung_taken = rung;
    return any;
}

/* The others start all at once, and take numbers as they come. */
void workers_start(unsigned count)
{
    workers = count;
    tokens_open(count);
    if (count == 1)
        return;
    for (uint64_t i = 0; trampoline + i < trampoline_end; i++)
        ((volatile char *)TRAMPOLINE)[i] = trampoline[i];
    uint64_t until = clock_ticks() + clock_ticks_of_us(START_US);
    kernel_call(CALL_INIT, 0, 0);
    clock_sleep_until(clock_ticks() + clock_ticks_of_us(SIPI_US));
    kernel_call(CALL_START, TRAMPOLINE / PAGE, 0);
    while (processors_met < count && (int64_t)(until - clock_ticks()) > 0)
        clock_sleep_until(clock_ticks() + clock_ticks_of_us(SIPI_US));
    if (processors_met < count) {
        line_text("umem-guest only ");
        line_number(processors_met);
        line_text(" processors of ");
        line_number(count);
        line_text(" have started");
        line_end();
        power_off();
    }
}

void worker_aside(unsigned worker)
{
    if (workers > 1)
        tokens_pass(worker);
    if (worker == 0)
        devices_work();
}

void aside_mark(void)
{
    for (unsigned worker = 0; worker < workers; worker++) {
        cpus[worker].tick_gap = 0;
        cpus[worker].timer_checks = 0;
        cpus[worker].timer_off = 0;
    }
}

uint64_t aside_gap_us(void)
{
    uint64_t gap = 0;
    for (unsigned worker = 0; worker < workers; worker++)
        gap = cpus[worker].tick_gap > gap ? cpus[worker].tick_gap : gap;
    return clock_us(gap);
}

void aside_damage(int byte)
{
    if (byte == 'k') {
        devices_damage();
        return;
    }
    registers_damage();
    kernel_call(CALL_DAMAGE, 0, 0);
}

/* Every processor looks once more at what it holds: the others do while they are made to stand still. */
static void look_again(void)
{
    uint64_t before[MAX_WORKERS];
    for (unsigned worker = 1; worker < workers; worker++)
        before[worker] = *(volatile uint64_t *)&cpus[worker].state_checks;
    kernel_call(CALL_CHECK, 0, 0);
    registers_check();
    for (unsigned worker = 1; worker < workers; worker++)
        while (*(volatile uint64_t *)&cpus[worker].state_checks == before[worker])
            clock_sleep_until(clock_ticks() + clock_ticks_of_us(SIPI_US));
}

/* Interrupts that were sent and have not come, however late: a processor may wait for the host's. */
static uint64_t rings_lost(void)
{
    uint64_t until = clock_ticks() + clock_ticks_of_us(RING_US), lost;
    do {
        uint64_t sent = 0, come = 0;
        for (unsigned worker = 0; worker < workers; worker++) {
            come += *(volatile uint64_t *)&cpus[worker].rung;
            sent += *(volatile uint64_t *)&cpus[worker].rings_sent;
        }
        lost = sent - come;
    } while (lost != 0 && (int64_t)(until - clock_ticks()) > 0);
    return lost;
}

/* More than one check in eight off the rate: a move in the middle of a sleep puts one off and no more. */
static bool timer_good(void)
{
    for (unsigned worker = 0; worker < workers; worker++)
        if (cpus[worker].timer_off > 1 + cpus[worker].timer_checks / 8)
            return false;
    return true;
}

static void field(const char *name, uint64_t value)
{
    line_text(name);
    line_number(value);
}

bool aside_good(void)
{
    const char *first;
    bool devices = devices_good();
    look_again();
    return devices && state_bad(&first) == 0 && registers_bad(&first) == 0 && timer_good() && rings_lost() == 0 &&
           clock_steps_back() == 0;
}

void aside_fields(void)
{
    uint64_t ticks = 0, checks = 0, off = 0, looks = 0;
    const char *first = "-";
    for (unsigned worker = 0; worker < workers; worker++) {
        const struct cpu *cpu = &cpus[worker];
        ticks += cpu->ticks;
        checks += cpu->timer_checks;
        off += cpu->timer_off;
        looks += cpu->state_checks;
    }
    unsigned bad = state_bad(&first);
    bad += registers_bad(bad == 0 ? &first : &(const char *){0});
    field(" tokens=", tokens_passed());
    field(" rings_lost=", rings_lost());
    field(" ticks=", ticks);
    field(" tick_gap_us=", aside_gap_us());
    field(" timer_checks=", checks);
    field(" timer_off=", off);
    field(" steps_back=", clock_steps_back());
    field(" state_checks=", looks);
    field(" state_bad=", bad);
    line_text(" state_first=");
    line_text(first);
    devices_fields();
}
