/* Free RAM in one piece of addresses, in 2 MiB pages, whatever lies between its parts: devices below 4 GiB are a
   hole in RAM. What does not fill a 2 MiB page at an end of a part stays unused, and so does what lies below the
   image. */
#include "machine.h"

#define MIB2 (2ul << 20)
#define POOL (512ul << 30) /* the second entry of the root table */
#define TABLES 64          /* of 1 GiB each */
/* Present, writable, user, accessed, dirty; large. */
#define TABLE 0x27ul
#define PAGE_2M 0xe7ul

extern uint64_t pool_pdpt[512];
static uint64_t tables[TABLES][512] __attribute__((aligned(4096))) UNSET;
static uint64_t pages;

#define PARTS 16
static struct {
    uint64_t start, end;
} parts[PARTS];
static unsigned part_count;

void memory_add(uint64_t start, uint64_t end)
{
    extern char image_end[];
    start = (start + MIB2 - 1) & ~(MIB2 - 1);
    end &= ~(MIB2 - 1);
    if (start < (uint64_t)(uintptr_t)image_end || start >= end || part_count == PARTS)
        return;
    parts[part_count].start = start;
    parts[part_count++].end = end;
    for (; start < end && pages < TABLES * 512ul; start += MIB2, pages++) {
        uint64_t table = pages / 512, slot = pages % 512;
        if (slot == 0) {
            for (unsigned i = 0; i < 512; i++)
                tables[table][i] = 0;
            pool_pdpt[table] = (uint64_t)(uintptr_t)tables[table] | TABLE;
        }
        tables[table][slot] = start | PAGE_2M;
    }
}

uint64_t memory_start(void)
{
    return POOL;
}

uint64_t memory_end(void)
{
    return POOL + pages * MIB2;
}

void memory_forget(uint64_t start, uint64_t bytes)
{
    for (unsigned i = 0; i < part_count; i++)
        for (uint64_t at = start; at < start + bytes; at++)
            if (at >= parts[i].start && at < parts[i].end)
                *(volatile uint8_t *)(uintptr_t)at = 0;
}
