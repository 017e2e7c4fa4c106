/* Entry, and the loops that are timed. They are in assembly so that the number of instructions of one turn
   is known by construction: each says it in its heading, and main.c has the same numbers in its table.

   A loop gets in a0 how many turns to make (at least 1), and in a1 the start of MEMORY bytes. */

    .section .text.start, "ax"
    .globl _start
_start:
    la sp, stack_top
    li t0, 0x6000           /* sstatus.FS: floating point is on */
    csrs sstatus, t0
    la t0, trap
    csrw stvec, t0
    call bench_main
1:  wfi
    j 1b

    .balign 4
trap:
    csrr a0, scause
    csrr a1, sepc
    la sp, stack_top
    call bench_trap
1:  wfi
    j 1b

    .text

/* 9 a turn: xorshift and a sum, registers only. */
    .globl loop_integer
    .balign 16
loop_integer:
    li a2, 0
    li a3, 0x2545f4914f6cdd1d
1:  slli t0, a3, 13
    xor a3, a3, t0
    srli t0, a3, 7
    xor a3, a3, t0
    slli t0, a3, 17
    xor a3, a3, t0
    add a2, a2, a3
    addi a0, a0, -1
    bnez a0, 1b
    ret

/* 10 a turn, 4 of them loads and stores, which walk through 32 MiB in order. */
    .globl loop_walk
    .balign 16
loop_walk:
    li a2, 0
    li a3, 0
    li a4, 0x1ffffff
1:  add t2, a1, a3
    ld t0, 0(t2)
    ld t1, 8(t2)
    add a2, a2, t0
    sd a2, 16(t2)
    sd t1, 24(t2)
    addi a3, a3, 32
    and a3, a3, a4
    addi a0, a0, -1
    bnez a0, 1b
    ret

/* 13 a turn, a load and a store at a random place of 64 MiB: nearly always another page. */
    .globl loop_random
    .balign 16
loop_random:
    li a3, 0x2545f4914f6cdd1d
    li a4, 0x3fffff8
1:  slli t0, a3, 13
    xor a3, a3, t0
    srli t0, a3, 7
    xor a3, a3, t0
    slli t0, a3, 17
    xor a3, a3, t0
    and t0, a3, a4
    add t0, t0, a1
    ld t1, 0(t0)
    add t1, t1, a3
    sd t1, 0(t0)
    addi a0, a0, -1
    bnez a0, 1b
    ret

/* 8 a turn, 6 of them double precision. The values stay ordinary numbers: 3x/4 + 1/7 goes to 4/7. */
    .globl loop_float
    .balign 16
loop_float:
    la t0, float_constants
    fld fa1, 0(t0)
    fld fa2, 8(t0)
    fmv.d fa0, fa2
    fmv.d fa5, fa1
    fmv.d fa6, fa1
1:  fmul.d fa3, fa0, fa1
    fadd.d fa0, fa3, fa2
    fmul.d fa4, fa5, fa1
    fadd.d fa5, fa4, fa2
    fmadd.d fa6, fa6, fa1, fa2
    fsub.d fa7, fa6, fa0
    addi a0, a0, -1
    bnez a0, 1b
    ret

/* 22 a turn: a direct call (3), a call through a table (7), a branch that cannot be foreseen (10), the
   loop (2). Both ways of the branch are equally long. */
    .globl loop_calls
    .balign 16
loop_calls:
    mv a7, ra
    la a4, leaves
    li a2, 0
    li a3, 0x2545f4914f6cdd1d
1:  jal ra, leaf_even
    andi t0, a0, 1
    slli t0, t0, 3
    add t0, t0, a4
    ld t0, 0(t0)
    jalr ra, 0(t0)
    slli t0, a3, 13
    xor a3, a3, t0
    srli t0, a3, 7
    xor a3, a3, t0
    slli t0, a3, 17
    xor a3, a3, t0
    andi t1, a3, 1
    beqz t1, 2f
    addi a2, a2, 3
    j 3f
2:  addi a2, a2, 1
    nop
3:  addi a0, a0, -1
    bnez a0, 1b
    mv ra, a7
    ret
    .balign 16
leaf_even:
    addi a2, a2, 5
    ret
    .balign 16
leaf_odd:
    addi a2, a2, 7
    ret

    .section .rodata
    .balign 8
leaves:
    .dword leaf_even, leaf_odd
float_constants:
    .double 0.75, 0.14285714285714285

    .section .bss.stack, "aw", @nobits
    .balign 16
    .skip 16384
stack_top:
