/* Interrupts of devices, by the I/O APIC (Intel 82093AA): level-triggered, each with a vector of its own, to the
   processor of worker 0. The registers are set from CPL3, which may reach them; only the interrupts end at CPL0. */
#include "machine.h"
#include "devices.h"

/* Where most machines have the only one. */
#define USUAL 0xfec00000ul
#define REGISTER_VERSION 0x01
#define REGISTER_ROUTE 0x10 /* two each */
#define LEVEL (1u << 15)

static struct virtio *devices[LINES];

static volatile uint32_t *select_register(uint64_t io_apic, uint32_t reg)
{
    volatile uint32_t *window = (volatile uint32_t *)(uintptr_t)io_apic;
    window[0] = reg;
    return window + 4;
}

bool line_open(unsigned line, struct virtio *device)
{
    static unsigned lines;
    uint64_t io_apic = USUAL;
    uint32_t first = 0;
    acpi_io_apic(line, &io_apic, &first);
    uint32_t last = *select_register(io_apic, REGISTER_VERSION) >> 16 & 0xff;
    if (line - first > last || lines == LINES)
        return false;
    uint32_t reg = REGISTER_ROUTE + 2 * (line - first);
    devices[lines] = device;
    *select_register(io_apic, reg + 1) = (uint32_t)(cpus[0].apic_id << 24);
    *select_register(io_apic, reg) = LEVEL | (VECTOR_LINE + lines);
    lines++;
    return true;
}

void line_interrupt(unsigned number)
{
    virtio_interrupt(devices[number]);
}
