/* The bare-metal test guest: sets the machine up and hands it to the common work. */
#include "board.h"
#include "guest.h"
#include "machine.h"
#include "shared.h"

extern char image_end[];

void guest_trap(uint64_t cause, uint64_t pc, uint64_t value)
{
    line_text("umem-guest trap scause=");
    line_hex(cause);
    line_text(" sepc=");
    line_hex(pc);
    line_text(" stval=");
    line_hex(value);
    line_end();
    power_off();
}

static void forget_tree(const struct board *board)
{
    /* The tree lies in memory that is ours from now on, and untouched pages must read as zero. */
    volatile uint8_t *byte = (volatile uint8_t *)(uintptr_t)board->tree;
    for (uint64_t i = 0; i < board->tree_bytes; i++)
        byte[i] = 0;
}

void guest_main(uint64_t hart, const void *tree)
{
    static struct board board;
    console_open();
    if (!board_read(tree, &board)) {
        line_text("umem-guest no usable device tree");
        line_end();
        power_off();
        return;
    }
    clock_open(board.timebase_hz);
    harts_open(hart, board.harts);
    uint64_t end = (board.ram_base + board.ram_bytes) & ~(PAGE - 1);
    mmu_open(end);
    forget_tree(&board);
    unsigned workers = board.harts < MAX_WORKERS ? board.harts : MAX_WORKERS;
    uint64_t litmus_runs = argument(board.bootargs, "litmus", 0);
    if (litmus_runs != 0) {
        litmus(workers, litmus_runs);
        power_off();
    }
    struct settings settings = {
        .pool_start = (uint64_t)(uintptr_t)image_end,
        .pool_end = end,
        .fill_pages = board.ram_bytes / PAGE * argument(board.bootargs, "fill", 70) / 100,
        .seed = argument(board.bootargs, "seed", 1),
        .rate = argument(board.bootargs, "rate", 2000),
        .beat_us = argument(board.bootargs, "beat_us", 1000),
        .workers = workers,
    };
    run_guest(&settings);
}
