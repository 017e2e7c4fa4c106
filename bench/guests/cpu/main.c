/* How fast a machine executes: loops of a known number of instructions, timed by the machine's own clock.
   Runs in S-mode with Sv39 on, as a kernel would, under any SBI firmware with a debug console.

   Output: bench loop=<name> instructions=<n> ticks=<n> instret=<n>   for each loop
           bench done

   instret is what the machine's own counter says; not every emulator counts instructions with it. */
#include <stdint.h>

#define SBI_DEBUG_CONSOLE 0x4442434El
#define SBI_SYSTEM_RESET 0x53525354l
/* 10 MHz on every board of this kind. */
#define TICKS_MS 10000ul
#define MEASURE_MS 1000ul
#define CHUNK_MS 50ul
#define MEMORY (64ul << 20)

typedef void loop_function(uint64_t turns, void *memory);
loop_function loop_integer, loop_walk, loop_random, loop_float, loop_calls;

/* Turns and what they cost, as the headings in kernels.S say. */
static const struct {
    const char *name;
    loop_function *run;
    uint64_t instructions;
} loops[] = {
    {"integer", loop_integer, 9}, {"walk", loop_walk, 10},    {"random", loop_random, 13},
    {"float", loop_float, 8},     {"calls", loop_calls, 22},
};

static uint64_t root[512] __attribute__((aligned(4096)));
static uint64_t second[512] __attribute__((aligned(4096)));
static uint64_t third[64][512] __attribute__((aligned(4096)));

static void sbi(long extension, long function, uint64_t argument)
{
    register uint64_t a0 __asm__("a0") = argument;
    register uint64_t a1 __asm__("a1") = 0;
    register long a6 __asm__("a6") = function;
    register long a7 __asm__("a7") = extension;
    __asm__ volatile("ecall" : "+r"(a0), "+r"(a1) : "r"(a6), "r"(a7) : "memory");
}

static void text(const char *at)
{
    while (*at)
        sbi(SBI_DEBUG_CONSOLE, 2, (uint8_t)*at++);
}

static void number(uint64_t value)
{
    char digits[21], *at = digits + 20;
    *at = 0;
    do
        *--at = '0' + value % 10;
    while (value /= 10);
    text(at);
}

static void field(const char *name, uint64_t value)
{
    text(name);
    number(value);
}

static uint64_t ticks(void)
{
    uint64_t now;
    __asm__ volatile("rdtime %0" : "=r"(now)::"memory");
    return now;
}

static uint64_t retired(void)
{
    uint64_t now;
    __asm__ volatile("rdinstret %0" : "=r"(now)::"memory");
    return now;
}

void bench_trap(uint64_t cause, uint64_t at)
{
    field("bench failed: trap ", cause);
    field(" at ", at);
    text("\n");
    sbi(SBI_SYSTEM_RESET, 0, 0);
}

/* Identity, in pages of 4 KiB from 0x8000_0000 on for 128 MiB: the loops meet as many pages as a kernel's
   programs would, not one superpage. */
static void mmu_open(void)
{
    const uint64_t table = 1, leaf = 0xcf, ram = 0x80000000ul;
    root[2] = (uint64_t)(uintptr_t)second >> 12 << 10 | table;
    for (uint64_t i = 0; i < 64; i++) {
        second[i] = (uint64_t)(uintptr_t)third[i] >> 12 << 10 | table;
        for (uint64_t page = 0; page < 512; page++)
            third[i][page] = (ram + (i << 21) + (page << 12)) >> 12 << 10 | leaf;
    }
    uint64_t satp = 8ul << 60 | (uint64_t)(uintptr_t)root >> 12;
    __asm__ volatile("sfence.vma\n\tcsrw satp, %0\n\tsfence.vma" ::"r"(satp) : "memory");
}

/* 32 MiB behind the start of RAM: inside the identity map, and nothing else is there. */
static void *const memory = (void *)0x82000000ul;

static void measure(unsigned which)
{
    loop_function *run = loops[which].run;
    uint64_t turns = 1024, before, after;
    /* Also warms what the loop needs: translated code, the pages it walks. */
    do {
        turns *= 2;
        before = ticks();
        run(turns, memory);
    } while (ticks() - before < CHUNK_MS * TICKS_MS);
    uint64_t done = 0, counter = retired();
    before = ticks();
    do {
        run(turns, memory);
        done += turns;
        after = ticks();
    } while (after - before < MEASURE_MS * TICKS_MS);
    counter = retired() - counter;
    text("bench loop=");
    text(loops[which].name);
    field(" instructions=", done * loops[which].instructions);
    field(" ticks=", after - before);
    field(" instret=", counter);
    text("\n");
}

void bench_main(void)
{
    mmu_open();
    for (uint64_t *word = memory; word < (uint64_t *)memory + MEMORY / 8; word++)
        *word = (uint64_t)(uintptr_t)word;
    for (unsigned i = 0; i < sizeof loops / sizeof *loops; i++)
        measure(i);
    text("bench done\n");
    sbi(SBI_SYSTEM_RESET, 0, 0);
}
