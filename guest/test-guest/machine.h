/* The machine under the bare-metal guest. */
#ifndef MACHINE_H
#define MACHINE_H
#include <stdint.h>

/* sbi.c: the calls to the machine below us. */
struct sbi_result {
    long error, value;
};
struct sbi_result sbi_call(long extension, long function, uint64_t a, uint64_t b, uint64_t c);
void sbi_set_timer(uint64_t when);

/* console.c */
void console_open(void);

/* clock.c */
void clock_open(uint64_t timebase_hz);

/* mmu.c: turns Sv39 on, identity-mapped up to the end of RAM. */
void mmu_open(uint64_t ram_end);

#endif
