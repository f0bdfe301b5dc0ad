"""What nodes say: parsers of what DRBD, LVM and libvirt print, and what follows from it alone."""
