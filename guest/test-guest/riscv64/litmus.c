/* Litmus tests: short programs on several harts whose outcomes the memory model (RVWMO, RISC-V unprivileged
   specification, chapter 17 and appendix A) allows or forbids. Each run prints
   `litmus <name> runs=<n> forbidden=<n> weak=<n>`; weak outcomes are those that a model without store buffers
   would forbid, and are only counted. */
#include "guest.h"
#include "machine.h"

#define LINE 64
#define ROUNDS_OF_COUNTERS 16
/* From the last hart's arrival to the start: the others get a CPU meanwhile. */
#define START_US 15
/* Steps by which one hart is later than another, in turn. */
#define STAGGER 24

/* Each variable in a line of its own; two words, so that an AMO on one half can disturb the other. */
static volatile struct {
    uint32_t word, other;
    uint8_t pad[LINE - 8];
} x __attribute__((aligned(LINE))), y __attribute__((aligned(LINE))), turn __attribute__((aligned(LINE)));

static volatile uint32_t seen[MAX_WORKERS][LINE / 4];
static volatile uint64_t wide, guarded[2];
static unsigned harts, arrived, sense;
static uint64_t runs, start_at;

static void barrier(unsigned *mine)
{
    *mine = !*mine;
    if (__atomic_add_fetch(&arrived, 1, __ATOMIC_ACQ_REL) == harts) {
        __atomic_store_n(&arrived, 0, __ATOMIC_RELAXED);
        start_at = clock_ticks() + clock_ticks_of_us(START_US);
        __atomic_store_n(&sense, *mine, __ATOMIC_RELEASE);
    } else {
        while (__atomic_load_n(&sense, __ATOMIC_ACQUIRE) != *mine)
            __asm__ volatile(".4byte 0x0100000f" ::: "memory"); /* pause (Zihintpause) */
    }
}

/* Behind a barrier: lets harts that have a CPU begin at one time, or a little apart. */
static void start_together(unsigned hart, uint64_t run)
{
    while ((int64_t)(clock_ticks() - start_at) < 0)
        ;
    uint64_t late = hart & 1 ? run % STAGGER : run / STAGGER % STAGGER;
    while (late--)
        __asm__ volatile("nop");
}

static void fence(void)
{
    __asm__ volatile("fence rw, rw" ::: "memory");
}

static uint32_t load_acquire(volatile uint32_t *from)
{
    uint32_t value;
    __asm__ volatile("lr.w.aq %0, (%1)" : "=r"(value) : "r"(from) : "memory");
    return value;
}

static uint32_t load_in_order(volatile uint32_t *from)
{
    uint32_t value;
    __asm__ volatile("lr.w.aqrl %0, (%1)" : "=r"(value) : "r"(from) : "memory");
    return value;
}

static void store_release(volatile uint32_t *to, uint32_t value)
{
    __asm__ volatile("amoswap.w.rl zero, %0, (%1)" ::"r"(value), "r"(to) : "memory");
}

/* Message passing. */
static void mp_fence(unsigned hart)
{
    if (hart == 0) {
        x.word = 1;
        fence();
        y.word = 1;
    } else if (hart == 1) {
        seen[1][0] = y.word;
        fence();
        seen[1][1] = x.word;
    }
}

static void mp_release(unsigned hart)
{
    if (hart == 0) {
        x.word = 1;
        store_release(&y.word, 1);
    } else if (hart == 1) {
        seen[1][0] = load_acquire(&y.word);
        seen[1][1] = x.word;
    }
}

static bool mp_wrong(void)
{
    return seen[1][0] == 1 && seen[1][1] == 0;
}

/* Store buffering. */
static void sb_fence(unsigned hart)
{
    if (hart == 0) {
        x.word = 1;
        fence();
        seen[0][0] = y.word;
    } else if (hart == 1) {
        y.word = 1;
        fence();
        seen[1][0] = x.word;
    }
}

/* What compilers make of a sequentially consistent compare-and-swap that fails: an LR whose release bit keeps it
   behind the store. */
static void sb_reserved(unsigned hart)
{
    if (hart == 0) {
        x.word = 1;
        seen[0][0] = load_in_order(&y.word);
    } else if (hart == 1) {
        y.word = 1;
        seen[1][0] = load_in_order(&x.word);
    }
}

static void sb_plain(unsigned hart)
{
    if (hart == 0) {
        x.word = 1;
        seen[0][0] = y.word;
    } else if (hart == 1) {
        y.word = 1;
        seen[1][0] = x.word;
    }
}

static bool sb_both_old(void)
{
    return seen[0][0] == 0 && seen[1][0] == 0;
}

/* Load buffering. */
static void lb_fence(unsigned hart)
{
    if (hart == 0) {
        seen[0][0] = x.word;
        fence();
        y.word = 1;
    } else if (hart == 1) {
        seen[1][0] = y.word;
        fence();
        x.word = 1;
    }
}

static bool lb_wrong(void)
{
    return seen[0][0] == 1 && seen[1][0] == 1;
}

/* Two readings of one place. */
static void corr(unsigned hart)
{
    if (hart == 0) {
        x.word = 1;
    } else if (hart == 1) {
        seen[1][0] = x.word;
        seen[1][1] = x.word;
    }
}

static bool corr_wrong(void)
{
    return seen[1][0] == 1 && seen[1][1] == 0;
}

/* Independent reads of independent writes. */
static void iriw_fence(unsigned hart)
{
    if (hart == 0) {
        x.word = 1;
    } else if (hart == 1) {
        y.word = 1;
    } else if (hart == 2) {
        seen[2][0] = x.word;
        fence();
        seen[2][1] = y.word;
    } else if (hart == 3) {
        seen[3][0] = y.word;
        fence();
        seen[3][1] = x.word;
    }
}

static bool iriw_wrong(void)
{
    return seen[2][0] == 1 && seen[2][1] == 0 && seen[3][0] == 1 && seen[3][1] == 0;
}

/* Counters: every hart adds; none may be lost. */
static void add_by_amo(unsigned hart)
{
    (void)hart;
    for (int i = 0; i < ROUNDS_OF_COUNTERS; i++) {
        __asm__ volatile("amoadd.w zero, %0, (%1)" ::"r"(1), "r"(&x.word) : "memory");
        __asm__ volatile("amoadd.w zero, %0, (%1)" ::"r"(1), "r"(&x.other) : "memory");
        __asm__ volatile("amoadd.d zero, %0, (%1)" ::"r"(1ul), "r"(&wide) : "memory");
    }
}

static void add_by_sc(unsigned hart)
{
    (void)hart;
    uint64_t old, failed;
    for (int i = 0; i < ROUNDS_OF_COUNTERS; i++) {
        __asm__ volatile("1: lr.w %0, (%2)\n\taddi %0, %0, 1\n\tsc.w %1, %0, (%2)\n\tbnez %1, 1b"
                         : "=&r"(old), "=&r"(failed) : "r"(&x.word) : "memory");
        __asm__ volatile("1: lr.w %0, (%2)\n\taddi %0, %0, 1\n\tsc.w %1, %0, (%2)\n\tbnez %1, 1b"
                         : "=&r"(old), "=&r"(failed) : "r"(&x.other) : "memory");
        __asm__ volatile("1: lr.d %0, (%2)\n\taddi %0, %0, 1\n\tsc.d %1, %0, (%2)\n\tbnez %1, 1b"
                         : "=&r"(old), "=&r"(failed) : "r"(&wide) : "memory");
    }
}

static bool count_wrong(void)
{
    uint32_t all = harts * ROUNDS_OF_COUNTERS;
    return x.word != all || x.other != all || wide != all;
}

/* A lock around what is not atomic. */
static void add_in_lock(unsigned hart)
{
    (void)hart;
    for (int i = 0; i < ROUNDS_OF_COUNTERS; i++) {
        uint32_t held;
        do
            __asm__ volatile("amoswap.w.aq %0, %1, (%2)" : "=r"(held) : "r"(1), "r"(&turn.word) : "memory");
        while (held);
        guarded[0]++;
        guarded[1] += guarded[0];
        store_release(&turn.word, 0);
    }
}

static bool lock_wrong(void)
{
    uint64_t all = harts * ROUNDS_OF_COUNTERS;
    return guarded[0] != all || guarded[1] != all * (all + 1) / 2;
}

static bool never(void)
{
    return false;
}

static const struct test {
    const char *name;
    unsigned harts; /* needed */
    void (*act)(unsigned hart);
    bool (*forbidden)(void), (*weak)(void);
} tests[] = {
    {"mp+fence", 2, mp_fence, mp_wrong, never},
    {"mp+rel+acq", 2, mp_release, mp_wrong, never},
    {"sb+fence", 2, sb_fence, sb_both_old, never},
    {"sb+lr.aqrl", 2, sb_reserved, sb_both_old, never},
    {"sb", 2, sb_plain, never, sb_both_old},
    {"lb+fence", 2, lb_fence, lb_wrong, never},
    {"corr", 2, corr, corr_wrong, never},
    {"iriw+fence", 4, iriw_fence, iriw_wrong, never},
    {"amo", 1, add_by_amo, count_wrong, never},
    {"lr+sc", 1, add_by_sc, count_wrong, never},
    {"lock", 1, add_in_lock, lock_wrong, never},
};
#define TESTS (sizeof tests / sizeof *tests)

static void clear(void)
{
    x.word = x.other = y.word = turn.word = 0;
    wide = guarded[0] = guarded[1] = 0;
    for (unsigned hart = 0; hart < harts; hart++)
        seen[hart][0] = seen[hart][1] = 0;
}

static void say(const struct test *test, uint64_t forbidden, uint64_t weak)
{
    line_text("litmus ");
    line_text(test->name);
    line_text(" runs=");
    line_number(runs);
    line_text(" forbidden=");
    line_number(forbidden);
    line_text(" weak=");
    line_number(weak);
    line_end();
}

static void take_part(unsigned hart)
{
    unsigned mine = 0;
    for (size_t at = 0; at < TESTS; at++) {
        const struct test *test = &tests[at];
        if (test->harts > harts)
            continue;
        uint64_t forbidden = 0, weak = 0;
        for (uint64_t run = 0; run < runs; run++) {
            if (hart == 0)
                clear();
            barrier(&mine);
            start_together(hart, run);
            test->act(hart);
            barrier(&mine);
            if (hart == 0) {
                forbidden += test->forbidden();
                weak += test->weak();
            }
        }
        if (hart == 0)
            say(test, forbidden, weak);
    }
    barrier(&mine);
}

static void hart_main(unsigned number)
{
    take_part(number);
    /* Off: hart_stop does not return. */
    sbi_call(0x48534Dl, 1, 0, 0, 0);
}

void litmus(unsigned with_harts, uint64_t with_runs)
{
    harts = with_harts;
    runs = with_runs;
    harts_start(harts, hart_main);
    take_part(0);
    line_text("litmus done");
    line_end();
}
