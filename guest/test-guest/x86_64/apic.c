/* The local APIC (Intel SDM volume 3, chapter "Advanced Programmable Interrupt Controller"). */
#include "machine.h"

#define MSR_APIC_BASE 0x1bu
#define APIC_BASE_X2 (1ul << 10)
#define APIC_BASE_ENABLED (1ul << 11)
#define CPUID_X2APIC (1u << 21)
#define MSR_X2APIC 0x800u
#define WINDOW 0xfee00000ul
#define SOFTWARE_ENABLED 0x100
#define MASKED 0x10000

static bool x2apic;

static volatile uint32_t *window(unsigned reg)
{
    return (volatile uint32_t *)(WINDOW + reg * 16ul);
}

uint64_t apic_read(unsigned reg)
{
    uint64_t value;
    if (!x2apic)
        return *window(reg);
    msr_read(MSR_X2APIC + reg, &value);
    return value;
}

void apic_write(unsigned reg, uint64_t value)
{
    if (x2apic)
        msr_write(MSR_X2APIC + reg, value);
    else
        *window(reg) = (uint32_t)value;
}

void apic_send(uint64_t apic_id, uint32_t command)
{
    if (x2apic) {
        apic_write(APIC_ICR, apic_id << 32 | command);
        return;
    }
    *window(APIC_ICR + 1) = (uint32_t)(apic_id << 24);
    *window(APIC_ICR) = command;
    while (*window(APIC_ICR) & 1 << 12) /* delivery under way */
        ;
}

void apic_open(void)
{
    uint64_t base;
    msr_read(MSR_APIC_BASE, &base);
    base |= APIC_BASE_ENABLED;
    if (cpuid(1, 0).c & CPUID_X2APIC)
        base |= APIC_BASE_X2;
    msr_write(MSR_APIC_BASE, base);
    x2apic = base & APIC_BASE_X2;
    CPU->apic_id = x2apic ? apic_read(APIC_ID) : apic_read(APIC_ID) >> 24;
    apic_write(APIC_SVR, SOFTWARE_ENABLED | VECTOR_SPURIOUS);
    /* Nothing comes from elsewhere. The vectors are there to be told apart after a move. */
    static const uint8_t unused[] = {APIC_LVT_PERF, APIC_LVT_LINT0, APIC_LVT_LINT1, APIC_LVT_ERROR};
    for (unsigned i = 0; i < sizeof unused; i++)
        apic_write(unused[i], MASKED | (0xe0 + i));
}
