# On a node, with a folder to write to: the kernel and an initrd of a guest that is Linux and has QEMU's agent, all from
# the node's own packages. It mounts its disk, and writes to it a number that grows.
set -euo pipefail
mkdir -p "$1"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp /boot/vmlinuz-* "$1/vmlinuz"
cd "$work"
mkdir -p bin dev proc sys disk tmp var/run modules
cp /usr/bin/busybox /usr/sbin/qemu-ga bin
ln -s busybox bin/sh
for library in $(ldd bin/qemu-ga | grep -o '/[^ ]*'); do
    mkdir -p ".${library%/*}"
    cp -L "$library" ".$library"
done
for module in virtio_pci virtio_blk virtio_console; do modprobe --show-depends $module; done |
    awk '$1 == "insmod" && !seen[$2]++ {print $2}' >modules/order
for module in $(cat modules/order); do cp "$module" modules; done
cat >init <<'INIT'
#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
exec >/dev/ttyS0 2>&1
for module in $(cat /modules/order); do insmod /modules/${module##*/}; done
until mount -t ext4 /dev/vda /disk; do sleep 1; done
until port=$(grep -lx org.qemu.guest_agent.0 /sys/class/virtio-ports/*/name); do sleep 1; done
port=${port%/name}
qemu-ga --daemonize --method virtio-serial --path /dev/${port##*/} --statedir /tmp
number=0
while number=$((number + 1)); do
    echo $number >/disk/new
    sync
    mv /disk/new /disk/number
    sleep 1
done
INIT
chmod 755 init
find . | cpio --quiet -o -H newc >"$1/initrd"
chmod -R a+rX "$1"
