#include "guest.h"

void histogram_reset(struct histogram *h)
{
    h->count = 0;
    h->max = 0;
    for (size_t i = 0; i < 512; i++)
        h->bucket[i] = 0;
}

void histogram_add(struct histogram *h, uint64_t value)
{
    size_t slot = value;
    if (value >= 8) {
        unsigned octave = 0;
        uint64_t top = value;
        while (top >= 16) {
            top >>= 1;
            octave++;
        }
        slot = 8 * octave + top;
    }
    h->bucket[slot < 512 ? slot : 511]++;
    h->count++;
    if (value > h->max)
        h->max = value;
}

void histogram_merge(struct histogram *into, const struct histogram *from)
{
    for (size_t i = 0; i < 512; i++)
        into->bucket[i] += from->bucket[i];
    into->count += from->count;
    if (from->max > into->max)
        into->max = from->max;
}

uint64_t histogram_at(const struct histogram *h, uint64_t permille)
{
    uint64_t wanted = (h->count * permille + 999) / 1000, seen = 0;
    for (size_t i = 0; i < 512; i++) {
        seen += h->bucket[i];
        if (seen >= wanted && seen > 0) {
            uint64_t upper = i < 16 ? i : ((8 + i % 8 + 1) << (i / 8 - 1)) - 1;
            return upper < h->max ? upper : h->max;
        }
    }
    return h->max;
}
