"""The archive writer, against what the format says, and against any tree."""

from __future__ import annotations

import shutil
import stat
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_qemuvm.guest.cpio import Archive

NAME = st.text("abcXYZ.-_0 é", min_size=1, max_size=8).filter(lambda name: name not in {".", ".."})
PATHS = st.lists(NAME, min_size=1, max_size=3).map("/".join)


def read(data: bytes) -> dict[str, tuple[int, bytes, tuple[int, int]]]:
    """Read an archive back, by the format's own rules."""
    assert len(data) % 512 == 0
    found = {}
    at = 0
    while True:
        assert data[at : at + 6] == b"070701"
        fields = [int(data[at + 6 + 8 * n : at + 14 + 8 * n], 16) for n in range(13)]
        name_size, size = fields[11], fields[6]
        name = data[at + 110 : at + 110 + name_size - 1].decode()
        assert data[at + 110 + name_size - 1] == 0
        start = (at + 110 + name_size + 3) // 4 * 4
        if name == "TRAILER!!!":
            assert not data[start:].strip(b"\0")
            return found
        assert name not in found
        found[name] = (fields[1], data[start : start + size], (fields[9], fields[10]))
        at = (start + size + 3) // 4 * 4


@given(st.dictionaries(PATHS, st.binary(max_size=20), max_size=8))
def test_what_goes_in_comes_out_below_its_parents(files):
    archive = Archive()
    kept = {}
    for path, data in files.items():
        try:
            archive.file(path, data, 0o640)
        except ValueError:
            # Another path needed this one as a directory.
            assert any(other.startswith(f"{path}/") for other in kept)
            continue
        if any(path.startswith(f"{other}/") for other in kept):
            return  # a file below a file; the kernel would leave it out
        kept[path] = data
    found = read(archive.to_bytes())
    for path, data in kept.items():
        assert found[path] == (stat.S_IFREG | 0o640, data, (0, 0))
    seen = set()
    for name, (mode, _data, _device) in found.items():
        parent = name.rpartition("/")[0]
        assert not parent or parent in seen, f"{name} comes before its directory"
        if stat.S_ISDIR(mode):
            seen.add(name)


def test_links_devices_and_directories():
    archive = Archive()
    archive.device("dev/console", 5, 1)
    archive.symlink("bin", "usr/bin")
    archive.directory("tmp", 0o1777)
    archive.directory("tmp")
    found = read(archive.to_bytes())
    assert found["dev/console"] == (stat.S_IFCHR | 0o600, b"", (5, 1))
    assert found["bin"] == (stat.S_IFLNK | 0o777, b"usr/bin", (0, 0))
    assert found["tmp"][0] == stat.S_IFDIR | 0o1777


def test_the_same_entries_give_the_same_bytes():
    first, second = Archive(), Archive()
    for archive in (first, second):
        archive.file("a/b", b"data")
    assert first.to_bytes() == second.to_bytes() == first.to_bytes()


@pytest.mark.parametrize("path", ["", "/a", "a/", "a//b", "../a", "./a", "a\0b"])
def test_a_path_that_is_not_plain_is_refused(path):
    with pytest.raises(ValueError, match="plain relative path"):
        Archive().file(path, b"")


def test_adding_a_file_twice_is_refused():
    archive = Archive()
    archive.file("a", b"")
    with pytest.raises(ValueError, match="already"):
        archive.symlink("a", "b")


@pytest.mark.skipif(shutil.which("cpio") is None, reason="no cpio program")
def test_the_cpio_program_reads_it():
    archive = Archive()
    archive.file("a/b c", b"data")
    done = subprocess.run(
        ["cpio", "-it", "--quiet"], input=archive.to_bytes(), capture_output=True, check=True
    )
    assert done.stdout.decode().split("\n") == ["a", "a/b c", ""]
