/* What the device tree says. */
#ifndef BOARD_H
#define BOARD_H
#include <stdbool.h>
#include <stdint.h>

struct board {
    uint64_t ram_base, ram_bytes;
    uint64_t tree, tree_bytes;
    uint64_t timebase_hz;
    unsigned harts;
    char bootargs[512];
};
bool board_read(const void *tree, struct board *out);
/* The decimal value of `name=` in the boot arguments, with or without the prefix `umem.`. */
uint64_t board_argument(const struct board *board, const char *name, uint64_t otherwise);

#endif
