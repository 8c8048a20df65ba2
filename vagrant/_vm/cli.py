"""Read the command line of `vagrant/vm`."""

from __future__ import annotations

import argparse
import io
import math
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

from . import checkout, cpio, extras, image, kernels, qemu
from .cache import VmError

__all__ = ["main"]

DESCRIPTION = """\
Run CMD as root in a throw-away virtual machine, on a copy of this checkout (its root is the
current directory), with python3, pytest and pybpf's dependencies. Files that CMD leaves under
$OUT come back into --out DIR. The exit status is CMD's; 124 means a time limit, 125 that the
guest died (the console's last lines are then on standard error)."""
EPILOG = """\
The first run on a machine installs QEMU and fetches the kernels (vagrant/host.sh, Debian
packages). Later runs need no network. Kernels and the guest image are in ~/.cache/pybpf
($PYBPF_CACHE), which may be deleted at any time."""
CONSOLE_LINES = 40


def note(text: str) -> None:
    """Print one line for the person at the terminal."""
    print(f"vm: {text}", file=sys.stderr, flush=True)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the options. Usage errors exit with status 2."""
    rows = kernels.rows()
    parser = argparse.ArgumentParser(
        prog="vagrant/vm",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--kernel",
        choices=[*rows, "all"],
        default="latest",
        help="kernel row (default: %(default)s)",
    )
    parser.add_argument(
        "--icount",
        action="store_true",
        help="deterministic clock that counts instructions and skips idle waits",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="directory for the files of $OUT (with `all`: DIR/ROW)",
    )
    parser.add_argument(
        "--in",
        dest="into",
        type=Path,
        metavar="DIR",
        help="directory whose contents the guest gets under $IN",
    )
    parser.add_argument(
        "--timeout",
        type=float,
        default=900,
        metavar="S",
        help="time limit for CMD (default: %(default)g)",
    )
    parser.add_argument(
        "--with",
        dest="extras",
        action="append",
        choices=list(extras.EXTRAS),
        default=[],
        help="additional program for the guest (a Debian package, fetched the first time)",
    )
    parser.add_argument(
        "--setup", action="store_true", help="only install and fetch what is missing"
    )
    parser.add_argument("--update", action="store_true", help="look for newer kernels first")
    parser.add_argument(
        "-q",
        "--quiet",
        action="store_true",
        help="no messages from vm itself unless something failed",
    )
    parser.add_argument("command", nargs="*", metavar="CMD ARGS")
    options = parser.parse_args(arguments)
    if not options.command and not (options.setup or options.update):
        parser.error("a command is missing: vagrant/vm [options] -- CMD ARGS")
    if options.into and not options.into.is_dir():
        parser.error(f"--in {options.into}: not a directory")
    if not 0 < options.timeout < math.inf:
        parser.error("--timeout must be a number of seconds more than 0")
    return options


def set_up(quiet: bool) -> str:
    """Install what is missing and return QEMU's path."""
    try:
        path = qemu.qemu_command()
        missing = [t for t in ("busybox", "zstd", "dpkg-deb") if not shutil.which(t)]
    except VmError as error:
        path, missing = "", [str(error)]
    if missing:
        if not quiet:
            note(f"setting up: {', '.join(missing)}")
        script = Path(__file__).parent.parent / "host.sh"
        if subprocess.run(
            [script, "vm"], stdin=subprocess.DEVNULL, stdout=sys.stderr, check=False
        ).returncode:
            raise VmError("vagrant/host.sh vm failed, see above")
        path = qemu.qemu_command()
    return path


def write_initrd(
    path: Path,
    images: Sequence[Path],
    command: Sequence[str],
    want_out: bool,
    kernel: kernels.Kernel,
    into: Path | None = None,
) -> None:
    """Write the run's own archive with checkout, modules and command, then the images.

    :param into: a directory for the guest's $IN
    """
    with open(path, "wb") as out:
        writer = cpio.Writer(out)
        script = f"export PYBPF_VM_KERNEL={shlex.quote(kernel.row)}\nexec {shlex.join(command)}\n"
        writer.file("vm/run", script.encode(), 0o755)
        if want_out:
            writer.file("vm/want-out", b"")
        cpio.add_tree(writer, kernel.modules, f"usr/lib/modules/{kernel.release}")
        checkout.add(writer, image.SOURCE)
        if into:
            cpio.add_tree(writer, into, "in")
        writer.close()
        for image_file in images:
            out.write(b"\0" * (-out.tell() % 4))  # the kernel looks for the next archive there
            with open(image_file, "rb") as file:
                shutil.copyfileobj(file, out)


def unpack(archive: bytes, into: Path) -> None:
    """Unpack files and directories of the guest's archive. Nothing can get outside `into`."""
    into = Path(os.path.abspath(into))
    into.mkdir(parents=True, exist_ok=True)
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        for member in tar:
            target = Path(os.path.normpath(into / member.name))
            if not target.is_relative_to(into):
                continue
            if member.isdir():
                target.mkdir(parents=True, exist_ok=True)
            elif data := tar.extractfile(member) if member.isfile() else None:
                target.parent.mkdir(parents=True, exist_ok=True)
                target.unlink(missing_ok=True)  # do not write through an existing link
                with open(target, "wb") as file:
                    shutil.copyfileobj(data, file)
                target.chmod(member.mode & 0o755 | 0o600)


def show_console(console: bytes) -> None:
    """Print the kernel's last lines to standard error."""
    lines = console.decode(errors="replace").replace("\r", "").rstrip().split("\n")
    note(f"the console's last lines of {len(lines)}:")
    first = next((at for at, line in enumerate(lines) if qemu.DEATH.search(line.encode())), 0)
    if first:  # start a few lines earlier, where the oops that led to it begins
        first = max(0, first - CONSOLE_LINES // 2)
    last = lines[-CONSOLE_LINES:] if len(lines) - first < CONSOLE_LINES else lines[first:]
    for line in last[: 2 * CONSOLE_LINES]:
        print(f"  | {line}", file=sys.stderr)
    sys.stderr.flush()


def sink(data: bytes) -> None:
    """Write the command's output unchanged."""
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def run_row(row: kernels.Row, emulator: str, options: argparse.Namespace, out: Path | None) -> int:
    """Run once in one guest. Try again once if the guest died before the command began."""
    kernel = kernels.kernel(row)
    images = [image.image(), *(extras.archive(name) for name in dict.fromkeys(options.extras))]
    accel = "kvm" if not options.icount and qemu.kvm_works(emulator, kernel) else "tcg"
    with tempfile.TemporaryDirectory(prefix="pybpf-vm-") as name:
        initrd = Path(name) / "initrd"
        write_initrd(initrd, images, options.command, out is not None, kernel, options.into)
        for attempt in (1, 2):
            guest = qemu.Guest(emulator, kernel, initrd, accel=accel, icount=options.icount)
            result = guest.run(options.timeout, sink)
            if result.started or attempt == 2:
                break
            note(f"row {row.name} died while booting ({result.why}); trying once more")
            show_console(result.console)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        if result.archive:
            unpack(result.archive, out)
    if result.status == qemu.DIED and (result.why or not result.started):
        note(f"row {row.name}: the guest died: {result.why}")
        show_console(result.console)
    elif result.why:
        note(f"row {row.name}: {result.why} ({options.timeout:g} s)")
        if not result.archive:
            show_console(result.console)
    elif not options.quiet:
        how = f"{kernel.release}, {accel}{', icount' if options.icount else ''}"
        note(
            f"row {row.name} ({how}): status {result.status}, "
            f"{result.boot_seconds:.1f} s to boot, {result.seconds:.1f} s in total, "
            f"{result.cpu_seconds:.0f} s of CPU"
        )
    if warned := qemu.complaints(result.console):
        note(f"row {row.name}: the kernel complained:")
        for line in warned[:10]:
            print(f"  | ! {line}", file=sys.stderr)
    return result.status


def interrupt(number: int, frame: object) -> None:
    """End the guest when a signal ends us, with the usual clean-up."""
    raise KeyboardInterrupt


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `vagrant/vm` and return its exit status."""
    options = parse(arguments)
    signal.signal(signal.SIGTERM, interrupt)
    signal.signal(signal.SIGHUP, interrupt)
    rows = kernels.rows()
    chosen = list(rows.values()) if options.kernel == "all" else [rows[options.kernel]]
    try:
        emulator = set_up(options.quiet)
        if options.setup or options.update:
            for row in chosen:
                kernel = kernels.kernel(row, update=options.update)
                note(f"row {row.name}: {kernel.release} ({kernel.version})")
            image.image()
            for name in options.extras:
                extras.archive(name, update=options.update)
            if not options.command:
                return 0
        failed: dict[str, int] = {}
        for row in chosen:
            if len(chosen) > 1 and not options.quiet:
                note(f"== row {row.name}")
            out = options.out / row.name if options.out and len(chosen) > 1 else options.out
            status = run_row(row, emulator, options, out)
            if status:
                failed[row.name] = status
    except VmError as error:
        note(str(error))
        return qemu.DIED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # otherwise Python reports it again at exit
        return 128 + signal.SIGPIPE
    except KeyboardInterrupt:
        note("interrupted")
        return 130
    if len(chosen) > 1:
        for name, status in failed.items():
            note(f"row {name} failed with status {status}")
    return next(iter(failed.values()), 0)
