"""``qemuvm setup`` says what it will do, asks, does only that, and shows the result."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from pytest_qemuvm import cli

REPOSITORY = Path(cli.__file__).parents[2]


@pytest.fixture
def apt(bare_path, tmp_path):
    """A host with apt and without QEMU; every call of a package tool is noted."""
    log = tmp_path / "log"
    log.touch()
    for name in ("apt-get", "apt-cache", "dpkg-deb"):
        bare_path(name, f'echo "{name} $*" >> {log}')
    return lambda: log.read_text().splitlines()


def test_a_dry_run_names_the_commands_and_runs_none(qemuvm, apt, cache):
    status, out, _ = qemuvm("setup", "--dry-run")
    assert status == 0
    assert "apt-get install --yes --no-install-recommends qemu-system-x86 qemu-utils" in out
    assert apt() == []
    assert not (cache / "packages").exists()


def test_nobody_to_ask_and_no_yes_is_refused(process, apt):
    with process("setup") as running:
        out, err = running.communicate(timeout=60)
    assert running.returncode == 2
    assert "--yes" in err
    assert "apt-get install" in out
    assert apt() == []


@pytest.mark.parametrize("answer", ["n\n", "\n", "\x04"])
def test_whoever_does_not_say_yes_is_left_alone(process, apt, answer):
    ours, theirs = os.openpty()
    try:
        with process("setup", stdin=theirs) as running:
            os.write(ours, answer.encode())
            out, _ = running.communicate(timeout=60)
    finally:
        os.close(ours)
        os.close(theirs)
    assert running.returncode == 2
    assert "[y/N]" in out
    assert apt() == []


def test_yes_installs_first_and_a_failure_stops_it(qemuvm, bare_path, apt):
    """This apt finishes its installation, then has nothing to download."""
    if os.geteuid() != 0:
        pytest.skip("installs as root alone")
    status, out, err = qemuvm("setup", "--yes")
    assert status == 1
    assert (
        apt()[:2]
        == [
            "apt-get update",
            "apt-get install --yes --no-install-recommends qemu-system-x86 qemu-utils",
        ]
        or "busybox" in out
    )
    assert "Traceback" not in err


def test_without_a_package_manager_it_says_what_to_do_by_hand(qemuvm, bare_path):
    status, _, err = qemuvm("setup", "--yes")
    assert status == 1
    assert "neither apt nor dnf" in err
    assert "hint: " in err


def test_what_is_named_by_the_user_is_not_replaced(qemuvm, apt, monkeypatch):
    monkeypatch.setenv("QEMUVM_BINARY", "/nonexistent/qemu")
    monkeypatch.setenv("QEMUVM_KERNEL", "/nonexistent/vmlinuz")
    _, out, _ = qemuvm("setup", "--dry-run")
    assert "linux-image" not in out
    assert "MISSING" in out


UNPRIVILEGED = """
import os, sys
sys.path[:0] = {path!r}
from pytest_qemuvm.cli import main, survey
from pytest_qemuvm.host import apt, dnf, kvm
from pytest_qemuvm.spec.settings import resolve
import filelock, pytest_qemuvm.host.locks
os.environ["QEMUVM_CACHE"] += "-of-root"
survey.survey(resolve({{}}, {{}}, {{}}))  # imports all the rest while it may be read
os.environ["QEMUVM_CACHE"] += "-of-nobody"
os.setgroups([]); os.setgid(65534); os.setuid(65534)
sys.exit(main(["setup", "--dry-run"]))
"""


@pytest.fixture
def open_to_all():
    """Return a directory for temporary files of other users; its name is short, or it would not be used."""
    with tempfile.TemporaryDirectory(prefix="qv-", dir="/tmp") as name:
        Path(name).chmod(0o777)
        yield Path(name)


@pytest.mark.parametrize("sudo", [True, False])
def test_an_ordinary_user(cache, apt, bare_path, tmp_path, open_to_all, monkeypatch, sudo):
    """With sudo it is a step like others; without, root's commands are shown and the rest is still done."""
    if os.geteuid() != 0:
        pytest.skip("only root can become somebody else")
    for parent in (tmp_path, *tmp_path.parents[:-1]):
        if parent.stat().st_mode & 0o011 != 0o011:
            parent.chmod(parent.stat().st_mode | 0o011)
    if sudo:
        bare_path("sudo")
    monkeypatch.setenv("QEMUVM_CACHE", str(open_to_all / "cache"))
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    done = subprocess.run(
        [sys.executable, "-c", UNPRIVILEGED.format(path=[str(REPOSITORY), *sys.path])],
        capture_output=True,
        text=True,
        cwd="/",
        env={**os.environ, "TMPDIR": str(open_to_all)},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert ("Run as root" in done.stdout) is not sudo
    assert ("sudo apt-get update" in done.stdout) is sudo
    assert "unpack into" in done.stdout


def test_where_everything_is_there_nothing_is_fetched_or_built(capsys):
    """In the cache of whoever runs the tests: the only place where a kernel of 70 MB may be expected."""
    if cli.main(["doctor"]) != 0:
        pytest.skip("real machines cannot run here: see `qemuvm doctor`")
    assert cli.main(["setup"]) == 0  # builds the guest if that has not been done
    capsys.readouterr()
    assert cli.main(["setup"]) == 0
    out = capsys.readouterr().out
    assert "Real machines can run here" in out
    assert not any(word in out for word in ("unpack into", "building the guest"))
    assert "Install" not in out
    assert "building" not in out
