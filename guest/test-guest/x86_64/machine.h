/* The machine under the bare-metal guest: a small kernel at CPL0, and the work above it at CPL3.
   Much of the work would be possible without that split. It is there because a KVM without hardware help
   runs CPL3 natively and emulates CPL0, and because traps, interrupts and calls then cross it as they do
   in real guests. */
#ifndef MACHINE_H
#define MACHINE_H
#include "guest.h"

/* Memory that is not cleared at the start. */
#define UNSET __attribute__((section(".bss.unset")))

#define SELECTOR_KERNEL_CODE 0x08
#define SELECTOR_KERNEL_DATA 0x10
#define SELECTOR_USER_DATA 0x23
#define SELECTOR_USER_CODE 0x2b
#define SELECTOR_TASK 0x30

/* state.c: what a processor holds that must survive a move. */
#define STATE_ITEMS 56

struct pvclock { /* Linux, Documentation/virt/kvm/x86/msr.rst, MSR_KVM_SYSTEM_TIME_NEW */
    uint32_t version, pad;
    uint64_t tsc, system_ns;
    uint32_t mul;
    int8_t shift;
    uint8_t flags, more[2];
};

struct task {
    uint32_t reserved;
    uint64_t rsp0;
    uint8_t rest[90];
    uint16_t map; /* beyond the limit: no port is open to CPL3 */
} __attribute__((packed));

/* One for each processor; fs points to it at both privilege levels. */
struct cpu {
    struct cpu *self;
    uint64_t number, apic_id;
    /* gs points here. */
    uint64_t gs_word;
    struct {
        uint64_t number, a, b, result;
    } call;
    /* An instruction that may fault did. */
    bool fault;
    /* timer.c */
    uint64_t ticks, tick_at, tick_gap;
    uint64_t timer_checks, timer_off;
    /* Interrupts by ring(): arrived, taken by the worker, sent by it. */
    uint64_t rung, rung_taken, rings_sent;
    uint64_t state_checks;
    uint64_t expected[STATE_ITEMS];
    bool bad[STATE_ITEMS];
    struct pvclock clock __attribute__((aligned(32)));
    struct task task __attribute__((aligned(16)));
    uint64_t gdt[8] __attribute__((aligned(16)));
} __attribute__((aligned(64)));

extern struct cpu cpus[MAX_WORKERS];
#define CPU ((struct cpu __seg_fs *)0)

/* Calls from CPL3: `out` to this port traps to CPL0, as no port is open to CPL3. */
#define CALL_PORT 0x30
enum call {
    CALL_HALT = 1, /* for ever */
    CALL_SLEEP,    /* until the next interrupt, if none has come by ring() since `a` of them */
    CALL_WRITE,    /* `b` bytes at `a` to the console */
    CALL_IN8,      /* port `a` */
    CALL_OUT8,     /* `b` to port `a` */
    CALL_OUT16,
    CALL_RING,   /* an interrupt for processor `a` */
    CALL_INIT,   /* to all others */
    CALL_START,  /* all others, at page `a` */
    CALL_CHECK,  /* state.c */
    CALL_DAMAGE, /* state.c */
};
uint64_t kernel_call(enum call call, uint64_t a, uint64_t b);
void kernel_serve(enum call call);

/* kernel.c */
struct cpuid {
    uint32_t a, b, c, d;
};
struct cpuid cpuid(uint32_t leaf, uint32_t part);
bool msr_read(uint32_t msr, uint64_t *value);
bool msr_write(uint32_t msr, uint64_t value);
bool at_cpl0(void);
static inline uint64_t rdtsc(void)
{
    uint32_t low, high;
    __asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
    return (uint64_t)high << 32 | low;
}

/* traps.c */
void traps_load(void);
#define VECTOR_TICK 0x40
#define VECTOR_RING 0x41
#define VECTOR_LINE 0x50 /* one for each device */
#define LINES 2
#define VECTOR_SPURIOUS 0xff

/* apic.c: the local interrupt controller, by MSRs (x2APIC) or by memory. Register numbers as x2APIC has them. */
#define APIC_ID 0x02
#define APIC_TPR 0x08
#define APIC_EOI 0x0b
#define APIC_SVR 0x0f
#define APIC_ICR 0x30
#define APIC_LVT_TIMER 0x32
#define APIC_LVT_PERF 0x34
#define APIC_LVT_LINT0 0x35
#define APIC_LVT_LINT1 0x36
#define APIC_LVT_ERROR 0x37
#define APIC_TIMER_INITIAL 0x38
#define APIC_TIMER_CURRENT 0x39
#define APIC_TIMER_DIVIDE 0x3e
#define APIC_INIT_OTHERS 0x000c4500u
#define APIC_START_OTHERS 0x000c4600u
void apic_open(void);
uint64_t apic_read(unsigned reg);
void apic_write(unsigned reg, uint64_t value);
void apic_send(uint64_t apic_id, uint32_t command);

/* lines.c: devices' interrupts, at CPL0. */
void line_interrupt(unsigned number);

/* timer.c: a periodic interrupt each millisecond, and whether it keeps its rate. */
void timer_open(void);
void timer_tick(void);
void timer_sleep(void);

/* clock.c */
/* At CPL0 for each processor; then at CPL3. */
void clock_open_processor(void);
void clock_open(void);
/* How often a clock went backwards. */
uint64_t clock_steps_back(void);

/* state.c, at CPL0: sets what can be set to values of this processor's own, and compares it later. */
void state_set(void);
void state_check(void);
void state_damage(void);
/* Of all processors, at CPL3: items found bad, and the first one's name. */
unsigned state_bad(const char **first);

/* registers.c, at CPL3: the same for what XSAVE holds. */
#define REGISTER_ITEMS 7
void registers_open(void); /* at CPL0 */
void registers_set(void);
void registers_check(void);
void registers_damage(void);
unsigned registers_bad(const char **first);

/* board.c: what the machine says about itself. */
struct board {
    uint64_t ram_bytes;
    unsigned processors;
    char arguments[512];
};
bool board_read(struct board *out);

/* memory.c: free RAM in one piece, whatever lies between its parts. */
void memory_add(uint64_t start, uint64_t end);
uint64_t memory_start(void);
uint64_t memory_end(void);
/* Clears what the loader left in memory that is ours from now on. */
void memory_forget(uint64_t start, uint64_t bytes);

/* acpi.c */
unsigned acpi_processors(uint64_t rsdp); /* 0: not told */
/* The I/O APIC that has an interrupt, and the first one it has; false where nothing is told. */
bool acpi_io_apic(uint32_t interrupt, uint64_t *address, uint32_t *first);

/* ports.c, from either privilege level */
uint8_t in8(uint16_t port);
void out8(uint16_t port, uint8_t value);
void out16(uint16_t port, uint16_t value);
void console_open(void);

/* main.c, at CPL3 */
void user_main(uint64_t processor);

#endif
