/* Reads the flattened device tree (Devicetree Specification 0.4, chapter 5). */
#include "board.h"
#include <stddef.h>

#define MAGIC 0xd00dfeedu
#define BEGIN_NODE 1u
#define END_NODE 2u
#define PROP 3u
#define NOP 4u
#define TREE_LIMIT (2ul << 20)

static uint32_t be32(const uint8_t *at)
{
    return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

static uint64_t be64(const uint8_t *at)
{
    return (uint64_t)be32(at) << 32 | be32(at + 4);
}

static bool same(const char *a, const char *b)
{
    while (*a && *a == *b)
        a++, b++;
    return *a == *b;
}

/* Does the text begin with the prefix, which an end of text or `@` follows? */
static bool node_named(const char *node, const char *name)
{
    while (*name && *node == *name)
        node++, name++;
    return *name == 0 && (*node == 0 || *node == '@');
}

enum place { ELSEWHERE, MEMORY, CHOSEN, CPUS };

static enum place place_of(const char *node)
{
    if (node_named(node, "memory"))
        return MEMORY;
    if (node_named(node, "chosen"))
        return CHOSEN;
    return node_named(node, "cpus") ? CPUS : ELSEWHERE;
}

static void property(struct board *out, enum place place, const char *name, const uint8_t *value,
                     uint32_t bytes)
{
    if (place == MEMORY && same(name, "reg") && bytes >= 16) {
        out->ram_base = be64(value);
        out->ram_bytes = be64(value + 8);
    } else if (place == CPUS && same(name, "timebase-frequency") && bytes >= 4) {
        out->timebase_hz = be32(value);
    } else if (place == CHOSEN && same(name, "bootargs")) {
        for (uint32_t i = 0; i < bytes && i + 1 < sizeof out->bootargs; i++)
            out->bootargs[i] = (char)value[i];
    }
}

bool board_read(const void *tree, struct board *out)
{
    const uint8_t *base = tree;
    if (base == NULL || be32(base) != MAGIC)
        return false;
    uint32_t total = be32(base + 4), at = be32(base + 8), names = be32(base + 12);
    if (total > TREE_LIMIT || at > total || names > total)
        return false;
    out->tree = (uint64_t)(uintptr_t)tree;
    out->tree_bytes = total;
    int depth = -1;
    enum place place = ELSEWHERE;
    while (at + 4 <= total) {
        uint32_t token = be32(base + at);
        at += 4;
        if (token == BEGIN_NODE) {
            const char *name = (const char *)base + at;
            while (at < total && base[at])
                at++;
            at = (at + 4) & ~3u;
            if (++depth == 1)
                place = place_of(name);
            else if (depth == 2 && place == CPUS && node_named(name, "cpu"))
                out->harts++;
        } else if (token == END_NODE) {
            if (depth-- == 1)
                place = ELSEWHERE;
        } else if (token == PROP) {
            if (at + 8 > total)
                return false;
            uint32_t bytes = be32(base + at), name = be32(base + at + 4);
            at += 8;
            if (bytes > total - at || name > total - names)
                return false;
            if (depth == 1)
                property(out, place, (const char *)base + names + name, base + at, bytes);
            at = (at + bytes + 3) & ~3u;
        } else if (token != NOP) {
            break;
        }
    }
    return out->ram_bytes != 0 && out->timebase_hz != 0;
}
