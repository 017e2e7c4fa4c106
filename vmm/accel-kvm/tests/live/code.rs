//! What the guests execute, assembled with these tests. All is position independent.
#![allow(unsafe_code)]

use std::arch::global_asm;

global_asm!(
    r#"
    .section .rodata
    .balign 16
    .globl umem_guest_start
umem_guest_start:

    # The kernel. Vector 13: `out 0x30` of a program. EAX goes to the monitor; the program goes on behind.
    .globl umem_k_call
umem_k_call:
    out 0x30, eax
    add qword ptr [rsp + 8], 2
    add rsp, 8
    iretq

    # Vector 0x21, the timer: counts in [0x7000], tells the local APIC.
    .globl umem_k_tick
umem_k_tick:
    push rax
    inc qword ptr [0x7000]
    mov rax, 0xfee000b0
    mov dword ptr [rax], 0
    pop rax
    iretq

    # Starts the timer with LVT R12D and count R13D, each tick 16 ns, then the program at R10.
    .globl umem_k_start
umem_k_start:
    mov rax, 0xfee00000
    mov dword ptr [rax + 0xf0], 0x1ff
    mov dword ptr [rax + 0x3e0], 3
    mov dword ptr [rax + 0x320], r12d
    mov dword ptr [rax + 0x380], r13d
    push 0x2b
    push 0x80000
    push 0x202
    push 0x33
    push r10
    iretq

    # Has KVM keep its clock at 0xc000, then the program at R10.
    .globl umem_k_clock
umem_k_clock:
    mov ecx, 0x4b564d01
    mov eax, 0xc001
    xor edx, edx
    wrmsr
    push 0x2b
    push 0x80000
    push 0x202
    push 0x33
    push r10
    iretq

    # Programs. R14 counts until someone stops it.
    .globl umem_u_spin
umem_u_spin:
    inc r14
    jmp umem_u_spin

    # Says so each time round.
    .globl umem_u_call
umem_u_call:
    inc eax
    out 0x30, al
    jmp umem_u_call

    # Reads RBX pages from RDI on; calls.
    .globl umem_u_read
umem_u_read:
    add r14, [rdi]
    add rdi, 4096
    dec rbx
    jnz umem_u_read
    out 0x30, al
    jmp umem_u_read

    # Writes R8 into each of RBX pages from RDI on; calls.
    .globl umem_u_write
umem_u_write:
    mov [rdi], r8
    add rdi, 4096
    dec rbx
    jnz umem_u_write
    out 0x30, al
    jmp umem_u_write

    # Writes RCX times a growing number to random places: of RBX + 1 (a power of two) pages from RDI on,
    # at one of 512 words. R9 is the seed. Calls.
    .globl umem_u_random
umem_u_random:
    mov rax, r9
    shl rax, 13
    xor r9, rax
    mov rax, r9
    shr rax, 7
    xor r9, rax
    mov rax, r9
    shl rax, 17
    xor r9, rax
    mov rax, r9
    shr rax, 20
    and rax, rbx
    shl rax, 12
    mov rdx, r9
    shr rdx, 50
    and rdx, 511
    lea rax, [rax + rdx * 8]
    mov [rdi + rax], rcx
    dec rcx
    jnz umem_u_random
    out 0x30, al
    jmp umem_u_random

    # Fills vector registers from R8, calls, and then adds them up in R14 and calls again.
    .globl umem_u_vectors
umem_u_vectors:
    fld1
    vmovq xmm0, r8
    vpbroadcastq ymm0, xmm0
    vpaddq ymm1, ymm0, ymm0
    vpaddq ymm2, ymm1, ymm1
    vpaddq ymm15, ymm2, ymm2
    out 0x30, al
    vpaddq ymm0, ymm0, ymm1
    vpaddq ymm0, ymm0, ymm2
    vpaddq ymm0, ymm0, ymm15
    vextracti128 xmm1, ymm0, 1
    vpextrq r14, xmm1, 1
    out 0x30, al
1:  jmp 1b

    # Reads the time-stamp counter into R14; calls.
    .globl umem_u_time
umem_u_time:
    rdtsc
    shl rdx, 32
    or rax, rdx
    mov r14, rax
    out 0x30, al
    jmp umem_u_time

    # In the kernel: writes to ports and devices, reads from them.
    .globl umem_k_exits
umem_k_exits:
    mov dx, 0x505
    mov eax, 0x11223344
    out dx, eax
    out dx, ax
    out dx, al
    in eax, dx
    out 0x31, eax
    in al, dx
    out 0x31, al
    mov rdi, 0xd0000000
    mov [rdi], eax
    mov [rdi + 8], rdi
    mov rax, [rdi + 16]
    out 0x32, eax
    mov eax, [rdi + 24]
    out 0x32, eax
    mov rsi, 0xb000
    mov ecx, 3
    mov dx, 0x506
    rep outsw
    mov rdi, 0xb100
    mov ecx, 3
    rep insw
    mov eax, [0xb102]
    out 0x33, eax
    mov rdi, 0xd0000ffd
    mov dword ptr [rdi], 0x44332211
    out 0x34, al
    hlt

    # In the kernel: CPUID of EAX, ECX, and says so. Answers stay in registers.
    .globl umem_k_cpuid
umem_k_cpuid:
    cpuid
    out 0x30, al
    hlt

    # In the kernel: a triple fault.
    .globl umem_k_triple
umem_k_triple:
    lidt [rip + 1f]
    ud2
    .balign 8
1:  .word 0
    .quad 0

    # In the kernel: an instruction that a KVM without hardware help does not emulate.
    .globl umem_k_strange
umem_k_strange:
    vpaddd xmm2, xmm1, xmm1
    out 0x30, al
    hlt

    # In the kernel: halts.
    .globl umem_k_wait
umem_k_wait:
    sti
    hlt
    jmp umem_k_wait

    # In the kernel: has the I/O APIC deliver line 5 at vector 0x21, and says before each halt and after it.
    .globl umem_k_lines
umem_k_lines:
    mov al, 0xff
    out 0x21, al
    out 0xa1, al
    mov rax, 0xfee00000
    mov dword ptr [rax + 0xf0], 0x1ff
    mov rdi, 0xfec00000
    mov dword ptr [rdi], 0x1a
    mov dword ptr [rdi + 0x10], 0x21
    mov dword ptr [rdi], 0x1b
    mov dword ptr [rdi + 0x10], 0
    xor eax, eax
1:  out 0x30, al
    sti
    hlt
    cli
    mov rax, [0x7000]
    out 0x31, al
    jmp 1b

    .globl umem_guest_end
umem_guest_end:
    .text
"#
);

/// Where the code lies in the guest.
pub(crate) const CODE: u64 = 0x10_0000;

unsafe extern "C" {
    static umem_guest_start: u8;
    static umem_guest_end: u8;
}

/// All of it.
pub(crate) fn image() -> &'static [u8] {
    let (start, end) = (&raw const umem_guest_start, &raw const umem_guest_end);
    // SAFETY: both lie in the code above, the end behind the start, and nobody writes there.
    unsafe { std::slice::from_raw_parts(start, end as usize - start as usize) }
}

macro_rules! entries {
    ($($name:ident: $symbol:ident),* $(,)?) => {
        unsafe extern "C" { $(static $symbol: u8;)* }
        $(
            /// Where this lies in the guest.
            pub(crate) fn $name() -> u64 {
                CODE + (&raw const $symbol as u64 - &raw const umem_guest_start as u64)
            }
        )*
    };
}

entries!(
    k_call: umem_k_call,
    k_tick: umem_k_tick,
    k_start: umem_k_start,
    k_clock: umem_k_clock,
    u_spin: umem_u_spin,
    u_call: umem_u_call,
    u_read: umem_u_read,
    u_write: umem_u_write,
    u_random: umem_u_random,
    u_vectors: umem_u_vectors,
    u_time: umem_u_time,
    k_exits: umem_k_exits,
    k_cpuid: umem_k_cpuid,
    k_triple: umem_k_triple,
    k_strange: umem_k_strange,
    k_wait: umem_k_wait,
    k_lines: umem_k_lines,
);
