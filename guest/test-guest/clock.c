#include "guest.h"
#include "machine.h"

static uint64_t hz;

void clock_open(uint64_t timebase_hz)
{
    hz = timebase_hz;
    __asm__ volatile("csrs sie, %0" ::"r"(1ul << 5)); /* STIE: lets the timer end a wfi */
}

uint64_t clock_hz(void)
{
    return hz;
}

uint64_t clock_ticks(void)
{
    uint64_t now;
    __asm__ volatile("csrr %0, time" : "=r"(now));
    return now;
}

uint64_t clock_us(uint64_t ticks)
{
    return ticks / hz * 1000000 + ticks % hz * 1000000 / hz;
}

uint64_t clock_ticks_of_us(uint64_t us)
{
    return us / 1000000 * hz + us % 1000000 * hz / 1000000;
}

/* Interrupts stay disabled: a pending one still ends wfi. */
void clock_sleep_until(uint64_t tick)
{
    if ((int64_t)(tick - clock_ticks()) <= 0)
        return;
    sbi_set_timer(tick);
    while ((int64_t)(tick - clock_ticks()) > 0)
        __asm__ volatile("wfi" ::: "memory");
}
