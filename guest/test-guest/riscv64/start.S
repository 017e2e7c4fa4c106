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

/* Entry of a hart that was started: a0 = hart id, a1 = its struct entry in harts.c. */
    .globl hart_entry
hart_entry:
    .option push
    .option norelax
    la gp, __global_pointer$
    .option pop
    csrw sie, zero
    ld sp, 0(a1)
    ld t0, 8(a1)
    sfence.vma
    csrw satp, t0
    sfence.vma
    la t0, trap
    csrw stvec, t0
    ld t0, 16(a1)
    ld a0, 24(a1)
    jalr t0
5:  wfi
    j 5b

/* The interrupts that we enable only end a wfi, with sstatus.SIE clear, so a trap
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
