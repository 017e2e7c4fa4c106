/* Starts the harts that the boot hart does not run on. */
#include "guest.h"
#include "machine.h"

#define SBI_HSM 0x48534Dl
#define STACK_BYTES 8192

extern char hart_entry[];

/* What start.S finds. */
struct entry {
    uint64_t stack, satp;
    void (*body)(unsigned number);
    uint64_t number;
};

static struct entry entries[MAX_WORKERS];
static uint8_t stacks[MAX_WORKERS][STACK_BYTES] __attribute__((aligned(16)));
static uint64_t boot;
static unsigned there;

void harts_open(uint64_t boot_hart, unsigned harts)
{
    boot = boot_hart;
    there = harts;
}

/* The boot hart is 0, whatever the SBI calls it; the others follow in their order. */
uint64_t hart_id(unsigned number)
{
    if (number == 0)
        return boot;
    return number <= boot ? number - 1 : number;
}

void harts_start(unsigned count, void (*body)(unsigned number))
{
    for (unsigned number = 1; number < count && number < there; number++) {
        struct entry *entry = &entries[number];
        *entry = (struct entry){
            .stack = (uint64_t)(uintptr_t)(stacks[number] + STACK_BYTES),
            .satp = mmu_satp(),
            .body = body,
            .number = number,
        };
        struct sbi_result started = sbi_call(SBI_HSM, 0, hart_id(number), (uint64_t)(uintptr_t)hart_entry,
                                             (uint64_t)(uintptr_t)entry);
        if (started.error != 0) {
            line_text("umem-guest hart ");
            line_number(number);
            line_text(" does not start");
            line_end();
            power_off();
        }
    }
}
