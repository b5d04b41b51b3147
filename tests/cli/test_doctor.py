"""``qemuvm doctor`` looks at everything, says what is missing, and its exit status is the verdict."""

from __future__ import annotations

import json

import pytest

ALWAYS = {"python", "pytest", "qemu", "qemu-img", "accelerator", "/dev/kvm", "kernel", "busybox"} | {
    "runtime directory",
    "cache directory",
    "host",
    "shared memory",
    "boot ROMs",
}


@pytest.fixture
def doctor(qemuvm):
    def run(*options: str):
        status, out, err = qemuvm("doctor", "--json", *options)
        assert err == ""
        report = json.loads(out)
        return status, report, {row["name"]: row for row in report["rows"]}

    return run


def test_every_row_is_there_and_the_status_is_the_verdict(doctor):
    status, report, rows = doctor()
    assert rows.keys() >= ALWAYS
    assert {row["status"] for row in rows.values()} <= {"ok", "warn", "missing"}
    assert report["ready"] == (not any(row["status"] == "missing" for row in rows.values()))
    assert status == (0 if report["ready"] else 1)


def test_an_empty_path_has_neither_qemu_nor_an_accelerator(doctor, bare_path):
    status, report, rows = doctor()
    assert (status, report["ready"]) == (1, False)
    for name in ("qemu", "accelerator"):
        assert rows[name]["status"] == "missing"
        assert rows[name]["remedy"]
    assert rows["qemu-img"]["status"] == "warn"


def test_a_qemu_that_is_too_old(doctor, bare_path):
    bare_path("qemu-system-x86_64", "echo QEMU emulator version 6.1.0")
    _, _, rows = doctor()
    assert rows["qemu"]["status"] == "missing"
    assert "6.1.0" in rows["qemu"]["value"]


def test_a_binary_named_by_variable(doctor, bare_path, monkeypatch):
    path = bare_path("mine", "[ $1 = --version ] && echo QEMU emulator version 9.2.0 || exit 1")
    monkeypatch.setenv("QEMUVM_BINARY", str(path))
    _, _, rows = doctor()
    assert rows["qemu"] == {
        "name": "qemu",
        "status": "ok",
        "value": f"9.2.0 ({path})",
        "remedy": None,
    }
    assert rows["accelerator"]["status"] == "missing"


def test_a_kernel_named_by_variable_that_is_not_there(doctor, monkeypatch):
    monkeypatch.setenv("QEMUVM_KERNEL", "/nonexistent/vmlinuz")
    _, _, rows = doctor()
    assert rows["kernel"]["status"] == "missing"


def test_a_cache_that_cannot_be_made(doctor, cache):
    cache.write_text("a file")
    _, _, rows = doctor()
    assert rows["cache directory"]["status"] == "missing"
    assert "QEMUVM_CACHE" in rows["cache directory"]["remedy"]


def test_a_cache_where_one_may_not_even_look(doctor, monkeypatch):
    monkeypatch.setenv("QEMUVM_CACHE", "/" + 300 * "x")  # no right to look, or no such name: both raise
    _, _, rows = doctor()
    assert "cache directory" in rows


def test_the_size_of_the_cache(doctor, cache):
    cache.mkdir()
    (cache / "big").write_bytes(b"x" * 5 * 1024 * 1024)
    with (cache / "sparse").open("wb") as file:
        file.truncate(1 << 40)
    _, _, rows = doctor()
    assert "(5 MiB used" in rows["cache directory"]["value"]


def test_the_table_tells_the_same_with_remedies(qemuvm, bare_path):
    status, out, _ = qemuvm("doctor")
    assert status == 1
    assert "MISSING" in out
    assert "-> run `qemuvm setup`" in out
    assert max(map(len, out.splitlines())) <= 300


def test_fresh_measures_the_accelerator_again(doctor, bare_path, tmp_path):
    log = tmp_path / "log"
    bare_path(
        "qemu-system-x86_64",
        '[ "$1" = --version ] && echo QEMU emulator version 9.2.0 && exit\n[ "$1" = -L ] && exit\n'
        f"echo x >> {log}; exit 85",
    )
    _, _, rows = doctor()
    assert rows["accelerator"]["status"] == "ok"
    first = len(log.read_text())
    doctor()
    assert len(log.read_text()) == first
    doctor("--fresh")
    assert len(log.read_text()) == 2 * first
