#include "guest.h"
#include "machine.h"
#include "shared.h"

#define SSIP (1ul << 1)
#define STIP (1ul << 5)

/* Both end a wfi; with sstatus.SIE clear neither traps. */
void clock_open_hart(void)
{
    __asm__ volatile("csrw sie, %0" ::"r"(STIP | SSIP));
}

void clock_open(uint64_t timebase_hz)
{
    ticks_open(timebase_hz);
    clock_open_hart();
}

uint64_t clock_ticks(void)
{
    uint64_t now;
    __asm__ volatile("csrr %0, time" : "=r"(now));
    return now;
}

/* Early when another hart rings. */
void clock_sleep_until(uint64_t tick)
{
    if ((int64_t)(tick - clock_ticks()) <= 0)
        return;
    sbi_set_timer(tick);
    while ((int64_t)(tick - clock_ticks()) > 0) {
        uint64_t pending;
        __asm__ volatile("csrr %0, sip" : "=r"(pending));
        if (pending & SSIP)
            return;
        __asm__ volatile("wfi" ::: "memory");
    }
}
