# SPDX-License-Identifier: Apache-2.0
#
# The sample guest: one boot sector without an operating system. For ever it
# builds a 4 KiB record, has the BIOS write it to the second disk, and says
# so on COM1. sample.py carries the assembled bytes, sets the parameters and
# knows how to check the records; a unit test assembles this file anew:
#
#   as --32 -o boot.o sample_boot.S
#   ld -m elf_i386 -Ttext 0x7c00 -e 0x7c00 --oformat binary -o boot.bin boot.o
#
# A record is 1024 little-endian words of 32 bits:
#   0-1   the letters NOVAEXT1
#   2     its number, from 1
#   3     the block of the disk it belongs to: (number - 1) mod ring
#   4     what makes words 2 to 1023 add up to 0
#   5-    w(k) = w(k-1) * STEP + SHIFT, where w(4) = number * SEED. That is
#         linear in the number, so a reader computes all words of a record
#         by one multiplication.
#
# On COM1: "+0000002a" once the disk has acknowledged record 42, "!0000002a"
# when it refused it (the guest then tries the same record again).

        .set    SEED, 0x9e3779b9
        .set    STEP, 0x0019660d
        .set    SHIFT, 0x3c6ef35f
        .set    DISK, 0x81              # the BIOS counts 0x80, 0x81, ...
        .set    BUFFER, 0x8000
        .set    COM1, 0x3f8

        .code16
        .globl  _start
_start: jmp     setup

# sample.py writes these four in the image.
        .org    4
written: .long  0                       # records already on the disk
ring:   .long   1                       # blocks that are used in turn
burst:  .word   0                       # records per timer tick; 0: no rest
        .org    16

# Addresses are linear and jumps are relative, so %cs may be what it likes.
setup:  cli
        xorw    %ax, %ax
        movw    %ax, %ds
        movw    %ax, %es
        movw    %ax, %ss
        movw    $0x7c00, %sp
        cld
        sti

round:  movw    burst, %ax
        movw    %ax, left

record: movl    written, %eax
        xorl    %edx, %edx
        divl    ring
        movl    %edx, block
        shll    $3, %edx                # 8 sectors to a block
        movl    %edx, sector

        movl    written, %eax
        incl    %eax
        movl    %eax, number
        imull   $SEED, %eax, %eax
        xorl    %ebx, %ebx
        movw    $BUFFER + 20, %di
        movw    $1024 - 5, %cx
1:      imull   $STEP, %eax, %eax
        addl    $SHIFT, %eax
        addl    %eax, %ebx
        stosl
        loop    1b

        movw    $BUFFER, %di
        movw    $letters, %si
        movsl
        movsl
        movl    number, %eax
        addl    %eax, %ebx
        stosl
        movl    block, %eax
        addl    %eax, %ebx
        stosl
        xchgl   %eax, %ebx
        negl    %eax
        stosl

        movw    $8, sectors             # the BIOS wrote here what it moved
        movw    $0x4300, %ax
        movb    $DISK, %dl
        movw    $packet, %si
        int     $0x13
        jc      refused

        incl    written
        movb    $'+', %al
        call    say
        cmpw    $0, burst
        je      record
        decw    left
        jnz     record
        hlt                             # until the next timer tick
        jmp     round

refused: movb   $'!', %al
        call    say
        hlt
        jmp     round

# Print %al, the number in hexadecimal and a line feed.
say:    call    putc
        movl    number, %ebp
        movw    $8, %cx
2:      roll    $4, %ebp
        movw    %bp, %ax
        andb    $15, %al
        cmpb    $10, %al                # 0-9 become '0'-'9', 10-15 'a'-'f'
        jb      3f
        addb    $'a' - '0' - 10, %al
3:      addb    $'0', %al
        call    putc
        loop    2b
        movb    $'\n', %al
putc:   movb    %al, %ah
        movw    $COM1 + 5, %dx
4:      inb     %dx, %al
        testb   $0x20, %al              # room for a character?
        jz      4b
        movb    %ah, %al
        movw    $COM1, %dx
        outb    %al, %dx
        ret

letters: .ascii "NOVAEXT1"

        .balign 4
packet: .byte   16, 0                   # int 13h, function 43h: its own size
sectors: .word  8
        .word   BUFFER, 0
sector: .long   0, 0

        .org    510
        .word   0xaa55

# Not in the image: the BIOS loads 512 bytes, these come after them.
        .set    number, 0x7e00
        .set    block, 0x7e04
        .set    left, 0x7e08
