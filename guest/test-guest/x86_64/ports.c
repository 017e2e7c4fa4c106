/* Ports, and the console behind them: what is typed comes from the serial port; lines go there as well, or to
   the debug console where there is one, which takes less time. */
#include "machine.h"
#include "shared.h"

/* The 16550 at COM1. */
#define COM1 0x3f8
#define UART_DATA COM1
#define UART_IER (COM1 + 1)
#define UART_FCR (COM1 + 2)
#define UART_LCR (COM1 + 3)
#define UART_LSR (COM1 + 5)
#define LSR_DATA_READY 0x01
#define LSR_THR_EMPTY 0x20
#define UART_FIFO 16
/* As Bochs has it, and QEMU's isa-debugcon: reads as its own number. */
#define DEBUG_CONSOLE 0xe9
#define POLL_US 2000

static bool debug_console;

uint8_t in8(uint16_t port)
{
    uint8_t value;
    if (!at_cpl0())
        return (uint8_t)kernel_call(CALL_IN8, port, 0);
    __asm__ volatile("in %1, %0" : "=a"(value) : "d"(port));
    return value;
}

void out8(uint16_t port, uint8_t value)
{
    if (at_cpl0())
        __asm__ volatile("out %0, %1" ::"a"(value), "d"(port));
    else
        kernel_call(CALL_OUT8, port, value);
}

void out16(uint16_t port, uint16_t value)
{
    if (at_cpl0())
        __asm__ volatile("out %0, %1" ::"a"(value), "d"(port));
    else
        kernel_call(CALL_OUT16, port, value);
}

void console_open(void)
{
    debug_console = in8(DEBUG_CONSOLE) == DEBUG_CONSOLE;
    out8(UART_IER, 0);
    out8(UART_LCR, 3);
    out8(UART_FCR, 1);
    /* No interrupt comes from either of the old controllers. */
    out8(0x21, 0xff);
    out8(0xa1, 0xff);
}

/* Each look leaves the guest, so there are not too many. */
int console_poll(void)
{
    static uint64_t next;
    uint64_t now = clock_ticks();
    if ((int64_t)(now - next) < 0)
        return -1;
    if (in8(UART_LSR) & LSR_DATA_READY)
        return in8(UART_DATA);
    next = now + clock_ticks_of_us(POLL_US);
    return -1;
}

static void out_string(uint16_t port, const char *bytes, size_t count)
{
    __asm__ volatile("rep outsb" : "+S"(bytes), "+c"(count) : "d"(port) : "memory");
}

void console_write(const char *bytes, size_t count)
{
    if (!at_cpl0()) {
        kernel_call(CALL_WRITE, (uint64_t)(uintptr_t)bytes, count);
        return;
    }
    if (debug_console) {
        out_string(DEBUG_CONSOLE, bytes, count);
        return;
    }
    while (count) {
        size_t now = count < UART_FIFO ? count : UART_FIFO;
        while (!(in8(UART_LSR) & LSR_THR_EMPTY))
            ;
        out_string(UART_DATA, bytes, now);
        bytes += now;
        count -= now;
    }
}
