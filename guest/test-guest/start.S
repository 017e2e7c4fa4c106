/* Entry in S-mode: a0 = hart id, a1 = device tree. */
    .section .text.start, "ax"
    .globl _start
_start:
    .option push
    .option norelax
    la gp, __global_pointer$
    .option pop
    csrw sie, zero
    csrw sip, zero
    la sp, stack_top
    la t0, bss_start
    la t1, bss_end
1:  bgeu t0, t1, 2f
    sd zero, 0(t0)
    addi t0, t0, 8
    j 1b
2:  la t0, trap
    csrw stvec, t0
    call guest_main
3:  wfi
    j 3b

/* The only interrupt we enable is the timer's, and only across wfi with sstatus.SIE clear, so a trap
   that comes here is a fault of ours: say so and stop. */
    .balign 4
trap:
    csrr a0, scause
    csrr a1, sepc
    csrr a2, stval
    la sp, stack_top
    call guest_trap
4:  wfi
    j 4b

    .section .bss.stack, "aw", @nobits
    .balign 16
    .skip 32768
stack_top:
