/* Ticks of the machine's clock and microseconds. */
#include "guest.h"
#include "shared.h"

static uint64_t hz;

void ticks_open(uint64_t with_hz)
{
    hz = with_hz;
}

uint64_t clock_hz(void)
{
    return hz;
}

uint64_t clock_us(uint64_t ticks)
{
    return ticks / hz * 1000000 + ticks % hz * 1000000 / hz;
}

uint64_t clock_ticks_of_us(uint64_t us)
{
    return us / 1000000 * hz + us % 1000000 * hz / 1000000;
}
