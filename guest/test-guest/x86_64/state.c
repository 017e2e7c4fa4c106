/* What a processor holds outside of memory and general registers, seen from CPL0. At the start everything that
   no one depends on is set to values that differ from processor to processor; what is read back then is what
   must be read ever after. A register that this processor lacks reads as 0 each time. */
#include "machine.h"

static const struct {
    uint32_t msr;
    const char *name;
} msrs[] = {
    {0x1b, "apic_base"},        {0x3b, "tsc_adjust"},      {0x174, "sysenter_cs"},
    {0x175, "sysenter_esp"},    {0x176, "sysenter_eip"},   {0x200, "mtrr_base0"},
    {0x201, "mtrr_mask0"},      {0x277, "pat"},            {0x2ff, "mtrr_type"},
    {0xc0000080, "efer"},       {0xc0000081, "star"},      {0xc0000082, "lstar"},
    {0xc0000083, "cstar"},      {0xc0000084, "sfmask"},    {0xc0000100, "fs_base"},
    {0xc0000101, "gs_base"},    {0xc0000102, "kernel_gs"}, {0xc0000103, "tsc_aux"},
    {0x4b564d01, "system_time"},
};
static const struct {
    uint8_t reg;
    const char *name;
} apic_registers[] = {
    {APIC_ID, "apic_id"},
    {APIC_TPR, "apic_tpr"},
    {APIC_SVR, "apic_svr"},
    {APIC_LVT_TIMER, "apic_timer"},
    {APIC_LVT_PERF, "apic_perf"},
    {APIC_LVT_LINT0, "apic_lint0"},
    {APIC_LVT_LINT1, "apic_lint1"},
    {APIC_LVT_ERROR, "apic_error"},
    {APIC_TIMER_INITIAL, "apic_initial"},
    {APIC_TIMER_DIVIDE, "apic_divide"},
};
static const char *const others[] = {
    "cr0", "cr2", "cr3", "cr4", "cr8", "dr0", "dr1", "dr2",
    "dr3", "dr6", "dr7", "gdt", "gdt_limit", "idt", "idt_limit", "task",
};
#define MSRS (sizeof msrs / sizeof msrs[0])
#define APIC_REGISTERS (sizeof apic_registers / sizeof apic_registers[0])
#define OTHERS (sizeof others / sizeof others[0])
_Static_assert(MSRS + APIC_REGISTERS + OTHERS <= STATE_ITEMS, "room for all");

#define MSR_LSTAR 0xc0000082u

#define READ(what)                                             \
    ({                                                         \
        uint64_t value;                                        \
        __asm__ volatile("mov %%" #what ", %0" : "=r"(value)); \
        value;                                                 \
    })
#define WRITE(what, value) __asm__ volatile("mov %0, %%" #what ::"r"((uint64_t)(value)))

static void set_msrs(uint64_t own)
{
    msr_write(0x174, 0x1230 + own);
    msr_write(0x175, 0x7fff11110000 + (own << 4));
    msr_write(0x176, 0x7fff22220000 + (own << 4));
    /* A range that is not valid, so that it has no effect. */
    msr_write(0x200, 0x40000006 + (own << 24));
    msr_write(0x201, 0xf0000000);
    /* The upper half is for pages with PAT set: there are none. */
    msr_write(0x277, 0x0106040000070406);
    msr_write(0xc0000081, 0x0018000833330000 + own);
    msr_write(MSR_LSTAR, 0xffffffff81000000 + (own << 4));
    msr_write(0xc0000083, 0xffffffff82000000 + (own << 4));
    msr_write(0xc0000084, 0x40000 + own);
    msr_write(0xc0000102, 0x7fff44440000 + (own << 4));
    msr_write(0xc0000103, 0x5550000 + own);
}

void state_set(void)
{
    uint64_t own = CPU->number + 1;
    set_msrs(own);
    apic_write(APIC_TPR, (own % 4) << 4); /* holds back only vectors below 0x40 */
    WRITE(cr2, 0x7fff00001000 + own);
    WRITE(dr0, 0x100000 + (own << 4));
    WRITE(dr1, 0x200000 + (own << 4));
    WRITE(dr2, 0x300000 + (own << 4));
    WRITE(dr3, 0x400000 + (own << 4));
    WRITE(dr7, 0x50400 + ((own % 4) << 20)); /* kinds and lengths; none is enabled */
}

static void snapshot(uint64_t values[STATE_ITEMS])
{
    struct {
        uint16_t limit;
        uint64_t base;
    } __attribute__((packed)) table;
    uint16_t task;
    for (unsigned i = 0; i < MSRS; i++)
        if (!msr_read(msrs[i].msr, values++))
            values[-1] = 0;
    for (unsigned i = 0; i < APIC_REGISTERS; i++)
        *values++ = apic_read(apic_registers[i].reg);
    *values++ = READ(cr0);
    *values++ = READ(cr2);
    *values++ = READ(cr3);
    *values++ = READ(cr4);
    *values++ = READ(cr8);
    *values++ = READ(dr0);
    *values++ = READ(dr1);
    *values++ = READ(dr2);
    *values++ = READ(dr3);
    *values++ = READ(dr6);
    *values++ = READ(dr7);
    __asm__ volatile("sgdt %0" : "=m"(table));
    *values++ = table.base;
    *values++ = table.limit;
    __asm__ volatile("sidt %0" : "=m"(table));
    *values++ = table.base;
    *values++ = table.limit;
    __asm__ volatile("str %0" : "=r"(task));
    *values++ = task;
}

void state_check(void)
{
    uint64_t values[STATE_ITEMS];
    snapshot(values);
    bool first = CPU->state_checks == 0;
    for (unsigned i = 0; i < MSRS + APIC_REGISTERS + OTHERS; i++) {
        if (first)
            CPU->expected[i] = values[i];
        else if (CPU->expected[i] != values[i])
            CPU->bad[i] = true;
    }
    CPU->state_checks++;
}

void state_damage(void)
{
    uint64_t value;
    msr_read(MSR_LSTAR, &value);
    msr_write(MSR_LSTAR, value ^ 0x1000);
}

static const char *name_of(unsigned item)
{
    if (item < MSRS)
        return msrs[item].name;
    if (item < MSRS + APIC_REGISTERS)
        return apic_registers[item - MSRS].name;
    return others[item - MSRS - APIC_REGISTERS];
}

unsigned state_bad(const char **first)
{
    unsigned bad = 0;
    for (unsigned number = 0; number < MAX_WORKERS; number++)
        for (unsigned i = 0; i < MSRS + APIC_REGISTERS + OTHERS; i++)
            if (cpus[number].bad[i] && bad++ == 0)
                *first = name_of(i);
    return bad;
}
