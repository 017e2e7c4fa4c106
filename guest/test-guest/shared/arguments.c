#include "shared.h"

uint64_t argument(const char *arguments, const char *name, uint64_t otherwise)
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
        if (*want == 0 && *word == '=') {
            uint64_t value = 0;
            for (word++; *word >= '0' && *word <= '9'; word++)
                value = value * 10 + (uint64_t)(*word - '0');
            return value;
        }
        while (*at && *at != ' ')
            at++;
    }
    return otherwise;
}
