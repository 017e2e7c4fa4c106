/* What harts do to each other while they write: a token goes round by inter-processor interrupts, a page is
   mapped to another place and code is rewritten, each with remote fences. A lost interrupt stops the token;
   a fence that is lost, or answered too early, lets a hart see what was there before. */
#include "guest.h"
#include "machine.h"
#include "shared.h"

#define SBI_IPI 0x735049l
#define SBI_RFENCE 0x52464E43l
#define FENCE_I 0
#define SFENCE_VMA 1
#define SSIP (1ul << 1)
#define ALL_HARTS (~0ul)
/* Between two changes. */
#define PAUSE_US 5000
#define PLACES 4

static unsigned workers;
static uint64_t pause;

/* A number in each place says which change it is for; the newest is mapped. */
static uint64_t places[PLACES][PAGE / 8] __attribute__((aligned(4096)));
/* addi a0, zero, <number>; ret */
static uint32_t code[2] __attribute__((aligned(64))) = {0x00000513, 0x00008067};
#define CODE_NUMBERS 2048u

/* Changes that every hart must see, and who found one missing. */
static uint64_t changes, stale;

void ring(unsigned worker)
{
    sbi_call(SBI_IPI, 0, 1, hart_id(worker), 0);
}

bool take_ring(void)
{
    uint64_t rung;
    __asm__ volatile("csrrc %0, sip, %1" : "=r"(rung) : "r"(SSIP) : "memory");
    return rung & SSIP;
}

static void change(void)
{
    static uint64_t next_change;
    if ((int64_t)(clock_ticks() - next_change) < 0)
        return;
    next_change = clock_ticks() + pause;
    uint64_t number = changes + 1;
    places[number % PLACES][0] = number;
    mmu_float(places[number % PLACES]);
    __asm__ volatile("sfence.vma" ::: "memory");
    sbi_call(SBI_RFENCE, SFENCE_VMA, 0, ALL_HARTS, 0);
    *(volatile uint32_t *)code = 0x00000513 | (uint32_t)(number % CODE_NUMBERS) << 20;
    __asm__ volatile("fence.i" ::: "memory");
    sbi_call(SBI_RFENCE, FENCE_I, 0, ALL_HARTS, 0);
    __atomic_store_n(&changes, number, __ATOMIC_RELEASE);
}

static void look(void)
{
    uint64_t number = __atomic_load_n(&changes, __ATOMIC_ACQUIRE);
    if (number == 0)
        return;
    uint64_t mapped = *(volatile uint64_t *)FLOATING_PAGE;
    unsigned coded = ((unsigned (*)(void))(uintptr_t)code)();
    bool old_map = (int64_t)(mapped - number) < 0;
    bool old_code = (coded - (unsigned)number) % CODE_NUMBERS >= CODE_NUMBERS / 2;
    if (old_map || old_code)
        __atomic_add_fetch(&stale, 1, __ATOMIC_RELAXED);
}

static void hart_main(unsigned worker)
{
    clock_open_hart();
    run_worker(worker);
}

void workers_start(unsigned count)
{
    workers = count;
    pause = clock_ticks_of_us(PAUSE_US);
    tokens_open(count);
    harts_start(count, hart_main);
}

void worker_aside(unsigned worker)
{
    if (workers < 2)
        return;
    tokens_pass(worker);
    if (worker == 1)
        change();
    look();
}

bool aside_good(void)
{
    return stale == 0;
}

void aside_damage(int byte)
{
    (void)byte;
}

void aside_mark(void)
{
}

uint64_t aside_gap_us(void)
{
    return 0;
}

void aside_fields(void)
{
    line_text(" tokens=");
    line_number(tokens_passed());
    line_text(" fences=");
    line_number(2 * changes);
    line_text(" stale=");
    line_number(stale);
}
