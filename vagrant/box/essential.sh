#!/bin/sh
# mmdebstrap's essential hook, $1 = the box's root: what must exist before kernels are installed.
set -eu
root=$1
mkdir -p "$root/etc/initramfs-tools/conf.d"
# Only what the root file system needs, on the buses that libvirt and others may use.
printf 'MODULES=list\nCOMPRESS=zstd\nRESUME=none\n' >"$root/etc/initramfs-tools/conf.d/pybpf"
printf '%s\n' virtio_pci virtio_blk virtio_scsi sd_mod ahci ata_piix ext4 >"$root/etc/initramfs-tools/modules"
echo 'do_symlinks = no' >"$root/etc/kernel-img.conf"
