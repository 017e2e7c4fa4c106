/* Interrupts and exceptions, all at CPL0. An exception that is neither a call from CPL3 nor expected is a
   fault of ours: say so and stop. */
#include "machine.h"
#include "shared.h"

struct frame {
    uint64_t ip, cs, flags, sp, ss;
};
#define TRAP static __attribute__((interrupt)) void

static void unexpected(unsigned vector, const struct frame *frame, uint64_t error)
{
    uint64_t address;
    __asm__ volatile("mov %%cr2, %0" : "=r"(address));
    line_end(); /* whatever was begun */
    line_text("umem-guest trap vector=");
    line_number(vector);
    line_text(" error=");
    line_hex(error);
    line_text(" ip=");
    line_hex(frame->ip);
    line_text(" cs=");
    line_number(frame->cs);
    line_text(" address=");
    line_hex(address);
    line_end();
    power_off();
}

#define EXCEPTION(vector)                        \
    TRAP trap_##vector(struct frame *frame)      \
    {                                            \
        unexpected(vector, frame, 0);            \
    }
#define EXCEPTION_WITH_ERROR(vector)                             \
    TRAP trap_##vector(struct frame *frame, uint64_t error)      \
    {                                                            \
        unexpected(vector, frame, error);                        \
    }
EXCEPTION(0)
EXCEPTION(1)
EXCEPTION(2)
EXCEPTION(3)
EXCEPTION(5)
EXCEPTION(6)
EXCEPTION(7)
EXCEPTION_WITH_ERROR(8)
EXCEPTION_WITH_ERROR(10)
EXCEPTION_WITH_ERROR(11)
EXCEPTION_WITH_ERROR(12)
EXCEPTION_WITH_ERROR(14)
EXCEPTION(16)
EXCEPTION_WITH_ERROR(17)
EXCEPTION(18)
EXCEPTION(19)

/* Bytes of an rdmsr or wrmsr, which may fault where this processor lacks the register; else 0. */
static unsigned may_fault(const uint8_t *at)
{
    return at[0] == 0x0f && (at[1] == 0x30 || at[1] == 0x32) ? 2 : 0;
}

TRAP trap_13(struct frame *frame, uint64_t error)
{
    const uint8_t *at = (const uint8_t *)frame->ip;
    unsigned bytes;
    if ((frame->cs & 3) != 0 && at[0] == 0xe6 && at[1] == CALL_PORT) {
        frame->ip += 2;
        kernel_serve((enum call)CPU->call.number);
    } else if ((frame->cs & 3) == 0 && (bytes = may_fault(at)) != 0) {
        CPU->fault = true;
        frame->ip += bytes;
    } else {
        unexpected(13, frame, error);
    }
}

TRAP on_tick(struct frame *frame)
{
    (void)frame;
    timer_tick();
    apic_write(APIC_EOI, 0);
}

TRAP on_ring(struct frame *frame)
{
    (void)frame;
    CPU->rung++;
    apic_write(APIC_EOI, 0);
}

/* From an I/O APIC, which is told of the end as well: the line is level-triggered. */
TRAP on_line_0(struct frame *frame)
{
    (void)frame;
    line_interrupt(0);
    apic_write(APIC_EOI, 0);
}

TRAP on_line_1(struct frame *frame)
{
    (void)frame;
    line_interrupt(1);
    apic_write(APIC_EOI, 0);
}

/* Wants no end-of-interrupt (Intel SDM volume 3, "Spurious Interrupt"). */
TRAP on_spurious(struct frame *frame)
{
    (void)frame;
}

static struct {
    uint64_t low, high;
} gates[256] __attribute__((aligned(16)));

static void gate(unsigned vector, void *handler)
{
    uint64_t address = (uint64_t)(uintptr_t)handler;
    gates[vector].low = (address & 0xffff) | SELECTOR_KERNEL_CODE << 16 | 0x8eul << 40 |
                        (address >> 16 & 0xffff) << 48;
    gates[vector].high = address >> 32;
}

void traps_load(void)
{
    static void *const exceptions[20] = {
        trap_0, trap_1, trap_2, trap_3, 0, trap_5, trap_6, trap_7, trap_8, 0,
        trap_10, trap_11, trap_12, trap_13, trap_14, 0, trap_16, trap_17, trap_18, trap_19,
    };
    for (unsigned vector = 0; vector < 20; vector++)
        if (exceptions[vector])
            gate(vector, exceptions[vector]);
    gate(VECTOR_TICK, on_tick);
    gate(VECTOR_RING, on_ring);
    gate(VECTOR_LINE, on_line_0);
    gate(VECTOR_LINE + 1, on_line_1);
    gate(VECTOR_SPURIOUS, on_spurious);
    struct {
        uint16_t limit;
        uint64_t base;
    } __attribute__((packed)) idtr = {sizeof gates - 1, (uint64_t)(uintptr_t)gates};
    __asm__ volatile("lidt %0" ::"m"(idtr));
}
