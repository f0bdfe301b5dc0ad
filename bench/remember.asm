; SPDX-License-Identifier: GPL-3.0-or-later
;
; A guest that sees whether its memory is what it wrote: it counts in a register and in a page of memory for ever, and
; compares them before each step. After a migration that lost a write of that page the two differ.
;
; COM1 gets one letter for each difference: P, the page's pattern is another; C, its counter is. Then it goes on with
; the register's number. And a dot each 4,096 steps, to show that it runs. One boot sector; needs a BIOS, a 386 and
; 64 KB.   nasm -f bin remember.asm

        cpu     386
        bits    16
        org     0x7c00

COM1    equ     0x3f8
page    equ     0x8000          ; one of its own: no code is in it
WORDS   equ     128             ; of 4 bytes, the pattern
counter equ     page + 4 * WORDS

        jmp     0:start
start:
        xor     ax, ax
        mov     ds, ax
        mov     es, ax
        mov     ss, ax
        mov     sp, 0x7000      ; not in the page of the code, which is slow to write to
        cld
        sti                     ; the timer of the BIOS writes to further pages
        xor     ebp, ebp        ; the number
        call    write

.next:  cmp     [counter], ebp
        mov     al, 'C'
        jne     .lost
        mov     di, page
        mov     cx, WORDS
        mov     eax, ebp
        repe    scasd
        mov     al, 'P'
        je      .step
.lost:  mov     dx, COM1
        out     dx, al
.step:  inc     ebp
        test    bp, 4095
        jnz     .quiet
        mov     al, '.'
        mov     dx, COM1
        out     dx, al
.quiet:
        call    write
        jmp     .next

write:
        mov     di, page
        mov     cx, WORDS
        mov     eax, ebp
        rep     stosd
        mov     [counter], ebp
        ret

        times   510 - ($ - $$) db 0
        dw      0xaa55
