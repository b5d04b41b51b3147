"""What all subcommands have in common: exit statuses, errors without tracebacks, no pytest."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from pytest_qemuvm import __version__, cli
from pytest_qemuvm.errors import QemuVMError


@pytest.mark.parametrize("arguments", [[], ["no-such-command"], ["doctor", "--no-such-option"]])
def test_misuse_is_status_2(qemuvm, arguments):
    status, out, err = qemuvm(*arguments)
    assert (status, out) == (2, "")
    assert "usage: qemuvm" in err


def test_help_names_every_command(qemuvm):
    status, out, _ = qemuvm("--help")
    assert status == 0
    assert "doctor" in out
    assert "setup" in out


def test_the_version(qemuvm):
    assert qemuvm("--version") == (0, f"pytest-qemuvm {__version__}\n", "")


def test_an_error_is_told_in_full_and_is_status_1(qemuvm, monkeypatch):
    monkeypatch.setenv("QEMUVM_ACCEL", "warp")
    status, out, err = qemuvm("doctor")
    assert (status, out) == (1, "")
    assert "QEMUVM_ACCEL" in err
    assert "hint: " in err


def test_what_the_system_refuses_is_told_without_a_traceback(qemuvm, monkeypatch, tmp_path):
    def refused(*_args, **_more):
        (tmp_path / "nothing").read_text()

    monkeypatch.setattr("pytest_qemuvm.cli.doctor.survey", refused)
    status, _, err = qemuvm("doctor")
    assert status == 1
    assert err.startswith("qemuvm: ")
    assert "nothing" in err


def test_details_are_printed_line_by_line(capsys):
    cli.print_error(QemuVMError("it broke", "first\nsecond", "mend it"))
    assert capsys.readouterr().err == "qemuvm: it broke\n  first\n  second\nhint: mend it\n"


def test_interrupt_is_status_130_without_a_traceback(process, bare_path, tmp_path):
    """Interrupted while a QEMU that never answers is being asked for its version."""
    fifo = tmp_path / "started"
    subprocess.run(["/usr/bin/mkfifo", str(fifo)], check=True)
    bare_path("qemu-system-x86_64", f"echo up > {fifo}\nexec /usr/bin/sleep 1000")
    with process("doctor") as running:
        assert fifo.read_text() == "up\n"
        running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=20)
    assert running.returncode == 130
    assert "Traceback" not in out + err


def test_a_reader_that_goes_away_is_no_traceback(process):
    with process("doctor") as running:
        running.stdout.close()
        running.wait(60)
        assert "Traceback" not in running.stderr.read()


def test_pytest_is_not_imported(cache):
    code = (
        "import sys; from pytest_qemuvm.cli import main; main(['doctor']);"
        "sys.exit(bool({'pytest', '_pytest', 'asyncio'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
