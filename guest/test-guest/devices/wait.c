/* When a request is lost: a device that has not answered for so long, while the guest ran, never will. A guest
   that stands still, to be moved or to check its memory, does not wait. */
#include "devices.h"

#define LOST_US 5000000
/* The guest looks each millisecond; what is more than this between two looks does not count. */
#define LOOK_US 50000

uint64_t wait_passed(uint64_t *last)
{
    uint64_t now = clock_ticks(), passed = now - *last, most = clock_ticks_of_us(LOOK_US);
    *last = now;
    return passed < most ? passed : most;
}

bool wait_on(struct wait *wait, uint64_t passed)
{
    if (!wait->busy || wait->lost)
        return false;
    wait->waited += passed;
    wait->lost = wait->waited > clock_ticks_of_us(LOST_US);
    return wait->lost;
}
