#!/bin/sh
# Installs what `make demo` and `make test` need: Debian packages (asks sudo when not root) and a venv. Fine when run twice.
set -eu
venv=${1:-.venv}

# The lab's nodes: QEMU, their image, their guests. The unit tests run the pipelines of backups: zstd, xdelta3.
# libvirt-python is compiled against libvirt-dev.
packages="qemu-system-x86 qemu-utils seabios mmdebstrap uidmap cpio e2fsprogs openssh-client nasm xorriso zstd xdelta3
    python3-venv python3-dev gcc pkg-config libvirt-dev"

missing=
for package in $packages; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing="$missing $package"
done
if [ -n "$missing" ]; then
    command -v apt-get >/dev/null || { echo "this is no Debian; install the likes of:$missing" >&2; exit 2; }
    if [ "$(id -u)" = 0 ]; then sudo=; else sudo=sudo; fi
    echo "installing:$missing"
    $sudo apt-get -q update >/dev/null
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends -y $missing >/dev/null
fi

python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "python3 is older than 3.11" >&2; exit 2; }
[ -x "$venv/bin/python" ] || python3 -m venv "$venv"
echo "installing pmc and what it needs into $venv"
"$venv/bin/pip" install --quiet --disable-pip-version-check -e '.[dev]'
