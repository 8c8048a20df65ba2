"""vagrant/e2e, vagrant/build-box and vagrant/kvm without a machine.

The failures that take minutes for real are played by stand-ins of vagrant, virsh and ssh on PATH.
"""

from __future__ import annotations

import os
import re
import signal
import struct
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.rows import ROOT
from vagrant._vagrant import abreast, box, cli, grub, inside, kvm, machine
from vagrant._vm import cache, kernels, qemu
from vagrant._vm.cache import VmError

RELEASE = "6.12.118+deb13-cloud-amd64"


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PYBPF_CACHE", str(tmp_path / "cache"))
    return cache.root()


# -- the machine, with stand-ins


Programs = Callable[..., machine.Machine]


@pytest.fixture
def with_programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Programs:
    """A machine whose vagrant, virsh and ssh are these shell scripts."""
    monkeypatch.setattr(machine, "POLL", 0.05)
    (tmp_path / "state").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "guest/out").mkdir(parents=True)

    def make(
        *, vagrant: str = ":", virsh: str = "echo running", ssh: str = "", accel: str = "tcg"
    ) -> machine.Machine:
        there = tmp_path / "guest/out"
        answer = f"case $* in *uname*) echo '{RELEASE}';; *tar*) tar -C {there} -czf - .;;"
        scripts = {
            "vagrant": f"echo vagrant $* >>{tmp_path}/calls; {vagrant}",
            "virsh": virsh,
            "ssh": ssh or f"{answer} *) echo '<testsuites/>' >{there}/junit.xml;; esac",
        }
        for name, script in scripts.items():
            path = tmp_path / "bin" / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(f"#!/bin/sh\n{script}\n")
            path.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
        setting = machine.Setting(
            "6.12", RELEASE, accel, "direct", str(tmp_path / "out"), 60.0, ("tests/live",)
        )
        made = machine.Machine(setting, tmp_path / "state")
        made.console = tmp_path / "console"
        made.console.write_bytes(b"booting\n")
        return made

    return make


def test_a_run_brings_up_tests_fetches_and_destroys(
    with_programs: Programs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In this order, with pytest's status and the results where they were asked for."""
    assert with_programs().run() == 0
    calls = (tmp_path / "calls").read_text().splitlines()
    assert calls == [
        "vagrant up --provider=libvirt --no-tty",
        "vagrant ssh-config",
        "vagrant destroy -f --no-tty",
    ]
    assert (tmp_path / "out/junit.xml").read_text() == "<testsuites/>\n"
    assert (tmp_path / "out/console.log").read_bytes() == b"booting\n"
    assert f"row 6.12 ({RELEASE}, tcg): status 0" in capsys.readouterr().err


def test_the_suites_own_status_comes_back(with_programs: Programs, tmp_path: Path) -> None:
    """Failed tests are status 1, and their results still come back."""
    ssh = (
        f"case $* in *uname*) echo '{RELEASE}';; *tar*) tar -C {tmp_path}/guest/out -czf - .;;"
        f" *) touch {tmp_path}/guest/out/junit.xml; exit 1;; esac"
    )
    assert with_programs(ssh=ssh).run() == 1
    assert (tmp_path / "out/junit.xml").exists()


def failed(made: machine.Machine, capsys: pytest.CaptureFixture[str]) -> tuple[int, list[str]]:
    """Status of a run and the lines that e2e said itself."""
    status = made.run()
    return status, [e for e in capsys.readouterr().err.splitlines() if e.startswith("e2e: ")]


def test_a_box_that_vagrant_refuses(
    with_programs: Programs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """vagrant's last paragraph is the message; the machine is destroyed all the same."""
    vagrant = (
        "[ $1 = up ] || exit 0\n"
        "echo '==> default: Box could not be found.'\necho\n"
        "echo 'The box failed to unpackage properly. Please verify that the box'\n"
        "echo 'file you are trying to add is not corrupted.'\nexit 1"
    )
    status, said = failed(with_programs(vagrant=vagrant), capsys)
    assert status == 125
    assert said == [
        "e2e: row 6.12: vagrant up failed: The box failed to unpackage properly. Please verify "
        "that the box file you are trying to add is not corrupted."
    ]
    assert "destroy" in (tmp_path / "calls").read_text()


KVM_ABORTS = """\
Bringing machine 'default' up with 'libvirt' provider...
==> default: Starting domain.
==> default: Removing domain...
/usr/lib/ruby/vm_action.rb:7:in `create': Call to virDomainCreateWithFlags failed: internal error: \
process exited while connecting to monitor: failed to set MSR 0x10a to 0xc000069 (Libvirt::Error)
qemu-system-x86_64: Assertion `ret == cpu->kvm_msr_buf->nmsrs' failed.
	from /usr/lib/ruby/vm_action.rb:7:in `vm_action'
	from /usr/share/rubygems-integration/all/gems/vagrant-2.3.4/lib/vagrant/machine.rb:203
"""
PROVISIONING_FAILS = """\
==> default: Running provisioner: kernel (shell)...
    default: check-kernel: row 6.1 is 6.1.0-56-cloud-amd64, but this machine runs 6.12.118
The SSH command responded with a non-zero exit status. Vagrant
assumes that this means the command failed. The output for this command
should be in the log above. Please read the output to determine what
went wrong.
"""


def test_what_vagrant_complains_of_is_one_line() -> None:
    """Neither progress nor the trace of an error that vagrant did not expect."""
    assert machine.complaint(KVM_ABORTS) == (
        "Call to virDomainCreateWithFlags failed: internal error: process exited while connecting "
        "to monitor: failed to set MSR 0x10a to 0xc000069 (Libvirt::Error) "
        "qemu-system-x86_64: Assertion `ret == cpu->kvm_msr_buf->nmsrs' failed."
    )
    assert machine.complaint(PROVISIONING_FAILS) == (
        "check-kernel: row 6.1 is 6.1.0-56-cloud-amd64, but this machine runs 6.12.118"
    )


def test_a_kernel_that_is_not_the_rows(
    with_programs: Programs, capsys: pytest.CaptureFixture[str]
) -> None:
    """No row passes for another."""
    made = with_programs(ssh="echo 6.1.0-56-cloud-amd64")
    status, said = failed(made, capsys)
    assert status == 125
    assert said == [f"e2e: row 6.12: the machine runs kernel '6.1.0-56-cloud-amd64', not {RELEASE}"]


def test_a_panic_while_booting_ends_the_wait(
    with_programs: Programs, capsys: pytest.CaptureFixture[str]
) -> None:
    """vagrant would wait for ssh for a quarter of an hour."""
    made = with_programs(vagrant="[ $1 != up ] || exec sleep 1000")
    made.console.write_bytes(b"[ 1.0] Kernel panic - not syncing: VFS: no root\n")
    status, said = failed(made, capsys)
    assert status == 125
    assert said[0] == "e2e: row 6.12: the guest died: its kernel panicked"


def test_a_box_whose_disk_has_no_file_system(
    with_programs: Programs, capsys: pytest.CaptureFixture[str]
) -> None:
    """The initramfs reports it. Otherwise it would start again for ever."""
    made = with_programs(vagrant="[ $1 != up ] || exec sleep 1000")
    made.console.write_bytes(b"ALERT!  LABEL=pybpf does not exist.  Dropping to a shell!\n")
    status, said = failed(made, capsys)
    assert status == 125
    assert said[0] == (
        "e2e: row 6.12: the guest found no root file system: run vagrant/build-box --update"
    )


def test_a_panic_during_the_tests_ends_the_run(
    with_programs: Programs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """ssh hangs then; the console says why."""
    ssh = (
        f"case $* in *uname*) echo '{RELEASE}';;\n"
        f"*) echo 'Kernel panic - not syncing: sysrq' >>{tmp_path}/console; exec sleep 1000;; esac"
    )
    made = with_programs(ssh=ssh)
    assert made.run() == 125
    text = capsys.readouterr().err
    assert "e2e: row 6.12: the guest died: its kernel panicked" in text
    assert "| Kernel panic - not syncing: sysrq" in text


def test_an_emulator_that_was_killed(
    with_programs: Programs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """libvirt knows at once, ssh does not."""
    ssh = (
        f"case $* in *uname*) echo '{RELEASE}';;\n"
        f"*) sleep 0.5; touch {tmp_path}/gone; exec sleep 1000;; esac"
    )
    virsh = f"[ -e {tmp_path}/gone ] && echo 'shut off' || echo running"
    status, said = failed(with_programs(ssh=ssh, virsh=virsh), capsys)
    assert status == 125
    assert said == ["e2e: row 6.12: the guest died: libvirt says that it is shut off"]


def test_a_guest_that_vagrant_gave_up(
    with_programs: Programs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It removes the domain before it says why: that is not a guest that died."""
    vagrant = (
        f"[ $1 = up ] || exit 0\nsleep 0.5; touch {tmp_path}/gone; sleep 0.5\n"
        "echo '/usr/lib/fog/core/wait_for.rb:9: The specified wait_for timeout (2 seconds) was"
        " exceeded (Fog::Errors::TimeoutError)'\nexit 1"
    )
    virsh = f"[ ! -e {tmp_path}/gone ] || exit 1; echo running"
    status, said = failed(with_programs(vagrant=vagrant, virsh=virsh), capsys)
    assert status == 125
    assert said[0] == (
        "e2e: row 6.12: vagrant up failed: the guest asked for no address in ten minutes, "
        "see console.log"
    )


def test_a_kvm_that_hangs(
    with_programs: Programs,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The domain runs, but no instruction does: nothing on the console."""
    monkeypatch.setitem(machine.SILENCE, "kvm", 0.2)
    made = with_programs(vagrant="[ $1 != up ] || exec sleep 1000", accel="kvm")
    made.console.write_bytes(b"")
    status, said = failed(made, capsys)
    assert status == 125
    assert said == [
        "e2e: row 6.12: the guest said nothing in 0 s: KVM hangs; PYBPF_ACCEL=tcg emulates instead"
    ]


def test_a_machine_that_never_answers(
    with_programs: Programs,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Our own limit, not vagrant's."""
    monkeypatch.setitem(machine.UP_LIMIT, "tcg", 0.2)
    status, said = failed(with_programs(vagrant="[ $1 != up ] || exec sleep 1000"), capsys)
    assert status == 124
    assert said[0] == "e2e: row 6.12: vagrant up took more than 0 s"


def test_a_lost_connection(with_programs: Programs, capsys: pytest.CaptureFixture[str]) -> None:
    """ssh's own status is not the suite's."""
    ssh = f"case $* in *uname*) echo '{RELEASE}';; *) exit 255;; esac"
    status, said = failed(with_programs(ssh=ssh), capsys)
    assert status == 125
    assert said[0] == "e2e: row 6.12: the connection to the guest was lost"


def test_a_setting_survives_the_command_line() -> None:
    """It goes to the process inside the namespaces as text."""
    setting = machine.Setting("6.1", "r", "tcg", "grub", "/o", 1.5, ("-k", "a b", "é"))
    assert machine.Setting.from_json(setting.to_json()) == setting


# -- the box


def made_box(own_cache: Path, content: bytes = b"box") -> box.Box:
    """A box of no use, with the kernel of one row."""
    home = own_cache / "boxes/x"
    (home / "boot").mkdir(parents=True)
    (home / "pybpf.box").write_bytes(content)
    for name in ("vmlinuz", "initrd.img"):
        (home / f"boot/{name}-{RELEASE}").touch()
    checksum = "f8a3f2a1b5f2a5fa2bc0a4e5fcc0c2e2fa9c0c5d5a5cc8c4a9ff57a3d4a4a5b5"
    return box.Box("pybpf-x", home / "pybpf.box", home / "boot", checksum, {"6.12": RELEASE})


def test_a_broken_box_is_one_message(own_cache: Path) -> None:
    """A file that is not what was built does not get as far as vagrant."""
    with pytest.raises(machine.Failure, match=r"pybpf\.box is broken: run vagrant/build-box --upd"):
        cli.check(made_box(own_cache), "6.12")


def test_a_box_without_the_kernel_is_one_message(own_cache: Path) -> None:
    """Neither for a row it never had, nor for a file that is gone."""
    import dataclasses
    import hashlib

    made = dataclasses.replace(made_box(own_cache), sha256=hashlib.sha256(b"box").hexdigest())
    assert cli.check(made, "6.12") == RELEASE
    with pytest.raises(machine.Failure, match=r"the box has no vmlinuz of row 6\.1: run"):
        cli.check(made, "6.1")
    (made.boot / f"initrd.img-{RELEASE}").unlink()
    with pytest.raises(machine.Failure, match=r"the box has no initrd\.img of row 6\.12"):
        cli.check(made, "6.12")


def test_the_partition_table_reads_back(tmp_path: Path) -> None:
    """sfdisk would say: one bootable Linux partition from sector 2048."""
    sector = box.master_boot_record(b"\xeb" * 400, 2048, 4096)
    assert len(sector) == 512 and sector[510:] == b"\x55\xaa"
    flag, kind, first, count = struct.unpack("<B3xB3xII", sector[446:462])
    assert (flag, kind, first, count) == (0x80, 0x83, 2048, 4096)
    assert sector[:400] == b"\xeb" * 400 and not any(sector[462:510])


def test_the_box_has_what_pyproject_asks_for() -> None:
    """Each of our Python dependencies has its Debian package, and provisioning names the same."""
    from vagrant._vm import image

    names = {re.split(r"[<>=~! ]", text)[0] for text in image.requirements()}
    assert set(box.PYTHON_PACKAGES) == names
    script = (ROOT / "vagrant/provision.sh").read_text()
    assert all(package in script for package in box.PYTHON_PACKAGES.values())


def test_kernels_of_other_suites_do_not_pull_their_userland(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All suites are listed once; only the userland's own take part in choosing versions."""
    monkeypatch.setattr(box.apt, "mirrors", lambda: ("http://m/debian", "http://m/security"))
    lines, pins = box.sources(list(kernels.rows().values()))
    suites = [line.split()[-2] for line in lines.splitlines()]
    assert len(suites) == len(set(suites))
    assert {"bookworm", "trixie", "trixie-backports", "trixie-security"} <= set(suites)
    assert re.search(r"n=bookworm-security\nPin-Priority: 1$", pins, re.M)
    assert "n=trixie\n" not in pins


def test_a_step_that_fails_ends_the_build_with_its_last_words(tmp_path: Path) -> None:
    """Not with a status alone."""
    with pytest.raises(VmError, match=r"mke2fs failed with status 3:\n  \| no space"):
        box.run("mke2fs", ["sh", "-c", "echo no space >&2; exit 3"], tmp_path / "log")
    with pytest.raises(VmError, match=r"no-such-tool is missing: run vagrant/host\.sh vagrant"):
        box.run("it", ["no-such-tool"], tmp_path / "log")


def test_a_packed_box_is_what_vagrant_wants(tmp_path: Path) -> None:
    """An archive with the disk, its size in GiB and a Vagrantfile."""
    (tmp_path / "box.img").write_bytes(b"disk")
    box._pack(tmp_path)
    with tarfile.open(tmp_path / "pybpf.box") as tar:
        assert tar.getnames() == ["metadata.json", "Vagrantfile", "box.img"]
        member = tar.extractfile("metadata.json")
        assert member and b'"virtual_size": 4' in member.read()


# -- grub

MENU = """
menuentry 'Debian GNU/Linux' --class debian $menuentry_id_option 'gnulinux-simple-7e57' {
submenu 'Advanced options for Debian GNU/Linux' $menuentry_id_option 'gnulinux-advanced-7e57' {
\tmenuentry '6.12.118' --class os $menuentry_id_option 'gnulinux-6.12.118-advanced-7e57' {
\tmenuentry 'Debian, recovery' --class os $menuentry_id_option 'gnulinux-6.12.118-recovery-7e57' {
\tmenuentry '6.1.0-56' --class os $menuentry_id_option 'gnulinux-6.1.0-56-advanced-7e57' {
}
"""


def test_grubs_default_is_the_full_menu_id() -> None:
    """A bare release would be taken for the number of an entry."""
    found = grub.menu_id(MENU, "6.1.0-56")
    assert found == "gnulinux-advanced-7e57>gnulinux-6.1.0-56-advanced-7e57"
    assert grub.menu_id(MENU, "6.1") is None


def test_a_kernel_of_many_packages() -> None:
    """Those of its very version, and the helper package if a newer one is asked for."""
    fields = {
        "Pre-Depends": "linux-base (>= 4.17~)",
        "Depends": "dracut | initramfs-tools (>= 0.120), linux-base-7.3.4+deb13-amd64 (= 7.3.4-1),"
        " linux-binary-7.3.4+deb13-amd64 (= 7.3.4-1), linux-modules-7.3.4+deb13-amd64 (= 7.3.4-1)",
    }
    assert grub.parts(fields) == [
        "linux-base-7.3.4+deb13-amd64",
        "linux-binary-7.3.4+deb13-amd64",
        "linux-modules-7.3.4+deb13-amd64",
    ]
    assert grub.least_base(fields) == "4.17~"
    assert grub.least_base({"Depends": "kmod, linux-base (= 1)"}) is None


# -- kvm


def test_kvm_says_why_not(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line and status 1."""
    monkeypatch.setenv("PYBPF_KVM", "0")
    assert kvm.main([]) == 1
    assert capsys.readouterr().err == "kvm: not used: PYBPF_KVM says no\n"


def test_kvm_that_cannot_be_tried_is_not_used(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As without a QEMU."""

    def none() -> str:
        raise VmError("no qemu")

    monkeypatch.delenv("PYBPF_KVM", raising=False)
    monkeypatch.setattr(qemu, "qemu_command", none)
    monkeypatch.setattr(kvm.os.path, "exists", lambda path: True)
    monkeypatch.setattr(kvm.os, "access", lambda path, mode: True)
    assert kvm.main([]) == 1
    assert capsys.readouterr().err == "kvm: not used: it could not be tried: no qemu\n"


def test_a_kvm_that_hangs_is_found_out(
    tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trial boot has a limit; a guest that says nothing in it means no."""
    fake = tmp_path / "qemu"
    fake.write_text("#!/bin/sh\nexec sleep 1000\n")
    fake.chmod(0o755)
    monkeypatch.delenv("PYBPF_KVM", raising=False)
    monkeypatch.setattr(qemu.os, "access", lambda path, mode: True)
    kernel = kernels.Kernel("6.12", RELEASE, "1", tmp_path / "vmlinuz", tmp_path)
    assert not qemu.kvm_works(str(fake), kernel, limit=0.3)


# -- the command line


@pytest.mark.parametrize(
    "arguments",
    [
        *(["5.4"], ["--jobs", "0"], ["--no-such"]),
        *(["--timeout", text] for text in ("0", "-1", "nan", "inf")),
    ],
)
def test_wrong_usage_is_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Before anything starts."""
    with pytest.raises(SystemExit) as exit_:
        cli.parse(arguments)
    assert exit_.value.code == 2
    assert "usage: vagrant/e2e" in capsys.readouterr().err


def test_words_after_the_dashes_are_pytests() -> None:
    """Also without a row."""
    options = cli.parse(["6.1", "--", "tests/live", "-k", "x"])
    assert (options.row, options.tests) == ("6.1", ["tests/live", "-k", "x"])
    options = cli.parse(["--", "-x"])
    assert (options.row, options.tests) == ("all", ["-x"])


# -- rows side by side

# 6.1 ends only if 6.12 runs beside it.
SCRIPTS = {
    "6.1": "echo one; printf 'no end'; until [ -e began ]; do sleep 0.05; done; exit 1",
    "6.12": "touch began; echo two >&2; exit 0",
    "latest": "[ -e began ] && kill -9 $$",
    "hangs": "exec cat",
}


@pytest.fixture
def scripts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], machine.Setting]:
    """A shell script instead of each row's machine."""

    def outside(setting: machine.Setting, output: int | None) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            ["sh", "-c", SCRIPTS[setting.row]],
            cwd=tmp_path,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
        )

    monkeypatch.setattr(inside, "outside", outside)
    return lambda row: machine.Setting(row, RELEASE, "tcg", "direct", str(tmp_path), 60, ())


def test_rows_side_by_side(
    scripts: Callable[[str], machine.Setting], capfd: pytest.CaptureFixture[str]
) -> None:
    """Each has a status of its own, and each line, whole or not, says which row said it."""
    statuses = abreast.run(["6.1", "6.12", "latest"], 2, scripts)
    assert statuses == {"6.1": 1, "6.12": 0, "latest": 125}
    out, err = capfd.readouterr()
    assert out.splitlines() == ["   6.1 | one", "   6.1 | no end"]
    said = err.splitlines()
    assert "  6.12 | two" in said
    assert "e2e: row latest: the run was killed (status -9)" in said
    assert sum("s in total" in line for line in said) == 3


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_row_alone_has_the_output_to_itself(
    scripts: Callable[[str], machine.Setting], capfd: pytest.CaptureFixture[str], jobs: int
) -> None:
    """As the terminal that pytest colours its lines for."""
    assert abreast.run(["6.12"], jobs, scripts) == {"6.12": 0}
    assert capfd.readouterr().err.splitlines()[0] == "two"


def test_a_failure_ends_the_rows_beside_it(
    scripts: Callable[[str], machine.Setting],
) -> None:
    """What cannot be started ends the run, and nothing of it stays."""

    def setting(row: str) -> machine.Setting:
        if row == "latest":
            raise machine.Failure("no such box")
        return scripts(row)

    with pytest.raises(machine.Failure, match="no such box"):
        abreast.run(["hangs", "latest"], 2, setting)  # it would wait for "hangs" for ever


# -- what is left of a run that is killed


def test_the_inner_process_ends_with_the_pipe() -> None:
    """Process 1 ends, whatever it does, when the only other holder of the pipe has gone."""
    code = (
        "import sys, time; from vagrant._vagrant import inside\n"
        "inside.work = lambda setting: time.sleep(1000)\n"
        "inside.Setting.from_json = lambda text: None\n"
        "sys.exit(inside.main(''))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, start_new_session=True
    )
    assert process.stdin
    try:
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.5)
        process.stdin.close()
        assert process.wait(30) == 125
    finally:
        # In a PID namespace the kernel ends the rest; here there is none.
        os.killpg(process.pid, signal.SIGKILL)


def test_the_work_s_status_comes_through() -> None:
    """Also of a child that was killed; children of others are only buried."""
    for body, status in (
        ("import subprocess; subprocess.Popen(['sh', '-c', 'sleep 0.2 & exit']); return 7", 7),
        (f"import os; os.kill(os.getpid(), {int(signal.SIGKILL)}); return 0", 128 + 9),
        ("raise ValueError", 125),
    ):
        code = (
            "import os, sys; from vagrant._vagrant import inside\n"
            f"def work(setting):\n    {body}\n"
            "inside.work = work\n"
            "inside.Setting.from_json = lambda text: None\n"
            "r, w = os.pipe(); os.dup2(r, 0)\nsys.exit(inside.main(''))"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=False
        )
        assert done.returncode == status, done.stderr


def test_host_sh_asks_as_root_for_commands_only() -> None:
    """As root it runs them itself, and a function of its own would come before a command."""
    text = (ROOT / "vagrant/host.sh").read_text()
    functions = set(re.findall(r"^(\w+)\(\)", text, re.M))
    commands = set(re.findall(r"\bas_root ([\w-]+)", text))
    assert functions and commands and not functions & commands
