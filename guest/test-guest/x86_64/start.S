/* Entry by the x86/HVM direct boot ABI (PVH): 32-bit protected mode without paging, ebx = start info. */
#define SELECTOR_CODE64 0x08
#define SELECTOR_DATA 0x10
#define SELECTOR_CODE32 0x18
#define STACK_SHIFT 13 /* KERNEL_STACK in machine.h */

    .section .note.pvh, "a", @note
    .balign 4
    .long 4, 8, 18 /* bytes of the name, bytes of the descriptor, XEN_ELFNOTE_PHYS32_ENTRY */
    .asciz "Xen"
    .quad start

    .section .text.start, "ax"
    .code32
    .globl start
start:
    cli
    cld
    movl $bss_start, %edi
    movl $bss_end, %ecx
    subl %edi, %ecx
    shrl $2, %ecx
    xorl %eax, %eax
    rep stosl
    movl %ebx, start_info
    movl $stack_of_start, %esp

    /* The first 4 GiB, identity-mapped in 2 MiB pages for both privilege levels: present, writable, user,
       accessed, dirty, large. The processor never has to write to these tables. */
    movl $identity, %edi
    movl $0xe7, %eax
1:  movl %eax, (%edi)
    addl $8, %edi
    addl $0x200000, %eax
    jnc 1b
    movl $(identity + 0x27), %eax
    movl $first_pdpt, %edi
2:  movl %eax, (%edi)
    addl $8, %edi
    addl $0x1000, %eax
    cmpl $(identity + 0x4027), %eax
    jne 2b
    movl $(first_pdpt + 0x27), root
    movl $(pool_pdpt + 0x27), root + 8

/* What the other processors join at. */
enter_long_mode:
    movl $0x20, %eax /* PAE */
    movl %eax, %cr4
    movl $root, %eax
    movl %eax, %cr3
    movl $0xc0000080, %ecx /* EFER: SCE, LME, NXE */
    movl $0x901, %eax
    xorl %edx, %edx
    wrmsr
    movl $0x80010033, %eax /* PG, WP, NE, ET, MP, PE */
    movl %eax, %cr0
    lgdt boot_gdtr
    ljmp $SELECTOR_CODE64, $long_mode

    .code64
long_mode:
    movl $SELECTOR_DATA, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    xorl %eax, %eax
    movl %eax, %fs
    movl %eax, %gs
    movl $1, %edi
    lock xaddl %edi, processors_met
    cmpl $32, %edi /* MAX_WORKERS */
    jae 3f
    movl %edi, %eax
    shll $STACK_SHIFT, %eax
    leaq kernel_stacks + (1 << STACK_SHIFT)(%rax), %rsp
    call kernel_main
3:  cli
    hlt
    jmp 3b

/* Where the other processors start, copied to a page below 1 MiB: real mode, cs = that page. */
    .code16
    .globl trampoline, trampoline_end
trampoline:
    cli
    cld
    movw %cs, %ax
    movw %ax, %ds
    lgdtl boot_gdtr_copy - trampoline
    movl $0x11, %eax /* ET, PE */
    movl %eax, %cr0
    ljmpl $SELECTOR_CODE32, $protected_mode
boot_gdtr_copy:
    .word boot_gdt_end - boot_gdt - 1
    .long boot_gdt
trampoline_end:

    .code32
protected_mode:
    movl $SELECTOR_DATA, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    jmp enter_long_mode

    .section .rodata
    .balign 8
boot_gdt:
    .quad 0
    .quad 0x00af9b000000ffff
    .quad 0x00cf93000000ffff
    .quad 0x00cf9b000000ffff
boot_gdt_end:
boot_gdtr:
    .word boot_gdt_end - boot_gdt - 1
    .quad boot_gdt

    .section .bss
    .balign 4096
    .globl root, pool_pdpt
root:
    .skip 4096
first_pdpt:
    .skip 4096
pool_pdpt:
    .skip 4096
identity:
    .skip 4 * 4096
    .globl start_info
start_info:
    .skip 8
    .globl processors_met
processors_met:
    .skip 4
    .balign 16
    .skip 256
stack_of_start:
