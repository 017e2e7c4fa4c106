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

/* clock.c: for the boot hart, and for each other hart. */
void clock_open(uint64_t timebase_hz);
void clock_open_hart(void);

/* mmu.c: turns Sv39 on, identity-mapped up to the end of RAM; one page more can be mapped anywhere. */
void mmu_open(uint64_t ram_end);
uint64_t mmu_satp(void);
#define FLOATING_PAGE (255ul << 30)
void mmu_float(const void *page);

/* harts.c: starts harts. They begin with `body` and their numbers from 1 on. */
void harts_open(uint64_t boot_hart, unsigned harts);
void harts_start(unsigned count, void (*body)(unsigned number));
/* The SBI's number of a hart of ours. */
uint64_t hart_id(unsigned number);

/* litmus.c: what harts may see of each other's stores. */
void litmus(unsigned harts, uint64_t runs);

#endif
