#include "shared.h"

/* What follows `name=`, or null. */
static const char *value_of(const char *arguments, const char *name)
{
    const char *at = arguments;
    while (*at) {
        while (*at == ' ')
            at++;
        const char *prefix = "umem.", *word = at;
        while (*prefix && *word == *prefix)
            word++, prefix++;
        if (*prefix)
            word = at;
        const char *want = name;
        while (*want && *word == *want)
            word++, want++;
        if (*want == 0 && *word == '=')
            return word + 1;
        while (*at && *at != ' ')
            at++;
    }
    return 0;
}

static uint64_t decimal(const char *at)
{
    uint64_t value = 0;
    for (; *at >= '0' && *at <= '9'; at++)
        value = value * 10 + (uint64_t)(*at - '0');
    return value;
}

uint64_t argument(const char *arguments, const char *name, uint64_t otherwise)
{
    const char *at = value_of(arguments, name);
    return at ? decimal(at) : otherwise;
}

static int hex_digit(char byte)
{
    if (byte >= '0' && byte <= '9')
        return byte - '0';
    byte |= 0x20;
    return byte >= 'a' && byte <= 'f' ? byte - 'a' + 10 : -1;
}

bool argument_place(const char *arguments, const char *name, uint64_t *address, unsigned *line)
{
    const char *at = value_of(arguments, name);
    if (!at)
        return false;
    if (at[0] == '0' && at[1] == 'x')
        at += 2;
    for (*address = 0; hex_digit(*at) >= 0; at++)
        *address = *address << 4 | (uint64_t)hex_digit(*at);
    *line = *at == ':' ? (unsigned)decimal(at + 1) : 0;
    return true;
}
