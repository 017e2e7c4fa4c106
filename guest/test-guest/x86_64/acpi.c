/* The little that is wanted of ACPI (specification 6.5, chapters 4.8 and 5.2): how many processors there are,
   and where the machine is turned off. Without tables, or with ones that lie elsewhere than below 4 GiB, what
   most virtual machines have is tried. */
#include "machine.h"

#define LIMIT (4ul << 30)
#define LOCAL_APIC 0
#define IO_APIC 1
#define LOCAL_X2APIC 9
#define ENABLED 1u
#define SPACE_MEMORY 0
#define SPACE_PORT 1
#define HW_REDUCED (1u << 20)
/* _S5 would tell; these are what QEMU, Cloud Hypervisor and umem have. */
#define SLEEP_CONTROL_S5 0x34
#define PM1_CONTROL_S5 0x2000
#define QEMU_PM1_CONTROL 0x604
#define KEYBOARD_COMMAND 0x64
#define KEYBOARD_RESET 0xfe

struct header {
    char signature[4];
    uint32_t bytes;
    uint8_t rest[28];
} __attribute__((packed));

static const uint8_t *fadt, *madt;

static uint64_t number(const uint8_t *at, unsigned bytes)
{
    uint64_t value = 0;
    for (unsigned i = 0; i < bytes; i++)
        value |= (uint64_t)at[i] << 8 * i;
    return value;
}

static bool is(const struct header *table, const char *signature)
{
    for (unsigned i = 0; i < 4; i++)
        if (table->signature[i] != signature[i])
            return false;
    return true;
}

/* The entry behind `entry`, or the first; null at the end. */
static const uint8_t *madt_next(const uint8_t *entry)
{
    if (!madt)
        return 0;
    const uint8_t *end = madt + ((const struct header *)madt)->bytes;
    const uint8_t *next = entry ? entry + entry[1] : madt + 44;
    return next + 2 <= end && next[1] >= 2 ? next : 0;
}

static unsigned count_processors(void)
{
    unsigned found = 0;
    for (const uint8_t *entry = 0; (entry = madt_next(entry)) != 0;) {
        if (entry[0] == LOCAL_APIC)
            found += number(entry + 4, 4) & ENABLED;
        else if (entry[0] == LOCAL_X2APIC)
            found += number(entry + 8, 4) & ENABLED;
    }
    return found;
}

bool acpi_io_apic(uint32_t interrupt, uint64_t *address, uint32_t *first)
{
    bool found = false;
    for (const uint8_t *entry = 0; (entry = madt_next(entry)) != 0;) {
        uint32_t from = (uint32_t)number(entry + 8, 4);
        if (entry[0] != IO_APIC || from > interrupt || (found && from < *first))
            continue;
        found = true;
        *first = from;
        *address = number(entry + 4, 4);
    }
    return found;
}

unsigned acpi_processors(uint64_t rsdp)
{
    if (rsdp >= LIMIT)
        return 0;
    const uint8_t *pointer = (const uint8_t *)(uintptr_t)rsdp;
    bool extended = pointer[15] >= 2 && number(pointer + 24, 8) != 0;
    uint64_t list = extended ? number(pointer + 24, 8) : number(pointer + 16, 4);
    if (list >= LIMIT)
        return 0;
    const struct header *root = (const struct header *)(uintptr_t)list;
    unsigned width = extended ? 8 : 4;
    for (uint32_t at = sizeof *root; at + width <= root->bytes; at += width) {
        uint64_t address = number((const uint8_t *)root + at, width);
        if (address == 0 || address >= LIMIT)
            continue;
        const struct header *table = (const struct header *)(uintptr_t)address;
        if (is(table, "APIC"))
            madt = (const uint8_t *)table;
        else if (is(table, "FACP"))
            fadt = (const uint8_t *)table;
    }
    return count_processors();
}

static void sleep_by_table(void)
{
    uint64_t pm1_control = number(fadt + 64, 4);
    if (number(fadt + 112, 4) & HW_REDUCED) {
        const uint8_t *control = fadt + 244;
        uint64_t address = number(control + 4, 8);
        if (control[0] == SPACE_PORT)
            out8((uint16_t)address, SLEEP_CONTROL_S5);
        else if (control[0] == SPACE_MEMORY && address != 0 && address < LIMIT)
            *(volatile uint8_t *)(uintptr_t)address = SLEEP_CONTROL_S5;
    } else if (pm1_control != 0) {
        out16((uint16_t)pm1_control, PM1_CONTROL_S5);
    }
}

void power_off(void)
{
    if (fadt)
        sleep_by_table();
    out16(QEMU_PM1_CONTROL, PM1_CONTROL_S5);
    out8(KEYBOARD_COMMAND, KEYBOARD_RESET);
    if (!at_cpl0())
        kernel_call(CALL_HALT, 0, 0);
    for (;;)
        __asm__ volatile("cli\n\thlt");
}
