/* What the bare-metal guests share beside the work: each gives what the functions marked so need. */
#ifndef SHARED_H
#define SHARED_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* line.c; the machine gives this: */
void console_write(const char *bytes, size_t count);

/* ticks.c */
void ticks_open(uint64_t hz);

/* arguments.c: the decimal value of `name=` in the boot arguments, with or without the prefix `umem.`. */
uint64_t argument(const char *arguments, const char *name, uint64_t otherwise);
/* `name=<hex address>:<decimal interrupt>`; false where it is not given. */
bool argument_place(const char *arguments, const char *name, uint64_t *address, unsigned *line);

/* tokens.c */
void tokens_open(unsigned workers);
void tokens_pass(unsigned worker);
uint64_t tokens_passed(void);
/* The machine gives these: an interrupt for a worker, and whether one has come since the last call. */
void ring(unsigned worker);
bool take_ring(void);

#endif
