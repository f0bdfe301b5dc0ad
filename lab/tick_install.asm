; SPDX-License-Identifier: GPL-3.0-or-later
;
; The installer of the tick guest: the boot image of a CD (El Torito, no emulation), loaded as a whole
; to 0x7c00. It writes the tick guest onto the first hard disk and restarts the machine.
;
; The include path must have payload.bin, the first 8 sectors of the disk as tick.asm describes it, with stride 1.
;
; Lines on COM1: "install", then "install-done" and the restart, or "install-error <why>" and nothing more.
;
;   nasm -f bin -I <folder of payload.bin>/ tick_install.asm

        cpu     386
        bits    16
        org     0x7c00

COM1    equ     0x3f8
DISK    equ     0x80
SECTORS equ     8 + 2048        ; what the tick guest uses of its disk
CHUNK   equ     64              ; sectors for one write of zeros
zeros   equ     0x1000          ; segment of as many zeroed bytes

        jmp     0:start
start:
        xor     ax, ax
        mov     ds, ax
        mov     ss, ax
        mov     sp, 0x7c00
        cld
        sti
        mov     ax, 0x00e3      ; COM1 to 9600 8N1
        xor     dx, dx
        int     0x14
        mov     si, text_install
        call    text

        mov     ah, 0x41        ; are there int 13h extensions, so: is there such a disk
        mov     bx, 0x55aa
        mov     dl, DISK
        int     0x13
        mov     si, text_missing
        jc      fail
        cmp     bx, 0xaa55
        jne     fail
        mov     ah, 0x48        ; its size
        mov     dl, DISK
        mov     si, parameters
        int     0x13
        mov     si, text_missing
        jc      fail
        cmp     dword [parameters.sectors + 4], 0
        jne     .clear
        cmp     dword [parameters.sectors], SECTORS
        mov     si, text_small
        jb      fail

        ; The disk may be a volume with the remains of another: the checker wants zeros where no tick was.
.clear: mov     ax, zeros
        mov     es, ax
        xor     di, di
        xor     eax, eax
        mov     cx, CHUNK * 512 / 4
        rep     stosd
        mov     bx, CHUNK
        mov     cx, SECTORS - CHUNK
.chunk: mov     [packet.lba], cx
        mov     [packet.segment], es
        mov     word [packet.memory], 0
        call    write
        sub     cx, CHUNK
        jae     .chunk

        ; Sector 0 last: a disk whose installation was cut off must not boot.
        mov     word [packet.segment], 0
        mov     bx, 7
        mov     word [packet.lba], 1
        mov     word [packet.memory], payload + 512
        call    write
        mov     bx, 1
        mov     word [packet.lba], 0
        mov     word [packet.memory], payload
        call    write

        mov     si, text_done
        call    text
        mov     dx, 0xcf9       ; reset control: hard reset
        mov     al, 0x02
        out     dx, al
        mov     al, 0x06
        out     dx, al
        mov     al, 0xfe        ; or else the keyboard controller's
        out     0x64, al
        jmp     halt

; Write BX sectors to DISK as the packet says.
write:
        mov     [packet.count], bx
        mov     ax, 0x4300
        mov     dl, DISK
        mov     si, packet
        int     0x13
        mov     si, text_write
        jc      fail
        ret

; Print the text at SI and stop.
fail:
        call    text
halt:
        hlt
        jmp     halt

; Print the text at SI (ended by a zero).
text:
.next:  lodsb
        test    al, al
        jz      .done
        mov     ah, 1           ; the BIOS gives up after a while: a reader that hangs stops nothing
        xor     dx, dx
        int     0x14
        jmp     .next
.done:  ret

text_install    db      'install', 13, 10, 0
text_done       db      'install-done', 13, 10, 0
text_missing    db      'install-error no disk', 13, 10, 0
text_small      db      'install-error disk too small', 13, 10, 0
text_write      db      'install-error write failed', 13, 10, 0

packet:         db      16, 0   ; disk address packet of int 13h
.count          dw      0
.memory         dw      0
.segment        dw      0
.lba            dw      0, 0, 0, 0

parameters:     dw      26      ; drive parameters of int 13h, version 1
                times   14 db 0
.sectors        dd      0, 0
                dw      0

        times   512 - ($ - $$) db 0
payload:
        incbin  'payload.bin'
        times   512 * (1 + 8) - ($ - $$) db 0   ; fails if the payload is longer
