"""Which QEMU is used, and how what is not one is told apart."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from pytest_qemuvm.errors import QemuNotFound, QemuUnusable
from pytest_qemuvm.host import binary
from pytest_qemuvm.host.binary import find_qemu, identify

BANNER = "QEMU emulator version {} (made up)"


@pytest.fixture
def script(tmp_path):
    def write(body: str, name: str = "qemu-system-x86_64") -> Path:
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)
        return path

    return write


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def qemu():
    try:
        return find_qemu(None)
    except QemuNotFound as missing:
        pytest.skip(str(missing))


class TestFind:
    def test_a_path(self, script):
        path = script("true")
        assert find_qemu(str(path)) == path

    def test_a_relative_path_becomes_absolute(self, script, monkeypatch):
        path = script("true")
        monkeypatch.chdir(path.parent)
        assert find_qemu("./qemu-system-x86_64") == path

    def test_a_name_on_path(self, script, monkeypatch):
        path = script("true", "my-qemu")
        monkeypatch.setenv("PATH", str(path.parent))
        assert find_qemu("my-qemu") == path

    def test_without_a_name_the_usual_one(self, script, monkeypatch):
        path = script("true")
        monkeypatch.setenv("PATH", str(path.parent))
        assert find_qemu(None) == path

    def test_another_system(self, script, monkeypatch):
        path = script("true", "qemu-system-riscv64")
        monkeypatch.setenv("PATH", str(path.parent))
        assert find_qemu(None, system="riscv64") == path

    @pytest.mark.parametrize("explicit", ["/nonexistent/qemu", "no-such-qemu", None])
    def test_nothing_there(self, explicit, monkeypatch, tmp_path):
        monkeypatch.setenv("PATH", str(tmp_path))
        if explicit is None and Path("/usr/libexec/qemu-kvm").exists():
            pytest.skip("this host has Red Hat's binary, which needs no PATH")
        with pytest.raises(QemuNotFound) as caught:
            find_qemu(explicit)
        assert caught.value.hint

    def test_not_executable(self, script):
        path = script("true")
        path.chmod(0o644)
        with pytest.raises(QemuUnusable):
            find_qemu(str(path))

    def test_a_directory(self, tmp_path):
        with pytest.raises(QemuUnusable):
            find_qemu(str(tmp_path))


class TestIdentify:
    def test_the_real_one(self, qemu, cache):
        found = identify(qemu, cache)
        assert found.version >= binary.OLDEST
        assert found.version_text.startswith("QEMU emulator version")
        assert len(found.fingerprint) == 16

    def test_a_hit_is_the_same_and_takes_under_a_millisecond(self, qemu, cache):
        cold = identify(qemu, cache)
        times = []
        for _ in range(5):
            start = time.perf_counter()
            assert identify(qemu, cache) == cold
            times.append(time.perf_counter() - start)
        assert min(times) < 0.001

    def test_a_damaged_answer_is_made_anew(self, qemu, cache):
        cold = identify(qemu, cache)
        (file,) = (cache / "probes").iterdir()
        good = file.read_bytes()
        file.write_bytes(good.replace(b"fingerprint", b"fingerpaint"))
        assert identify(qemu, cache) == cold
        assert file.read_bytes() == good

    def test_a_cache_that_cannot_be_written_is_not_fatal(self, qemu, cache):
        cache.write_text("a file")
        assert identify(qemu, cache).path == str(qemu)

    def test_a_link_to_it_is_the_same_binary(self, qemu, cache, tmp_path):
        link = tmp_path / "qemu"
        link.symlink_to(qemu)
        assert identify(link, cache).fingerprint == identify(qemu, cache).fingerprint
        assert identify(link, cache).path == str(link)

    def test_a_copy_has_the_same_fingerprint(self, qemu, cache, tmp_path):
        """What was learnt in one container holds in the next one with the same package."""
        copy = shutil.copy(os.path.realpath(qemu), tmp_path / "copy")
        assert identify(Path(copy), cache).fingerprint == identify(qemu, cache).fingerprint

    def test_a_wrapper_script_is_asked_every_time(self, script, cache):
        path = script(f"echo '{BANNER.format('9.1.0')}'")
        first = identify(path, cache)
        other = path.with_name("other")
        other.write_text("8.0.0")
        info = path.stat()
        path.write_text(path.read_text().replace("9.1.0", "9.2.0"))
        os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))
        assert first.version == (9, 1, 0)
        assert identify(path, cache).version == (9, 2, 0)

    @pytest.mark.parametrize(
        ("text", "version"),
        [
            ("QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3)", (7, 2, 22)),
            ("QEMU emulator version 8.2.2 (Debian 1:8.2.2+ds-0ubuntu1.7)", (8, 2, 2)),
            ("QEMU emulator version 9.1.0 (qemu-kvm-9.1.0-15.el9)", (9, 1, 0)),
            ("QEMU emulator version 10.0.50 (v10.0.0-1234-gabcdef)", (10, 0, 50)),
            ("QEMU emulator version 11.0", (11, 0, 0)),
        ],
    )
    def test_versions(self, script, cache, text, version):
        assert identify(script(f"echo '{text}'; echo Copyright"), cache).version == version

    @pytest.mark.parametrize(
        "body",
        [
            "echo 'qemu-img version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3)'",
            "echo 'qemu-x86_64 version 7.2.22'",
            "echo 'GNU bash, version 5.2.15(1)-release'",
            "true",
            "printf '\\377\\376\\000'",
        ],
    )
    def test_not_a_qemu(self, script, cache, body):
        with pytest.raises(QemuUnusable) as caught:
            identify(script(body), cache)
        assert "--version" in caught.value.details

    def test_too_old(self, script, cache):
        with pytest.raises(QemuUnusable) as caught:
            identify(script(f"echo '{BANNER.format('6.1.0')}'"), cache)
        assert "6.1.0" in caught.value.brief
        assert not cache.exists()

    def test_does_not_start(self, script, cache):
        with pytest.raises(QemuUnusable) as caught:
            identify(script("echo 'libfoo.so.1: cannot open shared object file' >&2; exit 127"), cache)
        assert "libfoo.so.1" in caught.value.details

    def test_not_a_program(self, script, cache):
        path = script("")
        path.write_bytes(b"\x7fELF but not really")
        with pytest.raises(QemuUnusable):
            identify(path, cache)

    def test_hangs(self, script, cache, monkeypatch):
        monkeypatch.setattr(binary, "_START_SECONDS", 0.2)
        start = time.monotonic()
        with pytest.raises(QemuUnusable) as caught:
            identify(script("exec sleep 1000"), cache)
        assert time.monotonic() - start < 3
        assert "still running" in caught.value.details

    def test_gone(self, cache, tmp_path):
        with pytest.raises(QemuNotFound):
            identify(tmp_path / "gone", cache)


class TestParting:
    """Whether QEMU can be told to end with the thread that started it is tried, not told from its version."""

    def test_one_that_takes_the_option_and_one_that_does_not(self, script):
        assert binary._can_end_with_parent(script('[ "$1 $2" = "-run-with exit-with-parent=on" ]'))
        assert not binary._can_end_with_parent(script("exit 1", "old"))

    def test_what_it_is_told_then(self, qemu, cache):
        able = identify(qemu, cache)._replace(ends_with_parent=True)
        assert able.parting_words == ("-run-with", "exit-with-parent=on")
        assert able._replace(ends_with_parent=False).parting_words == ()

    def test_a_script_is_not_asked_because_it_would_be_the_parent(self, script, cache, tmp_path):
        log = tmp_path / "log"
        path = script(f'echo "$@" >> {log}; echo "{BANNER.format("10.2.0")}"')
        assert not identify(path, cache).ends_with_parent
        assert log.read_text() == "--version\n"

    def test_what_was_learnt_comes_back_from_the_cache(self, qemu, cache):
        first = identify(qemu, cache)
        assert identify(qemu, cache) == first
        tried = subprocess.run(
            [qemu, "-run-with", "exit-with-parent=on", "-machine", "help"], capture_output=True, check=False
        )
        assert bool(first.parting_words) == (tried.returncode == 0)

    def test_an_answer_of_before_this_was_asked_is_none(self, qemu, cache):
        first = identify(qemu, cache)
        (stored,) = (cache / "probes").glob("binary-*")
        stored.write_text(stored.read_text().replace("ends_with_parent", "something_else"))
        assert identify(qemu, cache) == first
