#include "guest.h"
#include "machine.h"

#define SBI_BASE 0x10l
#define SBI_DBCN 0x4442434El

/* The 16550 of the board, one byte a register. */
#define UART ((volatile uint8_t *)0x10000000)
#define UART_DATA 0
#define UART_IER 1
#define UART_FCR 2
#define UART_LCR 3
#define UART_LSR 5
#define LSR_DATA_READY 0x01
#define LSR_THR_EMPTY 0x20

static char line[512];
static size_t line_bytes;
static bool debug_console;

void console_open(void)
{
    debug_console = sbi_call(SBI_BASE, 3, SBI_DBCN, 0, 0).value != 0;
    UART[UART_IER] = 0;
    UART[UART_LCR] = 3;
    UART[UART_FCR] = 1;
}

int console_poll(void)
{
    return UART[UART_LSR] & LSR_DATA_READY ? UART[UART_DATA] : -1;
}

static void put(char byte)
{
    if (line_bytes < sizeof line)
        line[line_bytes++] = byte;
}

void line_text(const char *text)
{
    while (*text)
        put(*text++);
}

void line_number(uint64_t number)
{
    char digits[20];
    size_t count = 0;
    do
        digits[count++] = (char)('0' + number % 10);
    while ((number /= 10) != 0);
    while (count)
        put(digits[--count]);
}

void line_hex(uint64_t number)
{
    line_text("0x");
    for (int shift = 60; shift >= 0; shift -= 4)
        put("0123456789abcdef"[(number >> shift) & 15]);
}

void line_end(void)
{
    if (line_bytes == sizeof line)
        line_bytes--;
    put('\n');
    size_t sent = 0;
    while (debug_console && sent < line_bytes) {
        /* The call may take a part of the line; an error sends the rest through the UART. */
        struct sbi_result got =
            sbi_call(SBI_DBCN, 0, line_bytes - sent, (uint64_t)(uintptr_t)line + sent, 0);
        if (got.error != 0)
            break;
        sent += (uint64_t)got.value;
    }
    for (; sent < line_bytes; sent++) {
        while (!(UART[UART_LSR] & LSR_THR_EMPTY))
            ;
        UART[UART_DATA] = (uint8_t)line[sent];
    }
    line_bytes = 0;
}
