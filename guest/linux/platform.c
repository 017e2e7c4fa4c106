/* The common work's clock, console and power under Linux. */
#define _GNU_SOURCE
#include "guest.h"

#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/reboot.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

static char line[512];
static size_t line_bytes;

int console_poll(void)
{
    unsigned char byte;
    /* Standard input may be a pipe, which a read would wait for. */
    struct pollfd input = {.fd = STDIN_FILENO, .events = POLLIN};
    if (poll(&input, 1, 0) != 1)
        return -1;
    return read(STDIN_FILENO, &byte, 1) == 1 ? byte : -1;
}

void line_text(const char *text)
{
    while (*text && line_bytes + 1 < sizeof line)
        line[line_bytes++] = *text++;
}

void line_number(uint64_t number)
{
    char digits[24];
    snprintf(digits, sizeof digits, "%llu", (unsigned long long)number);
    line_text(digits);
}

void line_hex(uint64_t number)
{
    char digits[24];
    snprintf(digits, sizeof digits, "0x%016llx", (unsigned long long)number);
    line_text(digits);
}

void line_end(void)
{
    line[line_bytes++] = '\n';
    for (size_t sent = 0; sent < line_bytes;) {
        ssize_t got = write(STDOUT_FILENO, line + sent, line_bytes - sent);
        if (got <= 0)
            break;
        sent += (size_t)got;
    }
    line_bytes = 0;
}

uint64_t clock_hz(void)
{
    return 1000000000;
}

uint64_t clock_ticks(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

uint64_t clock_us(uint64_t ticks)
{
    return ticks / 1000;
}

uint64_t clock_ticks_of_us(uint64_t us)
{
    return us * 1000;
}

void clock_sleep_until(uint64_t tick)
{
    struct timespec until = {(time_t)(tick / 1000000000), (long)(tick % 1000000000)};
    clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL);
}

void power_off(void)
{
    sync();
    tcdrain(STDOUT_FILENO); /* power-off waits for no terminal: the last words would be lost */
    reboot(RB_POWER_OFF);
    exit(0); /* not root: ending is all that is left */
}

static void *worker_main(void *number)
{
    run_worker((unsigned)(uintptr_t)number);
    return NULL;
}

void workers_start(unsigned count)
{
    for (unsigned worker = 1; worker < count; worker++) {
        pthread_t thread;
        int error = pthread_create(&thread, NULL, worker_main, (void *)(uintptr_t)worker);
        if (error != 0) {
            fprintf(stderr, "umem-guest cannot start thread %u: error %d\n", worker, error);
            power_off();
        }
    }
}

/* What harts do to each other is the kernel's business here. */
void worker_aside(unsigned worker)
{
    (void)worker;
}

bool aside_good(void)
{
    return true;
}

void aside_damage(int byte)
{
    (void)byte;
}

void aside_mark(void)
{
}

uint64_t aside_gap_us(void)
{
    return 0;
}

void aside_fields(void)
{
}
