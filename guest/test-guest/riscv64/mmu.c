#include "machine.h"

/* Sv39, identity: the root's gigapages for devices and RAM, except the gigapage that holds the start of
   RAM, which is cut into 2 MiB pages so that both kinds of superpage and a second level are walked. */
#define PTE_VALID 0x01ul
#define PTE_READ 0x02ul
#define PTE_WRITE 0x04ul
#define PTE_EXECUTE 0x08ul
#define PTE_ACCESSED 0x40ul
#define PTE_DIRTY 0x80ul
#define LEAF (PTE_VALID | PTE_READ | PTE_WRITE | PTE_EXECUTE | PTE_ACCESSED | PTE_DIRTY)
#define GIB (1ul << 30)
#define MIB2 (1ul << 21)

static uint64_t root[512] __attribute__((aligned(4096)));
static uint64_t first[512] __attribute__((aligned(4096)));
/* The way to FLOATING_PAGE. */
static uint64_t floating[2][512] __attribute__((aligned(4096)));

static uint64_t entry(uint64_t address, uint64_t flags)
{
    return (address >> 12) << 10 | flags;
}

void mmu_open(uint64_t ram_end)
{
    const uint64_t image = 2; /* the gigapage at 0x8000_0000 */
    /* An identity map reaches the lower half of Sv39, 256 GiB, of which the last is for the floating page. */
    for (uint64_t i = 0; i < 255 && (i < 3 || i * GIB < ram_end); i++)
        root[i] = entry(i * GIB, LEAF);
    for (uint64_t i = 0; i < 512; i++)
        first[i] = entry(image * GIB + i * MIB2, LEAF);
    root[image] = entry((uint64_t)(uintptr_t)first, PTE_VALID);
    root[FLOATING_PAGE / GIB] = entry((uint64_t)(uintptr_t)floating[0], PTE_VALID);
    floating[0][0] = entry((uint64_t)(uintptr_t)floating[1], PTE_VALID);
    __asm__ volatile("sfence.vma\n\tcsrw satp, %0\n\tsfence.vma" ::"r"(mmu_satp()) : "memory");
}

uint64_t mmu_satp(void)
{
    return 8ul << 60 | (uint64_t)(uintptr_t)root >> 12;
}

/* The caller fences. */
void mmu_float(const void *page)
{
    __atomic_store_n(&floating[1][0], entry((uint64_t)(uintptr_t)page, LEAF), __ATOMIC_RELEASE);
}
