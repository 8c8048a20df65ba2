"""Run libvirt, its bridge and vagrant where nobody else can see them, and leave nothing behind.

`outside` starts this module under unshare(1), as process 1 of new PID, network, mount and IPC
namespaces. libvirtd's bridge, dnsmasq and firewall rules exist only in that network. libvirt's
directories and /run are file systems in memory that only these processes see. A /dev/kvm that
does not work is hidden (libvirtd loses a minute on it for each machine).

Everything lives as long as process 1. It ends when its work ends, when its parent ends
(PR_SET_PDEATHSIG, by unshare's --kill-child), or when the pipe that is its standard input is
closed. Only `outside` holds the other end, and the kernel closes it however `outside` ends. When
process 1 is gone, the kernel kills all the others. With the last of them, the network, the mounts
and the memory disappear.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

from .._vm import cache, qemu
from .box import as_root, die_with_parent
from .machine import CHECKOUT, DIED, EMULATOR, Failure, Machine, Setting, note

__all__ = ["ended", "main", "outside"]

STATE = Path("/run/pybpf")
PRIVATE = ("/etc/libvirt", "/var/lib/libvirt", "/var/log/libvirt", "/var/cache/libvirt")
USER = "libvirt-qemu"
START_LIMIT = 60.0
MODULE = "vagrant._vagrant.inside"
LIBVIRTD = """\
auth_unix_ro = "none"
auth_unix_rw = "none"
unix_sock_group = "root"
log_outputs = "2:file:/var/log/libvirt/libvirtd.log"
"""
QEMU = """\
user = "root"
group = "root"
dynamic_ownership = 0
remember_owner = 0
security_driver = "none"
namespaces = []
cgroup_controllers = []
stdio_handler = "logd"
"""
EMULATE = """\
#!/bin/sh
for word do
    shift
    [ "$word" != tcg ] || word=tcg,thread=single
    set -- "$@" "$word"
done
exec {qemu} "$@"
"""
VIRTLOGD = """\
max_size = 0
log_outputs = "2:file:/var/log/libvirt/virtlogd.log"
"""


def outside(setting: Setting, output: int | None = None) -> subprocess.Popen[bytes]:
    """Start `setting` in its own namespaces, as root. `ended` gives its exit status.

    The run is killed when the calling thread ends.

    :param output: None, or subprocess.PIPE for standard output and error
    """
    if os.geteuid() != 0:  # ask for the password while there is a terminal
        if not shutil.which("sudo"):
            raise Failure("this makes namespaces, so it needs root or sudo")
        subprocess.run(["sudo", "-v"], check=False)
    command = ["env", f"PYBPF_CACHE={cache.root()}"]
    command += ["unshare", "--net", "--mount", "--ipc", "--pid", "--fork", "--mount-proc"]
    command += ["--kill-child=SIGKILL", "--propagation=private"]
    command += [sys.executable, "-B", "-m", MODULE, setting.to_json()]
    return subprocess.Popen(
        as_root(*command),
        cwd=CHECKOUT,
        stdin=subprocess.PIPE,  # nothing is ever written; closing it ends the run
        stdout=output,
        stderr=output,
        start_new_session=True,  # we handle Ctrl-C
        preexec_fn=die_with_parent,  # noqa: PLW1509  no threads here
    )


def ended(process: subprocess.Popen[bytes], setting: Setting) -> int:
    """Return the exit status of a run that has ended."""
    status = process.wait()
    if status < 0 or status > 128:
        note(f"row {setting.row}: the run was killed (status {status})")
        return DIED
    return status


# -- inside


def mount(*arguments: str | Path) -> None:
    """mount(8)."""
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        words = " ".join(str(a) for a in arguments)
        raise Failure(f"mount {words}: {done.stderr.strip()}")


def furnish(accel: str) -> None:
    """Give this mount namespace its private file systems, and this network its loopback."""
    mount("-t", "sysfs", "sysfs", "/sys")  # shows this network, and has no cgroups to leave behind
    mount("-t", "tmpfs", "-o", "mode=755,size=75%", "pybpf", "/run")
    for name in PRIVATE:
        if not os.path.isdir(name):
            raise Failure(f"{name} is missing: run vagrant/host.sh vagrant")
        inside = STATE / name.strip("/").replace("/", "-")
        inside.mkdir(parents=True)
        mount("--bind", inside, name)
    os.makedirs("/var/log/libvirt/qemu")
    os.makedirs("/run/lock")
    _add_user("/etc/passwd", f"{USER}:x:64055:64055::/var/lib/libvirt:/usr/sbin/nologin")
    _add_user("/etc/group", f"{USER}:x:64055:")
    if accel == "tcg":
        if os.path.exists("/dev/kvm"):
            mount("--bind", "/dev/null", "/dev/kvm")
        EMULATOR.write_text(EMULATE.format(qemu=shlex.quote(qemu.qemu_command())))
        EMULATOR.chmod(0o755)
    for name, text in (("libvirtd", LIBVIRTD), ("qemu", QEMU), ("virtlogd", VIRTLOGD)):
        Path(f"/etc/libvirt/{name}.conf").write_text(text)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)


def _add_user(name: str, line: str) -> None:
    """Add the user that libvirtd's full package would make, only here. It needs that user."""
    text = Path(name).read_text()
    if not any(each.startswith(f"{USER}:") for each in text.splitlines()):
        private = STATE / name.strip("/").replace("/", "-")
        private.write_text(f"{text.rstrip()}\n{line}\n")
        mount("--bind", private, name)


class Daemon:
    """Run virtlogd or libvirtd until `stop`."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.log = Path(f"/var/log/libvirt/{name}.log")
        with open(STATE / f"{name}.out", "wb") as out:
            try:
                self.process = subprocess.Popen(
                    [name], stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT
                )
            except FileNotFoundError:
                raise Failure(f"{name} is missing: run vagrant/host.sh vagrant") from None

    def ready(self, socket: str) -> None:
        """Wait until it answers."""
        end = time.monotonic() + START_LIMIT
        while not os.path.exists(socket):
            if self.process.poll() is not None:
                raise Failure(f"{self.name} ended at once: {self.said()}")
            if time.monotonic() > end:
                raise Failure(f"{self.name} did not start in {START_LIMIT:.0f} s: {self.said()}")
            time.sleep(0.1)

    def said(self) -> str:
        """Return its last errors, or the last line of its log."""
        lines: list[str] = []
        for path in (self.log, STATE / f"{self.name}.out"):
            if path.exists():
                lines += path.read_text(errors="replace").strip().splitlines()
        errors = [line for line in lines if " error : " in line]
        return " / ".join(line.partition(" : ")[2] for line in errors[-2:]) or "".join(lines[-1:])

    def stop(self) -> None:
        """Stop it, by force if it takes too long."""
        self.process.terminate()
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def work(setting: Setting) -> int:
    """Do the work of the run, in a child of process 1."""
    daemons: list[Daemon] = []
    try:
        furnish(setting.accel)
        for name, socket in (
            ("virtlogd", "/run/libvirt/virtlogd-sock"),
            ("libvirtd", "/run/libvirt/libvirt-sock"),
        ):
            daemons.append(Daemon(name))
            daemons[-1].ready(socket)
        return Machine(setting, STATE).run()
    except Failure as failure:
        note(f"row {setting.row}: {failure}")
        return failure.status
    finally:
        for daemon in reversed(daemons):
            daemon.stop()
            with contextlib.suppress(OSError):
                shutil.copyfile(daemon.log, Path(setting.out) / daemon.log.name)
        give_back(Path(setting.out))


def give_back(out: Path) -> None:
    """Give the results to the user who called sudo."""
    user, group = int(os.environ.get("SUDO_UID", "0")), int(os.environ.get("SUDO_GID", "0"))
    if user:
        for path in (out, *out.rglob("*")):
            os.chown(path, user, group, follow_symlinks=False)


def main(text: str) -> int:
    """Run as process 1: wait for the work, and for all others that become our children."""

    def watch() -> None:
        os.read(0, 1)
        os._exit(DIED)  # the kernel ends the rest

    child = os.fork()
    if not child:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        try:
            status = work(Setting.from_json(text))
        except BaseException:
            sys.excepthook(*sys.exc_info())
            status = DIED
        sys.stdout.flush()
        os._exit(status)
    threading.Thread(target=watch, daemon=True).start()
    while True:
        gone, how = os.wait()
        if gone == child:
            status = os.waitstatus_to_exitcode(how)
            return status if status >= 0 else 128 - status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
