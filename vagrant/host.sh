#!/bin/sh
# Install what this machine lacks, as Debian packages.  Idempotent; silent and quick when nothing is missing.
#
#   vagrant/host.sh python   a Python that can make virtual environments
#   vagrant/host.sh vm       QEMU 8 or newer and the tools that build the guest image
#   vagrant/host.sh validate vagrant with its libvirt plugin, which checks vagrant/Vagrantfile
#   vagrant/host.sh vagrant  the same, libvirt's daemons and the tools that build the local box (after `vm`)
#   vagrant/host.sh clang    compilers and bpftool: tests that build BPF objects
#   vagrant/host.sh bench    the same and libbpf: peers of benchmarks
#
# Works as root or through sudo.  It writes nothing under /etc/apt: a suite the machine does not list (backports,
# for QEMU on Debian 12) is read from a private list in a temporary directory, on the mirror that apt already uses.
set -eu

export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8
updated=

say() { echo "host.sh: $*" >&2; }

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"
    elif command -v sudo >/dev/null; then sudo env DEBIAN_FRONTEND=noninteractive "$@"
    else say "need root or sudo to run: $*"; return 1
    fi
}

apt() { as_root apt-get -q -y -o DPkg::Lock::Timeout=600 -o Acquire::Retries=3 "$@" </dev/null >&2; }

update() {  # once; a broken source of the user does not stop us, a missing package does
    [ -n "$updated" ] || apt update || say "apt-get update had errors; going on"
    updated=1
}

install() {  # install PACKAGE...: those that are missing
    missing=
    for p in "$@"; do
        case "$(dpkg-query -W -f '${Status}' "$p" 2>/dev/null)" in
            "install ok installed") ;;
            *) missing="$missing $p" ;;
        esac
    done
    [ -n "$missing" ] || return 0
    command -v apt-get >/dev/null || { say "this is no Debian; install by hand:$missing"; return 1; }
    say "installing$missing"
    update
    # shellcheck disable=SC2086  # a list of words
    apt install --no-install-recommends $missing
}

qemu_major() { qemu-system-x86_64 --version 2>/dev/null | sed -n '1s/.*version \([0-9]*\)\..*/\1/p'; }

install_qemu() {
    major=$(qemu_major)
    [ "${major:-0}" -lt 8 ] || return 0
    # shellcheck source=/dev/null
    codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
    if [ "$codename" != bookworm ]; then
        install qemu-system-x86
    else
        # Debian 12's own QEMU 7.2 corrupts the memory of a 6.12 guest; backports has QEMU 10.
        update
        lists=$(mktemp -d)
        trap 'rm -rf "$lists" 2>/dev/null || as_root rm -rf "$lists"' EXIT
        chmod 755 "$lists"
        mkdir -p "$lists/parts" "$lists/state/partial"
        for f in /etc/apt/sources.list.d/*.sources /etc/apt/sources.list.d/*.list; do
            [ -f "$f" ] && cp "$f" "$lists/parts/"
        done
        uri=$(apt-get indextargets --format '$(RELEASE) $(COMPONENT) $(REPO_URI)' 'Created-By: Packages' |
              sed -n "s/^$codename main //p" | head -n 1)
        [ -n "$uri" ] || { say "found no '$codename main' among apt's sources"; return 1; }
        keyring=/usr/share/keyrings/debian-archive-keyring.gpg
        [ -f "$keyring" ] && signed="[signed-by=$keyring] " || signed=
        echo "deb $signed$uri $codename-backports main" > "$lists/parts/pybpf-backports.list"
        say "installing QEMU from $codename-backports"
        set -- -o Dir::Etc::SourceParts="$lists/parts" -o Dir::State::Lists="$lists/state" -o APT::Sandbox::User=root
        apt "$@" update || say "apt-get update had errors; going on"
        apt "$@" install --no-install-recommends -t "$codename-backports" qemu-system-x86
    fi
    major=$(qemu_major)
    [ "${major:-0}" -ge 8 ] || { say "QEMU ${major:-?} is too old: 8 or newer is needed"; return 1; }
}

[ $# -gt 0 ] || set -- --help
for group in "$@"; do
    case $group in
        -h | --help) sed -n '1d; /^set/q; s/^# \{0,1\}//p' "$0" ;;
        python) install python3 python3-venv ca-certificates ;;
        vm)
            install python3 python3-venv cpio zstd xz-utils
            command -v busybox >/dev/null || install busybox-static
            install_qemu ;;
        validate) install vagrant vagrant-libvirt ;;
        vagrant)
            # Debian 12 has libvirt's drivers in libvirt-daemon, later releases in packages of their own.
            # shellcheck source=/dev/null
            [ "$(. /etc/os-release && echo "${VERSION_CODENAME:-}")" = bookworm ] ||
                install libvirt-daemon-driver-qemu libvirt-daemon-driver-network libvirt-daemon-driver-storage
            install vagrant vagrant-libvirt libvirt-daemon libvirt-clients dnsmasq-base iptables iproute2 rsync \
                openssh-client mmdebstrap e2fsprogs qemu-utils
            # Only the package libvirt-daemon-system, which starts services, would make these.
            for d in /etc/libvirt /var/lib/libvirt /var/log/libvirt /var/cache/libvirt; do
                [ -d "$d" ] || as_root mkdir -p "$d"
            done ;;
        clang) install clang-19 llvm-19 bpftool gcc libc6-dev ;;
        bench) install clang-19 llvm-19 bpftool gcc libc6-dev libbpf-dev ;;
        *) say "unknown group: $group"; exit 2 ;;
    esac
done
