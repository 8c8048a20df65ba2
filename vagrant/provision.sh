#!/bin/sh
# Installs what the tests need. Runs in the machine, as root, at `vagrant up` and `vagrant provision`. $1 = the kernel
# row that grub must boot, or nothing. It may run again at any time and changes only what is not yet right.
# The local box has all packages, so nothing comes from the network there.
set -eu
row=${1:-}
export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8

say() { echo "provision: $*"; }

apt() { apt-get -q -y -o DPkg::Lock::Timeout=600 -o Acquire::Retries=3 "$@" </dev/null; }

packages="python3 python3-capstone python3-psutil python3-pyroute2 python3-pytest python3-hypothesis
    python3-prometheus-client iproute2 kmod procps rsync"
missing=
for p in $packages; do
    case "$(dpkg-query -W -f '${Status}' "$p" 2>/dev/null)" in
        "install ok installed") ;;
        *) missing="$missing $p" ;;
    esac
done
if [ -n "$missing" ]; then
    say "installing$missing"
    apt update
    # shellcheck disable=SC2086  # a list of words
    apt install --no-install-recommends $missing
fi

# The checkout is importable from anywhere, as in the guests of vagrant/vm.
echo /src >/usr/lib/python3/dist-packages/pybpf-checkout.pth

# Let tools see kernel addresses and use perf events.
cat >/etc/sysctl.d/90-pybpf.conf <<END
kernel.kptr_restrict = 0
kernel.perf_event_paranoid = -1
END
sysctl -q -p /etc/sysctl.d/90-pybpf.conf

at() {  # at DIRECTORY TYPE: that file system is mounted there, now and after a reboot
    if ! mountpoint -q "$1"; then
        mkdir -p "$1"
        mount -t "$2" "$2" "$1"
    fi
    grep -q " $1 " /etc/fstab || echo "$2 $1 $2 defaults,nofail 0 0" >>/etc/fstab
}
at /sys/fs/bpf bpf
at /sys/kernel/tracing tracefs
at /sys/kernel/debug debugfs

rm -f /run/pybpf-reboot
[ -n "$row" ] || exit 0
cd /src
python3 -B vagrant/_vagrant/grub.py "$row"
