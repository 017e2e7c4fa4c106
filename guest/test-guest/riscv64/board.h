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

#endif
