/* Registers of the x87 FPU, SSE, AVX and AVX-512, and what CPL3 sees of others. Nothing that is compiled here
   uses them (-mgeneral-regs-only), so they keep what is loaded at the start for as long as the guest lives, and
   XSAVE tells what they hold without altering them (Intel SDM volume 1, "Managing State Using the XSAVE
   Feature Set"). */
#include "machine.h"

#define AREA 4096
#define LEGACY 512
#define CONTROLS_FCW 0
#define CONTROLS_TAGS 4
#define CONTROLS_MXCSR 24
#define ST0 32
#define XMM0 160
#define XMM_END 416
#define XSTATE_BV 512
#define CPUID_OSXSAVE (1u << 27)
#define CPUID_RDTSCP (1u << 27)

enum part { X87, SSE, AVX, OPMASK = 5, ZMM_UPPER, ZMM_HIGH, PARTS };
static const char *const names[REGISTER_ITEMS] = {
    "x87", "mxcsr", "xmm", "avx", "avx512", "gs_word", "tsc_aux",
};
enum item { ITEM_X87, ITEM_MXCSR, ITEM_XMM, ITEM_AVX, ITEM_AVX512, ITEM_GS, ITEM_AUX };

static struct {
    uint32_t at, bytes;
} places[PARTS];
static uint32_t mask;
static bool has_rdtscp;

static uint8_t loaded[MAX_WORKERS][AREA] __attribute__((aligned(64))) UNSET;
static uint8_t saved[MAX_WORKERS][AREA] __attribute__((aligned(64))) UNSET;
static uint64_t tsc_aux[MAX_WORKERS];
static bool bad[MAX_WORKERS][REGISTER_ITEMS];

void registers_open(void)
{
    has_rdtscp = cpuid(0x80000001, 0).d & CPUID_RDTSCP;
}

/* What CPL3 has and may use: asked there, for a KVM without hardware help answers CPL0 by itself, and leaves
   CPL3 to the processor, whose state it keeps all the same. */
static void find(void)
{
    uint32_t low, high;
    if (!(cpuid(1, 0).c & CPUID_OSXSAVE))
        return;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    mask = cpuid(0xd, 0).a & low;
    for (unsigned part = AVX; part < PARTS; part++) {
        struct cpuid place = {0};
        if (mask & 1u << part)
            place = cpuid(0xd, part);
        places[part].at = place.b;
        places[part].bytes = place.a;
        if (place.a + place.b > AREA)
            mask &= ~(1u << part);
    }
}

static uint64_t next(uint64_t x)
{
    x ^= x << 13;
    x ^= x >> 7;
    return x ^ x << 17;
}

static void save(uint8_t *area)
{
    if (mask)
        __asm__ volatile("xsave64 (%0)" ::"r"(area), "a"(mask), "d"(0) : "memory");
    else
        __asm__ volatile("fxsave64 (%0)" ::"r"(area) : "memory");
}

static void load(const uint8_t *area)
{
    if (mask)
        __asm__ volatile("xrstor64 (%0)" ::"r"(area), "a"(mask), "d"(0) : "memory");
    else
        __asm__ volatile("fxrstor64 (%0)" ::"r"(area) : "memory");
}

static void set(uint8_t *area, uint32_t at, uint64_t value, unsigned bytes)
{
    for (unsigned i = 0; i < bytes; i++)
        area[at + i] = (uint8_t)(value >> 8 * i);
}

static uint64_t rdtscp_aux(void)
{
    uint32_t low, high, aux;
    __asm__ volatile("rdtscp" : "=a"(low), "=d"(high), "=c"(aux));
    return aux;
}

void registers_set(void)
{
    uint8_t *area = loaded[CPU->number];
    uint64_t x = 0x6c0ffee0 + CPU->number;
    if (CPU->number == 0)
        find();
    for (unsigned i = 0; i < AREA; i++)
        area[i] = 0;
    save(area); /* what is reserved stays as it is */
    set(area, CONTROLS_FCW, 0x067f, 2);      /* round down, 53 bits */
    set(area, CONTROLS_TAGS, 0xff, 1);       /* all in use */
    set(area, CONTROLS_MXCSR, 0x5f80, 4);    /* round up */
    for (uint32_t at = ST0; at < XMM0; at += 16) {
        set(area, at, (x = next(x)) | 1ul << 63, 8);
        set(area, at + 8, 0x3f00 + (x & 0xff), 2);
    }
    for (uint32_t at = XMM0; at < XMM_END; at += 8)
        set(area, at, x = next(x), 8);
    for (unsigned part = AVX; part < PARTS; part++)
        for (uint32_t i = 0; (mask & 1u << part) && i < places[part].bytes; i += 8)
            set(area, places[part].at + i, x = next(x), 8);
    if (mask)
        set(area, XSTATE_BV, mask, 8);
    load(area);
    CPU->gs_word = next(x);
    if (has_rdtscp)
        tsc_aux[CPU->number] = rdtscp_aux();
}

static bool same(uint32_t from, uint32_t to)
{
    const uint64_t *a = (const uint64_t *)(loaded[CPU->number] + from);
    const uint64_t *b = (const uint64_t *)(saved[CPU->number] + from);
    uint64_t wrong = 0;
    for (uint32_t i = 0; i < (to - from) / 8; i++)
        wrong |= a[i] ^ b[i];
    return wrong == 0;
}

/* The 80 bits of each; the rest of its 16 bytes is reserved. */
static bool same_x87(void)
{
    const uint8_t *a = loaded[CPU->number], *b = saved[CPU->number];
    bool same_controls = a[0] == b[0] && a[1] == b[1] && a[CONTROLS_TAGS] == b[CONTROLS_TAGS];
    for (uint32_t at = ST0; at < XMM0; at += 16)
        same_controls &= same(at, at + 8) && a[at + 8] == b[at + 8] && a[at + 9] == b[at + 9];
    return same_controls;
}

static bool same_part(enum part part)
{
    return !(mask & 1u << part) || same(places[part].at, places[part].at + places[part].bytes);
}

void registers_check(void)
{
    uint64_t number = CPU->number, by_gs;
    bool *own = bad[number];
    save(saved[number]);
    own[ITEM_X87] |= !same_x87();
    own[ITEM_MXCSR] |= *(uint32_t *)(saved[number] + CONTROLS_MXCSR) !=
                       *(uint32_t *)(loaded[number] + CONTROLS_MXCSR);
    own[ITEM_XMM] |= !same(XMM0, XMM_END);
    own[ITEM_AVX] |= !same_part(AVX);
    own[ITEM_AVX512] |= !same_part(OPMASK) || !same_part(ZMM_UPPER) || !same_part(ZMM_HIGH);
    if (mask)
        own[ITEM_X87] |= !same(XSTATE_BV, XSTATE_BV + 8);
    __asm__ volatile("mov %%gs:0, %0" : "=r"(by_gs));
    own[ITEM_GS] |= by_gs != CPU->gs_word;
    if (has_rdtscp)
        own[ITEM_AUX] |= rdtscp_aux() != tsc_aux[number];
}

void registers_damage(void)
{
    uint8_t *area = saved[CPU->number];
    uint32_t at = mask & 1u << AVX ? places[AVX].at : XMM0;
    save(area);
    area[at + 5] ^= 0x40;
    load(area);
}

unsigned registers_bad(const char **first)
{
    unsigned count = 0;
    for (unsigned number = 0; number < MAX_WORKERS; number++)
        for (unsigned i = 0; i < REGISTER_ITEMS; i++)
            if (bad[number][i] && count++ == 0)
                *first = names[i];
    return count;
}
