"""Finding kernels and taking them apart, with images made by hand."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import lzma
import os
import shutil
import struct
import subprocess
from typing import TYPE_CHECKING

import pytest
from guest_images import bzimage, elf, module, vmlinux
from hypothesis import given
from hypothesis import strategies as st

from pytest_qemuvm.errors import GuestUnavailable
from pytest_qemuvm.guest import elf as elf_reader
from pytest_qemuvm.guest.decompress import CannotDecompress, decompress
from pytest_qemuvm.guest.kernel import find_busybox, find_kernel
from pytest_qemuvm.guest.modules import ModuleTree, modules_alias, modules_dep, read_module, without_signature
from pytest_qemuvm.guest.vmlinux import bzimage_release, extract, has_pvh_entry, is_bzimage, vmlinux_release

if TYPE_CHECKING:
    from pathlib import Path

STATIC = elf(segments=[(1, b"code")])
DYNAMIC = elf(segments=[(3, b"/lib/ld.so\0"), (1, b"code")])


def packed_with(program: str, *options: str):
    def pack(data: bytes) -> bytes:
        if shutil.which(program) is None:
            pytest.skip(f"no {program}")
        return subprocess.run([program, *options, "-c"], input=data, capture_output=True, check=True).stdout

    return pack


@pytest.mark.parametrize(
    "pack",
    [
        gzip.compress,
        bz2.compress,
        lzma.compress,
        lambda data: lzma.compress(data, lzma.FORMAT_ALONE),
        packed_with("zstd"),
        packed_with("lz4", "-l"),
    ],
    ids=["gzip", "bzip2", "xz", "lzma", "zstd", "lz4"],
)
def test_the_kernel_comes_out_of_its_image_whatever_packed_it(pack):
    kernel = vmlinux()
    # The kernel's build appends the unpacked size.
    taken = extract(bzimage(pack(kernel) + struct.pack("<I", len(kernel))))
    assert taken.data == kernel
    assert "PVH" in taken.note


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (bzimage(gzip.compress(vmlinux(pvh=False))), "no PVH entry"),
        (bzimage(gzip.compress(b"not a kernel")), "not an ELF file"),
        (bzimage(b"\x89LZO\0\r\n\x1a\n"), "unknown compression"),
        (bzimage(gzip.compress(vmlinux())[:40][:-1] + b"\xff" * 9), "damaged"),
        (bzimage(gzip.compress(vmlinux()), version=0x207), "no payload"),
    ],
)
def test_what_cannot_be_taken_out_is_booted_as_it_is_and_says_why(image, reason):
    taken = extract(image)
    assert taken.data is None
    assert reason in taken.note


def test_a_vmlinux_is_taken_as_it_is():
    assert extract(vmlinux()).data == vmlinux()


def test_releases_and_kinds():
    assert bzimage_release(bzimage(b"x", release="6.9-rc1")) == "6.9-rc1"
    assert vmlinux_release(vmlinux(release="5.4.0")) == "5.4.0"
    assert bzimage_release(vmlinux()) is None
    assert not is_bzimage(b"")
    assert has_pvh_entry(vmlinux())
    assert not has_pvh_entry(vmlinux(pvh=False))


@given(st.binary(max_size=2000), st.integers(0, 400))
def test_no_file_makes_the_readers_fail_otherwise_than_by_saying_no(tail, cut):
    for data in (tail, vmlinux()[:cut] + tail, module()[:cut] + tail, bzimage(b"")[: 0x300 + cut] + tail):
        elf_reader.segments(data)
        elf_reader.section(data, b".modinfo")
        has_pvh_entry(data)
        bzimage_release(data)
        with contextlib.suppress(CannotDecompress):
            decompress(data)


def test_static_and_dynamic_programs_are_told_apart():
    assert elf_reader.is_static(STATIC)
    assert not elf_reader.is_static(DYNAMIC)
    assert not elf_reader.is_static(b"#!/bin/sh\n")


def package(cache: Path, name: str, release: str, *, fedora: bool = False) -> Path:
    root = cache / "packages" / name
    modules = root / ("usr/lib/modules" if fedora else "lib/modules") / release
    (modules / "kernel").mkdir(parents=True)
    kernel = modules / "vmlinuz" if fedora else root / f"boot/vmlinuz-{release}"
    kernel.parent.mkdir(exist_ok=True)
    kernel.write_bytes(bzimage(b"", release=release))
    return kernel


@pytest.fixture
def no_programs(monkeypatch):
    """A host without a busybox of its own."""
    monkeypatch.setenv("PATH", "/nonexistent")


def test_the_newest_generic_kernel_is_taken_and_the_cloud_one_last(tmp_path):
    with pytest.raises(GuestUnavailable, match="qemuvm setup"):
        find_kernel(None, tmp_path, host=tmp_path / "host")
    package(tmp_path, "linux-image-cloud_6.20", "6.20.0-1-cloud-amd64")
    assert find_kernel(None, tmp_path, host=tmp_path / "host").release == "6.20.0-1-cloud-amd64"
    package(tmp_path, "linux-image_6.9", "6.9.0-1-amd64")
    newest = package(tmp_path, "kernel_6.12", "6.12.0-1.fc42.x86_64", fedora=True)
    found = find_kernel(None, tmp_path, host=tmp_path / "host")
    assert (found.vmlinuz, found.release, found.origin) == (
        newest,
        "6.12.0-1.fc42.x86_64",
        "package kernel_6.12",
    )
    assert found.modules_dir == newest.parent


def test_the_hosts_own_kernel_comes_before_packages(tmp_path):
    package(tmp_path, "linux-image_6.9", "6.9.0-1-amd64")
    (tmp_path / "packages/host").mkdir()
    kernel = package(tmp_path, "host/host", "5.10.0-1-amd64")
    found = find_kernel(None, tmp_path, host=tmp_path / "packages/host/host")
    assert (found.vmlinuz, found.origin) == (kernel, "host")


def test_modules_may_come_in_a_package_of_their_own(tmp_path):
    kernel = package(tmp_path, "linux-image_6.8", "6.8.0-generic")
    modules = tmp_path / "packages/linux-image_6.8/lib/modules/6.8.0-generic"
    elsewhere = tmp_path / "packages/linux-modules_6.8/lib/modules"
    elsewhere.mkdir(parents=True)
    modules.rename(elsewhere / "6.8.0-generic")
    assert find_kernel(None, tmp_path, host=tmp_path / "host").vmlinuz == kernel
    assert find_kernel(None, tmp_path, host=tmp_path / "host").modules_dir == elsewhere / "6.8.0-generic"


def test_what_is_named_is_taken_or_refused(tmp_path):
    kernel = package(tmp_path, "p", "6.1.0-test")
    assert find_kernel(kernel, tmp_path).modules_dir == tmp_path / "packages/p/lib/modules/6.1.0-test"
    assert find_kernel(tmp_path / "packages/p", tmp_path).vmlinuz == kernel
    lonely = tmp_path / "mine"
    lonely.write_bytes(vmlinux(release="9.9.9-mine"))
    found = find_kernel(lonely, tmp_path)
    assert (found.release, found.modules_dir, found.origin) == ("9.9.9-mine", None, "named")
    (tmp_path / "text").write_text("no kernel")
    for wrong in (tmp_path / "missing", tmp_path / "text", tmp_path / "packages"):
        with pytest.raises(GuestUnavailable) as caught:
            find_kernel(wrong, tmp_path)
        assert str(wrong) in caught.value.brief


@pytest.mark.usefixtures("no_programs")
def test_only_a_static_busybox_will_do(tmp_path, monkeypatch):
    with pytest.raises(GuestUnavailable, match="qemuvm setup"):
        find_busybox(None, tmp_path)
    there = tmp_path / "packages/busybox_1/usr/bin/busybox"
    there.parent.mkdir(parents=True)
    there.write_bytes(STATIC)
    assert find_busybox(None, tmp_path) == there
    on_path = tmp_path / "bin/busybox"
    on_path.parent.mkdir()
    on_path.write_bytes(DYNAMIC)
    on_path.chmod(0o755)
    monkeypatch.setenv("PATH", str(on_path.parent))
    assert find_busybox(None, tmp_path) == there
    with pytest.raises(GuestUnavailable):
        find_busybox(on_path, tmp_path)
    on_path.write_bytes(STATIC)
    assert find_busybox(None, tmp_path) == on_path


@pytest.fixture
def tree(tmp_path):
    files = {
        "kernel/a-b.ko": module(depends="c,d", aliases=["pci:v1*"]),
        "kernel/deep/c.ko.xz": lzma.compress(module(depends="d")),
        "kernel/d.ko.gz": gzip.compress(module(softdep="pre: e missing post: f")),
        "kernel/e.ko": module(),
        "kernel/f.ko": module(depends="g"),
        "kernel/g.ko": module(depends="f"),
        "modules.builtin": b"kernel/fs/built-in.ko\n",
    }
    for name, data in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return ModuleTree(tmp_path)


def test_modules_come_after_what_they_need(tree):
    assert [one.name for one in tree.closure(["a-b"])] == ["e", "d", "c", "a_b"]
    assert [one.name for one in tree.closure(["c", "missing", "built-in", "e"])] == ["e", "d", "c"]
    assert {one.name for one in tree.closure(["f"])} == {"f", "g"}
    assert tree.has("built_in")
    assert "a_b" in tree
    assert not tree.has("missing")


def test_the_tables_for_modprobe(tree):
    modules = tree.closure(["a_b"])
    assert modules_dep(modules, "kernel/{}.ko".format).splitlines() == [
        "kernel/e.ko:",
        "kernel/d.ko: kernel/e.ko",
        "kernel/c.ko: kernel/d.ko kernel/e.ko",
        "kernel/a_b.ko: kernel/c.ko kernel/d.ko kernel/e.ko",
    ]
    assert modules_alias(modules) == "alias pci:v1* a_b\n"


def test_what_is_no_module_is_refused():
    with pytest.raises(GuestUnavailable):
        read_module("x", os.urandom(100))


def test_a_modules_signature_is_taken_off_and_nothing_else():
    import struct

    body = b"\x7fELF" + bytes(1000)
    magic = b"~Module signature appended~\n"
    signed = body + bytes(256) + struct.pack(">3xBB3xI", 0, 0, 256) + magic
    assert without_signature(signed) == body
    assert without_signature(body) == body
    assert without_signature(magic) == magic
    torn = b"x" * 4 + struct.pack(">3xBB3xI", 0, 0, 2**31) + magic
    assert without_signature(torn) == torn
