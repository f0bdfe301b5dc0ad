; SPDX-License-Identifier: GPL-3.0-or-later
;
; The tick guest: numbers its disk for ever, so that a checker (tick.py) sees any lost or torn write.
;
; Disk, in sectors of 512 bytes, all numbers 32 bits, little-endian:
;   0, 1       this program
;   2..6       unused
;   7          head: 32 times the record "TCK2", stride, boots, counter
;   8..        data: slot s = counter mod 2048 is sector 8 + (s * 977 mod 2048) * stride, holds its counter 128 times
;
; So the writes jump to and fro over the whole disk. The stride is what the head has; where that is 0, as in a new
; image, it is what fits: (sectors - 8) / 2048, and stays so.
;
; Each tick writes the data sector, then the head, and only then prints "tick <boots> <counter>" on COM1.
; The whole sector is patterned both times, so that a torn one shows. The BIOS never offers the disk a
; flush, for which QEMU puts a virtio disk into write-through mode: a write that returned is stable.
;
; Other lines: "tick-error" a write or read failed and is tried again; "tick-head" the head is not
; what this program writes, it stops without writing; "tick-noacpi" no power button was found;
; "tick-off <boots> <counter>" the power button was pressed, the machine goes off.
;
; Needs a BIOS with int 13h extensions, a 386 and 64 KB.   nasm -f bin tick.asm

        cpu     386
        bits    16
        org     0x7c00

HEAD_LBA equ    7
DATA_LBA equ    8
SLOTS   equ     2048            ; a power of two, main masks with it
JUMP    equ     977             ; odd: each slot is met once in SLOTS ticks
SHIFT   equ     11              ; SLOTS is 1 << SHIFT

COM1    equ     0x3f8
TICKS   equ     0x46c           ; BIOS data area: timer ticks, 18.2 a second
PACE    equ     4               ; so 4.5 writes a second: the BIOS waits busily, and an emulated node has one CPU

PIIX4   equ     0x80000b00      ; configuration address of 00:01.3, power management of machine "pc"
PIIX4_ID equ    0x71138086
ICH9    equ     0x8000f800      ; 00:1f.0, the LPC bridge of machine "q35"
ICH9_ID equ     0x29188086
PMBASE  equ     0x40            ; in both, the register that holds the base of the ACPI ports
PM1_EN  equ     2               ; offsets from that base; PM1_STS is at 0
PM1_CNT equ     4
BUTTON  equ     0x100           ; PWRBTN_STS in PM1_STS, PWRBTN_EN in PM1_EN
OFF     equ     0x2000          ; SLP_EN with sleep type 0, which is S5 in QEMU

buffer  equ     0x8000          ; what goes to the disk
found   equ     0x8200          ; the head as read at the start

        absolute 0x8400         ; variables, each set before it is read
stride:         resd    1
boots:          resd    1
counter:        resd    1
last:           resw    1       ; the timer at the last pause; any value will do at the start
drive:          resb    1
command:        resb    1
mute:           resb    1

        section .text

; Sector 0: loads sector 1, and has all that this needs.

        jmp     0:start
start:
        xor     ax, ax
        mov     ds, ax
        mov     es, ax
        mov     ss, ax
        mov     sp, 0x7c00
        cld
        sti
        mov     [drive], dl
        mov     ax, 0x00e3      ; COM1 to 9600 8N1
        xor     dx, dx
        int     0x14
        mov     bx, main
        mov     ecx, 1
        mov     ah, 0x42
        call    disk
        jmp     main

; AH 0x42 read, 0x43 write: one sector, number ECX, memory at BX. Tries until it succeeds.
disk:
        mov     [command], ah
        mov     [packet.memory], bx
        mov     [packet.lba], ecx
.again: mov     word [packet.count], 1  ; the BIOS stores here how many it did
        mov     ah, [command]
        mov     al, 0
        mov     dl, [drive]
        mov     si, packet
        int     0x13
        jnc     .done
        mov     si, text_error
        call    line
        call    pause           ; so the power button works even while the disk does not
        jmp     .again
.done:  ret

; Sleep until the timer has ticked PACE times since the last call, then obey the power button.
pause:
.sleep: mov     ax, [TICKS]
        mov     dx, ax
        sub     dx, [last]
        cmp     dx, PACE
        jae     .awake
        hlt
        jmp     .sleep
.awake: mov     [last], ax
        mov     dx, [pm]
        test    dx, dx
        jz      .done
        in      ax, dx
        test    ax, BUTTON
        jz      .done
        mov     ax, BUTTON      ; a one clears it
        out     dx, ax
        mov     si, text_off
        call    report
        mov     dx, [pm]
        add     dx, PM1_CNT
        mov     ax, OFF
        out     dx, ax
.off:   hlt
        jmp     .off
.done:  ret

; Print the text at SI (ended by a zero), boots and counter.
report:
        call    text
        mov     eax, [boots]
        call    number
        mov     al, ' '
        call    char
        mov     eax, [counter]
        call    number
        jmp     text.end
; Print the text at SI and end the line.
line:
        call    text
        jmp     text.end
; Print the text at SI, the first of a line.
text:
        mov     byte [mute], 0  ; each line gets a new chance
.next:  lodsb
        test    al, al
        jz      .done
        call    char
        jmp     .next
.end:   mov     si, text_end
        jmp     .next
.done:  ret

; Print EAX in decimal.
number:
        xor     edx, edx
        mov     ecx, 10
        div     ecx
        push    dx
        test    eax, eax
        jz      .digit
        call    number
.digit: pop     ax
        add     al, '0'
; Print AL. When the port does not take it within 65536 polls, the rest of the line is left out,
; its end too: a reader that hangs must not stop the disk, and a number cut short must not look whole.
char:
        cmp     byte [mute], 0
        jne     .done
        mov     ah, al
        mov     dx, COM1 + 5    ; line status; bit 5: may send
        xor     cx, cx
.poll:  in      al, dx
        test    al, 0x20
        loopz   .poll
        jz      .stuck
        mov     dl, COM1 & 0xff
        mov     al, ah
        out     dx, al
.done:  ret
.stuck: mov     byte [mute], 1
        ret

text_tick       db      'tick ', 0
text_off        db      'tick-off ', 0
text_error      db      'tick-error', 0
text_head       db      'tick-head', 0
text_noacpi     db      'tick-noacpi', 0
text_end        db      13, 10, 0

pm              dw      0       ; base of the ACPI ports, 0: none

packet:         db      16, 0   ; disk address packet of int 13h
.count          dw      0
.memory         dw      0, 0
.lba            dd      0, 0

        times   510 - ($ - $$) db 0
        dw      0xaa55

; Sector 1.

main:
        ; The power button first: from here on an early press is kept in PM1_STS and not lost.
        mov     ebx, PIIX4
        mov     ecx, PIIX4_ID
        call    find_pm
        mov     ebx, ICH9
        mov     ecx, ICH9_ID
        call    find_pm
        cmp     word [pm], 0
        jne     .head
        mov     si, text_noacpi
        call    line

.head:  mov     bx, found
        mov     ecx, HEAD_LBA
        mov     ah, 0x42
        call    disk
        mov     eax, [found + 4]
        mov     [stride], eax
        mov     eax, [found + 8]
        mov     [boots], eax
        mov     eax, [found + 12]
        mov     [counter], eax

        ; A wrong or torn head must not be hidden by writing over it: compose what it should be, compare.
        call    compose_head
        mov     si, buffer
        mov     di, found
        mov     cx, 128
        repe    cmpsd
        je      .boot
        mov     si, text_head
        call    line
.stop:  call    pause
        jmp     .stop

.boot:  cmp     dword [stride], 0
        jne     .count
        mov     ah, 0x48        ; how large the disk is
        mov     dl, [drive]
        mov     si, parameters
        int     0x13
        jc      .boot
        mov     eax, [parameters.sectors]
        sub     eax, DATA_LBA
        shr     eax, SHIFT
        mov     [stride], eax
.count: inc     dword [boots]
        mov     eax, [counter]
        call    write_head

.next:  mov     eax, [counter]
        inc     eax
        mov     di, buffer
        mov     cx, 128
        rep     stosd
        imul    ecx, eax, JUMP
        and     ecx, SLOTS - 1
        imul    ecx, [stride]
        add     ecx, DATA_LBA
        call    write
        mov     eax, [counter]
        inc     eax
        call    write_head
        inc     dword [counter] ; not earlier: "tick-off" must name a counter that is on the disk
        mov     si, text_tick
        call    report
        call    pause
        jmp     .next

; Write the head, with [boots] and the counter in EAX.
write_head:
        call    compose_head
        mov     ecx, HEAD_LBA
; Write the buffer to sector ECX.
write:
        mov     bx, buffer
        mov     ah, 0x43
        jmp     disk

; Fill the buffer with a head, with [boots] and the counter in EAX.
compose_head:
        mov     edx, eax
        mov     di, buffer
        mov     cx, 32
.record:
        mov     si, magic
        movsd
        mov     eax, [stride]
        stosd
        mov     eax, [boots]
        stosd
        mov     eax, edx
        stosd
        loop    .record
        ret

; If the PCI device at configuration address EBX has the id ECX: keep its ACPI ports, enable the button.
find_pm:
        mov     eax, ebx
        call    pci
        cmp     eax, ecx
        jne     .done
        lea     eax, [ebx + PMBASE]
        call    pci
        and     ax, 0xffc0
        jz      .done
        mov     [pm], ax
        mov     dx, ax
        add     dx, PM1_EN
        mov     ax, BUTTON
        out     dx, ax
.done:  ret

; EAX: the PCI configuration register at address EAX.
pci:
        mov     dx, 0xcf8
        out     dx, eax
        mov     dl, 0xfc
        in      eax, dx
        ret

magic   db      'TCK2'

parameters:     dw      26      ; drive parameters of int 13h, version 1
                times   14 db 0
.sectors        dd      0, 0
                dw      0

        times   1024 - ($ - $$) db 0
