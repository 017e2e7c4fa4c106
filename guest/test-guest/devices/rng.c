/* Virtio's source of random numbers (virtio 1.2, 5.4): asks for some now and then, and looks that they come and
   that they are others than before. */
#include "devices.h"

#define WORDS 8u
#define PACE_US 50000
#define SLOT 0u

static struct virtio device;
static struct wait wait;
static uint64_t bytes[WORDS] __attribute__((aligned(64)));
static uint64_t before[WORDS];
static uint64_t requests, bad, lost, last_look, next;

const char *rng_open(uint64_t address, unsigned line)
{
    last_look = next = clock_ticks();
    return virtio_open(&device, VIRTIO_RNG, address, line, 0);
}

static void finish(uint32_t come)
{
    bool old = true;
    /* A device may give less than was asked for, but something (5.4.6.2). */
    unsigned words = come / 8;
    for (unsigned i = 0; i < words && i < WORDS; i++)
        old &= bytes[i] == before[i] || bytes[i] == 0;
    if (come == 0 || come > sizeof bytes || (words != 0 && old))
        bad++;
    for (unsigned i = 0; i < WORDS; i++)
        before[i] = bytes[i];
    requests++;
    wait = (struct wait){0};
}

static void collect(void)
{
    uint32_t come;
    bool late = wait_on(&wait, wait_passed(&last_look));
    lost += late;
    if ((virtio_rung(&device) || late) && virtio_take(&device, &come) >= 0)
        finish(come);
}

void rng_work(void)
{
    collect();
    if (wait.busy || (int64_t)(clock_ticks() - next) < 0)
        return;
    next = clock_ticks() + clock_ticks_of_us(PACE_US);
    for (unsigned i = 0; i < WORDS; i++)
        bytes[i] = 0;
    struct part all = {bytes, sizeof bytes, true};
    wait.busy = true;
    virtio_put(&device, SLOT, &all, 1);
    virtio_notify(&device);
}

bool rng_good(void)
{
    while (wait.busy && !wait.lost) {
        collect();
        clock_sleep_until(clock_ticks() + clock_ticks_of_us(1000));
    }
    if (!virtio_intact(&device))
        bad++;
    return bad == 0 && lost == 0;
}

void rng_fields(void)
{
    line_text(" rng_requests=");
    line_number(requests);
    line_text(" rng_bad=");
    line_number(bad);
    line_text(" rng_lost=");
    line_number(lost);
}
