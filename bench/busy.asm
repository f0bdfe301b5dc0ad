; SPDX-License-Identifier: GPL-3.0-or-later
;
; The busy guest: writes to its memory for ever, at a pace, and never to its disk. What a live migration has to copy
; again is thus known. One boot sector; busy.py writes the three numbers at its end.
;
; Of each page of 4 KiB, from 1 MiB on, it writes the first 256 bytes, with numbers that do not repeat.
; Needs a BIOS, a 386 and 1 MiB more memory than it writes to.   nasm -f bin busy.asm

        cpu     386
        bits    16
        org     0x7c00

FIRST   equ     0x100000
PAGE    equ     4096
WORDS   equ     64              ; of 4 bytes, written in each page
TICKS   equ     0x46c           ; BIOS data area: timer ticks, 18.2 a second

        jmp     0:start
start:
        xor     ax, ax
        mov     ds, ax
        mov     ss, ax
        mov     sp, 0x7c00
        cld
        call    flat
        mov     esi, 0x2545f491 ; what is written

round:  mov     edi, FIRST
        mov     ecx, [pages]
.page:  mov     edx, WORDS
        mov     ebx, edi
.word:  mov     [fs:ebx], esi
        imul    esi, esi, 1664525
        add     esi, 1013904223
        add     ebx, 4
        dec     edx
        jnz     .word
        add     edi, PAGE
        dec     dword [left]
        jnz     .more
        call    pause
.more:  dec     ecx
        jnz     .page
        jmp     round

; Sleep until the timer's next tick; interrupts are off but for then. The BIOS's own handlers may take FS's limit away.
pause:
        mov     eax, [pace]
        mov     [left], eax
        mov     ax, [TICKS]
        sti
.sleep: hlt
        cmp     ax, [TICKS]
        je      .sleep
        jmp     flat

; FS from 0 with a limit of 4 GiB, as it stays when protected mode is left again.
flat:
        cli
        lgdt    [table]
        mov     eax, cr0
        or      al, 1
        mov     cr0, eax
        mov     bx, 8
        mov     fs, bx
        and     al, 0xfe
        mov     cr0, eax
        jmp     0:.real         ; discards what was fetched in protected mode
.real:  xor     ax, ax
        mov     fs, ax          ; base 0 again; the limit stays
        ret

        align   8
gdt:    dq      0
        dq      0x00cf92000000ffff      ; data, base 0, limit 4 GiB
table:  dw      $ - gdt - 1
        dd      gdt

        times   496 - ($ - $$) db 0
pages:  dd      256             ; how many it writes to
pace:   dd      64              ; and how many of them in each tick; 0: it never sleeps
left:   dd      1               ; until the next sleep
        times   510 - ($ - $$) db 0
        dw      0xaa55
