"""Building the guest: once, by one, and whole whatever happens."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pytest_qemuvm.errors import GuestUnavailable
from pytest_qemuvm.guest.kernel import find_busybox, find_kernel
from pytest_qemuvm.guest.tiny import build_tiny, cached_tiny
from pytest_qemuvm.host.paths import cache_dir

BUILD = """
import sys
from pathlib import Path
from pytest_qemuvm.guest.tiny import build_tiny
cache, kernel, busybox = map(Path, sys.argv[1:])
build_tiny(cache, kernel=kernel, busybox=busybox, progress=lambda line: print(line, flush=True))
print("done", flush=True)
"""


@pytest.fixture(scope="module")
def parts() -> dict[str, Path]:
    """What a guest is built from."""
    try:
        return {
            "kernel": find_kernel(None, cache_dir()).vmlinuz,
            "busybox": find_busybox(None, cache_dir()),
        }
    except GuestUnavailable as error:
        pytest.skip(f"no guest: {error}")


def builder(cache: Path, parts: dict[str, Path]) -> subprocess.Popen[str]:
    argv = [sys.executable, "-c", BUILD, cache, parts["kernel"], parts["busybox"]]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)


def test_it_is_built_once_and_found_again_at_once(tmp_path, parts):
    assert cached_tiny(tmp_path, **parts) is None
    said: list[str] = []
    built = build_tiny(tmp_path, **parts, progress=said.append)
    assert len(said) == 1
    started = time.perf_counter()
    assert build_tiny(tmp_path, **parts, progress=said.append) == built
    assert cached_tiny(tmp_path, **parts) == built
    assert time.perf_counter() - started < 0.1
    assert len(said) == 1
    assert Path(built.boot.kernel).parent == built.directory == tmp_path / "tiny" / built.key
    assert built.boot.append.count("console=ttyS0") == 1


def test_another_busybox_is_another_guest(tmp_path, parts):
    built = build_tiny(tmp_path, **parts)
    copy = tmp_path / "busybox"
    copy.write_bytes(parts["busybox"].read_bytes())
    copy.chmod(0o755)
    assert build_tiny(tmp_path, kernel=parts["kernel"], busybox=copy).key != built.key


def test_what_was_damaged_is_built_again(tmp_path, parts):
    built = build_tiny(tmp_path, **parts)
    initrd = Path(str(built.boot.initrd))
    whole = initrd.stat().st_size
    initrd.chmod(0o644)
    initrd.write_bytes(b"cut")
    assert cached_tiny(tmp_path, **parts) is None
    assert build_tiny(tmp_path, **parts) == built
    assert initrd.stat().st_size == whole


def test_a_builder_that_is_killed_leaves_nothing_that_counts(tmp_path, parts):
    process = builder(tmp_path, parts)
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert cached_tiny(tmp_path, **parts) is None
    built = build_tiny(tmp_path, **parts)
    assert sorted(path.name for path in (tmp_path / "tiny").iterdir() if path.is_dir()) == [built.key]


def test_two_builders_build_one_guest(tmp_path, parts):
    processes = [builder(tmp_path, parts) for _ in range(2)]
    outputs = sorted(process.communicate()[0].splitlines()[0] for process in processes)
    assert outputs[0].startswith("building")
    # The second came while the first was at it, or found it done.
    assert outputs[1].startswith(("waiting", "done"))
    assert all(process.returncode == 0 for process in processes)


def test_a_kernel_without_a_way_to_the_agent_is_refused(tmp_path, parts):
    source = find_kernel(None, cache_dir())
    lonely = tmp_path / source.release
    lonely.mkdir()
    (lonely / "kernel").mkdir()
    kernel = lonely / "vmlinuz"
    kernel.symlink_to(parts["kernel"])
    with pytest.raises(GuestUnavailable) as caught:
        build_tiny(tmp_path, kernel=kernel, busybox=parts["busybox"])
    assert "virtio_console" in caught.value.brief
    assert [path for path in (tmp_path / "tiny").iterdir() if path.is_dir()] == []


def test_a_cache_that_cannot_be_written_is_named_with_what_to_do(tmp_path, parts):
    (tmp_path / "tiny").write_text("in the way")
    with pytest.raises(GuestUnavailable) as caught:
        build_tiny(tmp_path, **parts)
    assert str(tmp_path) in caught.value.details
    assert "QEMUVM_CACHE" in caught.value.hint
