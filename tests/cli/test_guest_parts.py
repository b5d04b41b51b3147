"""What a kernel needs to be unpacked is found out by looking at it."""

from __future__ import annotations

import os
import struct

import pytest

from pytest_qemuvm.cli.guest_parts import guest_rows

RELEASE = "6.8.0-57-generic"


@pytest.fixture
def kernel(tmp_path):
    """Make an unpacked kernel: the first bytes of its payload, and the suffix of its one module."""

    def make(packed: bytes, suffix: str | None) -> str:
        header = bytearray(2048)
        header[0x1F1] = 3  # setup sectors: the payload begins at 4 * 512
        header[0x1FE:0x200] = b"\x55\xaa"
        header[0x202:0x206] = b"HdrS"
        struct.pack_into("<H", header, 0x206, 0x20F)
        struct.pack_into("<H", header, 0x20E, 0x500 - 0x200)
        header[0x500 : 0x500 + len(RELEASE)] = RELEASE.encode()
        struct.pack_into("<II", header, 0x248, 0, len(packed))
        image = tmp_path / "boot" / f"vmlinuz-{RELEASE}"
        image.parent.mkdir()
        image.write_bytes(bytes(header) + packed)
        if suffix is not None:
            module = tmp_path / "lib" / "modules" / RELEASE / "kernel" / f"virtio{suffix}"
            module.parent.mkdir(parents=True)
            module.touch()
        return str(image)

    return make


@pytest.fixture
def rows(kernel, tmp_path):
    def look(packed: bytes, suffix: str | None):
        return {row.name: row for row in guest_rows(kernel(packed, suffix), tmp_path / "cache")}

    return look


def test_what_python_unpacks_needs_nothing(rows):
    found = rows(b"\xfd7zXZ\0", ".ko.xz")
    assert found.keys() == {"kernel", "busybox"}
    assert found["kernel"].status == "ok"
    assert RELEASE in found["kernel"].value


def test_modules_packed_with_zstd_need_it(rows, monkeypatch):
    monkeypatch.setenv("PATH", os.devnull)
    assert rows(b"\x1f\x8b", ".ko.zst")["zstd"].status == "missing"


@pytest.mark.parametrize(("packed", "program"), [(b"\x28\xb5\x2f\xfd", "zstd"), (b"\x02\x21\x4c\x18", "lz4")])
def test_a_packed_kernel_does_with_less(rows, monkeypatch, packed, program):
    monkeypatch.setenv("PATH", os.devnull)
    assert rows(packed, ".ko")[program].status == "warn"


def test_an_unpacker_that_is_there(rows, bare_path):
    path = bare_path("zstd")
    found = rows(b"\x28\xb5\x2f\xfd", ".ko.zst")["zstd"]
    assert (found.status, found.value) == ("ok", str(path))


def test_a_kernel_without_modules_is_said_to_be(rows):
    assert rows(b"\x1f\x8b", None)["kernel"].status == "warn"
