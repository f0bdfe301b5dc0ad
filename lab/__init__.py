# SPDX-License-Identifier: GPL-3.0-or-later
"""A real pmc cluster on one machine: QEMU nodes with real DRBD, LVM and libvirt. Read `lab.cluster` first."""
