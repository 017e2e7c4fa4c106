/* Collects a line and hands it on whole. */
#include "guest.h"
#include "shared.h"

static char line[1024];
static size_t line_bytes;

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
    console_write(line, line_bytes);
    line_bytes = 0;
}
