#!/bin/sh
# mmdebstrap's last hook, $1 = the box's root: users, network, services, boot loader.
set -eu
root=$1
inside() { chroot "$root" "$@"; }
put() { mkdir -p "$root$(dirname "$1")"; cat >"$root$1"; }

# The user and the public key that vagrant expects of any box.
inside useradd --create-home --shell /bin/bash vagrant
echo 'vagrant:vagrant' | inside chpasswd
echo 'vagrant ALL=(ALL) NOPASSWD: ALL' | put /etc/sudoers.d/vagrant
chmod 440 "$root/etc/sudoers.d/vagrant"
put /home/vagrant/.ssh/authorized_keys <"$VAGRANT_KEY"
chmod -R go= "$root/home/vagrant/.ssh"
inside chown -R vagrant: /home/vagrant/.ssh
printf 'UseDNS no\nAcceptEnv OUT PYBPF_*\n' | put /etc/ssh/sshd_config.d/pybpf.conf

put /etc/systemd/network/80-dhcp.network <<'END'
[Match]
Name=en* eth*

[Network]
DHCP=ipv4
LinkLocalAddressing=no
IPv6AcceptRA=no

[DHCPv4]
ClientIdentifier=mac
END
echo pybpf | put /etc/hostname
printf '127.0.0.1 localhost\n127.0.1.1 pybpf\n' | put /etc/hosts
rm -f "$root/etc/resolv.conf"
: | put /etc/resolv.conf
echo 'LABEL=pybpf / ext4 noatime 0 1' | put /etc/fstab
: | put /etc/machine-id

inside systemctl -q enable systemd-networkd.service ssh.service
inside systemctl -q mask apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer \
    e2scrub_all.timer e2scrub_reap.service fstrim.timer getty@tty1.service \
    systemd-networkd-wait-online.service

# Otherwise the first boot updates what installing the packages has just made.
touch -r "$root/usr" "$root/etc/.updated" "$root/var/.updated"

# Boot loader. This menu is used until somebody runs update-grub, which writes its own.
mkdir -p "$root/boot/grub/i386-pc"
cp "$root"/usr/lib/grub/i386-pc/*.mod "$root"/usr/lib/grub/i386-pc/*.lst "$root/boot/grub/i386-pc/"
put /etc/default/grub <<END
GRUB_DEFAULT=0
GRUB_TIMEOUT=0
GRUB_CMDLINE_LINUX_DEFAULT=""
GRUB_CMDLINE_LINUX="$BOX_CMDLINE"
GRUB_TERMINAL=console
GRUB_DISABLE_OS_PROBER=true
END
{
    echo 'set timeout=0'
    for release in $(inside linux-version list | inside linux-version sort --reverse); do
        echo "menuentry 'Debian, $release' --id 'pybpf-$release' {"
        echo "  linux /boot/vmlinuz-$release root=LABEL=pybpf ro $BOX_CMDLINE"
        echo "  initrd /boot/initrd.img-$release"
        echo "}"
    done
} | put /boot/grub/grub.cfg
inside grub-mkimage -O i386-pc -o /boot/grub/core.img -p '(hd0,msdos1)/boot/grub' biosdisk part_msdos ext2 normal

rm -rf "$root"/etc/apt/sources.list "$root"/etc/apt/sources.list.d/* "$root"/etc/apt/preferences.d/pybpf \
    "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/*.bin "$root"/var/cache/apt/archives/*.deb
