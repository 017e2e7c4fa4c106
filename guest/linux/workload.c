/* The workload under Linux: the same work as the bare-metal guest's, in one mapping of a process.
   Usage: workload [name=value ...], as on the kernel command line (prefix `umem.` allowed). */
#define _GNU_SOURCE
#include "guest.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <termios.h>
#include <unistd.h>

/* Left untouched behind the filled pages, so that zero pages are checked as well. */
#define UNTOUCHED_MIB 16

static uint64_t argument(int count, char **words, const char *name, uint64_t otherwise)
{
    for (int i = 1; i < count; i++) {
        const char *word = words[i];
        if (strncmp(word, "umem.", 5) == 0)
            word += 5;
        size_t bytes = strlen(name);
        if (strncmp(word, name, bytes) == 0 && word[bytes] == '=')
            return strtoull(word + bytes + 1, NULL, 10);
    }
    return otherwise;
}

/* Half of what /proc/meminfo calls available. */
static uint64_t default_fill_mib(void)
{
    char text[256];
    unsigned long long kib = 0;
    FILE *file = fopen("/proc/meminfo", "r");
    while (file && fgets(text, sizeof text, file) && sscanf(text, "MemAvailable: %llu", &kib) != 1)
        ;
    if (file)
        fclose(file);
    return kib / 2048;
}

/* The host's bytes come unaltered and at once; a read without any returns. */
static void raw_console(void)
{
    struct termios mode;
    if (tcgetattr(STDIN_FILENO, &mode) != 0)
        return;
    cfmakeraw(&mode);
    mode.c_cc[VMIN] = 0;
    mode.c_cc[VTIME] = 0;
    tcsetattr(STDIN_FILENO, TCSANOW, &mode);
}

int main(int count, char **words)
{
    uint64_t fill_pages = argument(count, words, "fill_mib", default_fill_mib()) * 1048576 / PAGE;
    /* The generation table takes four bytes a page, in front. */
    uint64_t pool_pages = fill_pages + UNTOUCHED_MIB * 1048576ul / PAGE;
    uint64_t bytes = (pool_pages + pool_pages / 1000 + 2) * PAGE;
    void *pool = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                      -1, 0);
    if (pool == MAP_FAILED) {
        printf("umem-guest cannot map %llu MiB\n", (unsigned long long)(bytes >> 20));
        return 1;
    }
    raw_console();
    uint64_t threads = argument(count, words, "threads", 1);
    struct settings settings = {
        .pool_start = (uint64_t)(uintptr_t)pool,
        .pool_end = (uint64_t)(uintptr_t)pool + bytes,
        .fill_pages = fill_pages,
        .seed = argument(count, words, "seed", 1),
        .rate = argument(count, words, "rate", 2000),
        .beat_us = argument(count, words, "beat_us", 10000),
        .workers = threads < 1 ? 1 : threads < MAX_WORKERS ? (unsigned)threads : MAX_WORKERS,
    };
    run_guest(&settings);
}
