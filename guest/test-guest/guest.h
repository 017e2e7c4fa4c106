/* What the parts of the test guest share. */
#ifndef GUEST_H
#define GUEST_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PAGE 4096ul

/* board.c: what the device tree says. */
struct board {
    uint64_t ram_base, ram_bytes;
    uint64_t tree, tree_bytes;
    uint64_t timebase_hz;
    char bootargs[512];
};
bool board_read(const void *tree, struct board *out);
/* The decimal value of `name=` in the boot arguments, with or without the prefix `umem.`. */
uint64_t board_argument(const struct board *board, const char *name, uint64_t otherwise);

/* sbi.c: the calls to the machine below us. */
struct sbi_result {
    long error, value;
};
struct sbi_result sbi_call(long extension, long function, uint64_t a, uint64_t b, uint64_t c);
void sbi_set_timer(uint64_t when);
void sbi_power_off(void);

/* console.c */
void console_open(void);
/* The next byte typed by the host, or -1. */
int console_poll(void);
/* A line is collected piece by piece and goes out whole. */
void line_text(const char *text);
void line_number(uint64_t number);
void line_hex(uint64_t number);
void line_end(void);

/* clock.c */
void clock_open(uint64_t timebase_hz);
uint64_t clock_ticks(void);
uint64_t clock_us(uint64_t ticks);
uint64_t clock_ticks_of_us(uint64_t us);
/* Sleeps until the tick; interrupts stay disabled, wfi returns when one is pending. */
void clock_sleep_until(uint64_t tick);

/* mmu.c */
void mmu_open(uint64_t ram_end);

/* pool.c: the pages that the guest owns. */
struct verdict {
    uint64_t checked, bad, first_bad;
    bool ok;
};
void pool_open(uint64_t start, uint64_t end, uint64_t fill_pages, uint64_t seed);
uint64_t pool_pages(void);
uint64_t pool_filled(void);
void pool_fill(void);
void pool_write_random(void);
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
/* The upper bound of the bucket that holds the value at `permille` of the way up. */
uint64_t histogram_at(const struct histogram *h, uint64_t permille);

#endif
