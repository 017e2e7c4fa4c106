/* What runs at CPL0 beside interrupts: opening a processor, and calls from CPL3. A KVM without hardware help
   emulates it an instruction at a time, so it does little. */
#include "machine.h"
#include "shared.h"

#define MSR_FS_BASE 0xc0000100u
#define MSR_GS_BASE 0xc0000101u
#define CR4_OSFXSR (1ul << 9)
#define CR4_OSXMMEXCPT (1ul << 10)
#define CR4_OSXSAVE (1ul << 18)
#define CPUID_XSAVE (1u << 26)
/* x87, SSE, AVX, and the three parts of AVX-512. */
#define XCR0_WANTED 0xe7u
#define USER_STACK 16384

struct cpu cpus[MAX_WORKERS];
uint8_t kernel_stacks[MAX_WORKERS][8192] __attribute__((aligned(16))) UNSET;
static uint8_t user_stacks[MAX_WORKERS][USER_STACK] __attribute__((aligned(16))) UNSET;

/* The same selectors as in start.S, and a task segment. */
static void open_segments(struct cpu *cpu)
{
    uint64_t task = (uint64_t)(uintptr_t)&cpu->task;
    cpu->gdt[1] = 0x00af9b000000ffff;
    cpu->gdt[2] = 0x00cf93000000ffff;
    cpu->gdt[3] = 0x00cf9b000000ffff;
    cpu->gdt[4] = 0x00cff3000000ffff;
    cpu->gdt[5] = 0x00affb000000ffff;
    cpu->gdt[6] = 0x0000890000000000 | (sizeof cpu->task - 1) | (task & 0xffffff) << 16 |
                  (task >> 24 & 0xff) << 56;
    cpu->gdt[7] = task >> 32;
    cpu->task.rsp0 = (uint64_t)(uintptr_t)(kernel_stacks[cpu->number] + sizeof kernel_stacks[0]);
    cpu->task.map = sizeof cpu->task;
    struct {
        uint16_t limit;
        uint64_t base;
    } __attribute__((packed)) gdtr = {sizeof cpu->gdt - 1, (uint64_t)(uintptr_t)cpu->gdt};
    __asm__ volatile("lgdt %0\n\tltr %w1" ::"m"(gdtr), "r"(SELECTOR_TASK));
}

static void open_registers(void)
{
    uint64_t cr4;
    __asm__ volatile("mov %%cr4, %0" : "=r"(cr4));
    cr4 |= CR4_OSFXSR | CR4_OSXMMEXCPT;
    bool xsave = cpuid(1, 0).c & CPUID_XSAVE;
    if (xsave)
        cr4 |= CR4_OSXSAVE;
    __asm__ volatile("mov %0, %%cr4" ::"r"(cr4));
    if (xsave)
        __asm__ volatile("xsetbv" ::"a"(cpuid(0xd, 0).a & XCR0_WANTED), "d"(0), "c"(0));
}

/* The frame of an interrupt that never was. */
static void enter_user(uint64_t number)
{
    uint8_t *stack = user_stacks[number] + USER_STACK;
    __asm__ volatile("pushq %q0\n\tpushq %1\n\tpushq $0x202\n\tpushq %q2\n\tpushq %3\n\tiretq"
                     :
                     : "r"(SELECTOR_USER_DATA), "r"(stack - 8), "r"(SELECTOR_USER_CODE),
                       "r"((uint64_t)(uintptr_t)user_main), "D"(number));
    __builtin_unreachable();
}

void kernel_main(uint64_t number)
{
    struct cpu *cpu = &cpus[number];
    cpu->self = cpu;
    cpu->number = number;
    open_segments(cpu);
    traps_load();
    /* Loaded segments would take these with them. */
    __asm__ volatile("wrmsr" ::"c"(MSR_FS_BASE), "a"((uint32_t)(uintptr_t)cpu), "d"(0));
    __asm__ volatile("wrmsr" ::"c"(MSR_GS_BASE), "a"((uint32_t)(uintptr_t)&cpu->gs_word), "d"(0));
    open_registers();
    apic_open();
    state_set();
    clock_open_processor();
    if (number == 0)
        registers_open();
    timer_open();
    state_check();
    enter_user(number);
}

struct cpuid cpuid(uint32_t leaf, uint32_t part)
{
    struct cpuid out;
    __asm__ volatile("cpuid" : "=a"(out.a), "=b"(out.b), "=c"(out.c), "=d"(out.d) : "a"(leaf), "c"(part));
    return out;
}

bool msr_read(uint32_t msr, uint64_t *value)
{
    uint32_t low = 0, high = 0;
    CPU->fault = false;
    __asm__ volatile("rdmsr" : "+a"(low), "+d"(high) : "c"(msr) : "memory");
    *value = (uint64_t)high << 32 | low;
    return !CPU->fault;
}

bool msr_write(uint32_t msr, uint64_t value)
{
    CPU->fault = false;
    __asm__ volatile("wrmsr" ::"c"(msr), "a"((uint32_t)value), "d"((uint32_t)(value >> 32)) : "memory");
    return !CPU->fault;
}

bool at_cpl0(void)
{
    uint16_t cs;
    __asm__ volatile("mov %%cs, %0" : "=r"(cs));
    return (cs & 3) == 0;
}

uint64_t kernel_call(enum call call, uint64_t a, uint64_t b)
{
    CPU->call.number = call;
    CPU->call.a = a;
    CPU->call.b = b;
    __asm__ volatile("out %%al, %0" ::"i"(CALL_PORT) : "memory");
    return CPU->call.result;
}

void kernel_serve(enum call call)
{
    uint64_t a = CPU->call.a, b = CPU->call.b;
    if (call == CALL_SLEEP) {
        if (CPU->rung == a)
            timer_sleep();
    } else if (call == CALL_WRITE) {
        console_write((const char *)(uintptr_t)a, b);
    } else if (call == CALL_IN8) {
        CPU->call.result = in8((uint16_t)a);
    } else if (call == CALL_OUT8) {
        out8((uint16_t)a, (uint8_t)b);
    } else if (call == CALL_OUT16) {
        out16((uint16_t)a, (uint16_t)b);
    } else if (call == CALL_RING) {
        apic_send(cpus[a].apic_id, VECTOR_RING);
    } else if (call == CALL_INIT) {
        apic_send(0, APIC_INIT_OTHERS);
    } else if (call == CALL_START) {
        apic_send(0, APIC_START_OTHERS | (uint32_t)a);
    } else if (call == CALL_CHECK) {
        state_check();
    } else if (call == CALL_DAMAGE) {
        state_damage();
    } else {
        for (;;)
            __asm__ volatile("cli\n\thlt");
    }
}
