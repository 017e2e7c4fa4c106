/* What the parts of our guests share. */
#ifndef GUEST_H
#define GUEST_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PAGE 4096ul

/* What a guest is asked to do. */
struct settings {
    uint64_t pool_start, pool_end; /* addresses of the memory it owns, whole pages */
    uint64_t fill_pages, seed;
    uint64_t rate;    /* random page writes a second, of all workers together */
    uint64_t beat_us; /* between heartbeats */
    unsigned workers; /* CPUs or threads that write, 1 to MAX_WORKERS */
};
void run_guest(const struct settings *settings);
/* The life of a worker other than 0, which is run_guest itself. Does not return. */
void run_worker(unsigned worker);

#define MAX_WORKERS 32

/* What the platform below gives: test-guest/ on bare metal, linux/platform.c under Linux. */

/* The next byte typed by the host, or -1. */
int console_poll(void);
/* A line is collected piece by piece and goes out whole. */
void line_text(const char *text);
void line_number(uint64_t number);
void line_hex(uint64_t number);
void line_end(void);

uint64_t clock_hz(void);
uint64_t clock_ticks(void);
uint64_t clock_us(uint64_t ticks);
uint64_t clock_ticks_of_us(uint64_t us);
/* May return early. */
void clock_sleep_until(uint64_t tick);

/* Has workers 1 to count - 1 call run_worker. */
void workers_start(unsigned count);
/* What a worker does of the platform's own between its writes. */
void worker_aside(unsigned worker);
/* Whether all went well with that, and what to say of it in a verdict's line. */
bool aside_good(void);
/* Alters something of it without recording that, so that it must be found; which is what the byte says, `r` or `k`. */
void aside_damage(int byte);
/* Forgets what was measured until now. */
void aside_mark(void);
/* Longest time between timer interrupts since then, in microseconds; 0: there is no such timer. */
uint64_t aside_gap_us(void);
void aside_fields(void);

/* Does not return where the machine can be turned off. */
void power_off(void);

/* pool.c: the pages that the guest owns. */
struct verdict {
    uint64_t checked, bad, first_bad;
    bool ok;
};
void pool_open(uint64_t start, uint64_t end, uint64_t fill_pages, uint64_t seed, unsigned workers);
uint64_t pool_pages(void);
uint64_t pool_filled(void);
void pool_fill(void);
/* Each worker has pages of its own. */
void pool_write_random(unsigned worker);
uint64_t pool_writes(void);
void pool_damage(void);
void pool_verify(struct verdict *out);

/* histogram.c: log2-linear, eight steps an octave. */
struct histogram {
    uint64_t count, max;
    uint32_t bucket[512];
};
void histogram_reset(struct histogram *h);
void histogram_add(struct histogram *h, uint64_t value);
void histogram_merge(struct histogram *into, const struct histogram *from);
/* The upper bound of the bucket that holds the value at `permille` of the way up. */
uint64_t histogram_at(const struct histogram *h, uint64_t permille);

#endif
