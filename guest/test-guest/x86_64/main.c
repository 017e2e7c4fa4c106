/* The bare-metal test guest at CPL3: sets the machine up and hands it to the common work. */
#include "machine.h"
#include "devices.h"
#include "shared.h"

static void end_line(const char *why)
{
    line_text(why);
    line_end();
    power_off();
}

static void give_up(const char *why)
{
    line_text("umem-guest ");
    end_line(why);
}

/* Firmware leaves things in memory that it calls free. */
static void wipe(uint64_t start, uint64_t end)
{
    for (uint64_t *word = (uint64_t *)start; word < (uint64_t *)end; word++)
        if (*word != 0)
            *word = 0;
}

void user_main(uint64_t processor)
{
    static struct board board;
    registers_set();
    if (processor != 0)
        run_worker((unsigned)processor);
    console_open();
    if (!board_read(&board))
        give_up("no usable start info");
    clock_open();
    uint64_t wanted = argument(board.arguments, "processors", board.processors);
    unsigned workers = wanted < 1 ? 1 : wanted < MAX_WORKERS ? (unsigned)wanted : MAX_WORKERS;
    if (argument(board.arguments, "wipe", 0) != 0)
        wipe(memory_start(), memory_end());
    struct settings settings = {
        .pool_start = memory_start(),
        .pool_end = memory_end(),
        .fill_pages = board.ram_bytes / PAGE * argument(board.arguments, "fill", 70) / 100,
        .seed = argument(board.arguments, "seed", 1),
        .rate = argument(board.arguments, "rate", 2000),
        .beat_us = argument(board.arguments, "beat_us", 1000),
        .workers = workers,
    };
    const char *wrong = devices_open(board.arguments, settings.seed);
    if (wrong)
        end_line(wrong);
    run_guest(&settings);
}

/* Calls to these are the compiler's own. */
void *memset(void *to, int byte, size_t count)
{
    void *at = to;
    __asm__ volatile("rep stosb" : "+D"(at), "+c"(count) : "a"(byte) : "memory");
    return to;
}

void *memcpy(void *to, const void *from, size_t count)
{
    void *at = to;
    __asm__ volatile("rep movsb" : "+D"(at), "+S"(from), "+c"(count)::"memory");
    return to;
}
