"""What package managers print, as recorded on the distributions named."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_qemuvm.host.apt import Apt, parse_kernel_parts
from pytest_qemuvm.host.dnf import Dnf, newest, parse_rpm_name
from pytest_qemuvm.host.packages import lost_network

DEBIAN_12_META = """\
linux-image-amd64
  Depends: linux-image-6.1.0-56-amd64
"""
DEBIAN_12_IMAGE = """\
linux-image-6.1.0-56-amd64
  Depends: kmod
  Depends: linux-base
 |Depends: initramfs-tools
  Depends: <linux-initramfs-tool>
    dracut
    initramfs-tools
    tiny-initramfs
  Breaks: fwupdate
  Breaks: <wireless-regdb>
  Recommends: firmware-linux-free
  Recommends: apparmor
  Suggests: linux-doc-6.1
  Suggests: debian-kernel-handbook
 |Suggests: grub-pc
 |Suggests: grub-efi-amd64
  Suggests: extlinux
"""
UBUNTU_2404_META = """\
linux-image-generic
  Depends: linux-image-6.8.0-57-generic
  Depends: linux-modules-extra-6.8.0-57-generic
  Depends: linux-firmware
  Depends: intel-microcode
  Depends: amd64-microcode
  Recommends: thermald
"""
UBUNTU_2404_IMAGE = """\
linux-image-6.8.0-57-generic
  Depends: kmod
  Depends: linux-base
  Depends: linux-modules-6.8.0-57-generic
  Conflicts: <linux-image-unsigned-6.8.0-57-generic>
 |Recommends: grub-pc
 |Recommends: grub-efi-amd64
  Recommends: initramfs-tools
  Suggests: bpftool
  Suggests: linux-perf
  Suggests: fdutils
  Suggests: linux-doc
  Suggests: linux-tools
  Suggests: linux-headers-6.8.0-57-generic
  Suggests: linux-modules-extra-6.8.0-57-generic
"""
VIRTUAL_ONLY = """\
<linux-image-generic>
"""


class TestApt:
    def test_debian(self):
        assert parse_kernel_parts(DEBIAN_12_META) == ["linux-image-6.1.0-56-amd64"]
        assert parse_kernel_parts(DEBIAN_12_IMAGE) == []

    def test_ubuntu_has_its_modules_in_packages_of_their_own(self):
        assert parse_kernel_parts(UBUNTU_2404_META) == [
            "linux-image-6.8.0-57-generic",
            "linux-modules-extra-6.8.0-57-generic",
        ]
        assert parse_kernel_parts(UBUNTU_2404_IMAGE) == ["linux-modules-6.8.0-57-generic"]

    @pytest.mark.parametrize("text", ["", VIRTUAL_ONLY])
    def test_a_meta_package_that_is_not_there(self, text):
        assert parse_kernel_parts(text) == []

    @pytest.mark.parametrize(
        ("file", "tree"),
        [
            (
                "busybox-static_1%3a1.35.0-4+deb12u1+b1_amd64.deb",
                "busybox-static_1.35.0-4+deb12u1+b1",
            ),
            (
                "linux-image-6.1.0-56-amd64_6.1.192-2_amd64.deb",
                "linux-image-6.1.0-56-amd64_6.1.192-2",
            ),
        ],
    )
    def test_the_name_of_a_tree(self, file, tree):
        assert Apt().tree_name(Path(file)) == tree

    def test_an_installation_brings_neither_desktops_nor_questions(self):
        update, install = Apt().install_commands(Apt.qemu_packages)
        assert update == ["apt-get", "update"]
        assert {"--yes", "--no-install-recommends", "DEBIAN_FRONTEND=noninteractive"} < set(install)
        assert install[-2:] == ["qemu-system-x86", "qemu-utils"]


class TestDnf:
    @pytest.mark.parametrize(
        ("file", "name", "version"),
        [
            ("kernel-core-6.11.4-301.fc41.x86_64.rpm", "kernel-core", "6.11.4-301.fc41"),
            ("kernel-modules-core-6.11.4-301.fc41.x86_64.rpm", "kernel-modules-core", "6.11.4-301.fc41"),
            ("busybox-1.36.1-8.fc41.x86_64.rpm", "busybox", "1.36.1-8.fc41"),
            ("kernel-core-5.14.0-503.11.1.el9_5.x86_64.rpm", "kernel-core", "5.14.0-503.11.1.el9_5"),
        ],
    )
    def test_the_parts_of_a_file_name(self, file, name, version):
        assert parse_rpm_name(file) == (name, version)
        assert Dnf().tree_name(Path(file)) == f"{name}_{version}"

    def test_what_is_no_rpm(self):
        with pytest.raises(ValueError, match="not the file name"):
            parse_rpm_name("kernel-core.rpm")

    def test_a_name_that_others_begin_with(self, tmp_path):
        files = []
        for name in ("kernel-modules-core-6.11.4-301.fc41", "kernel-modules-6.11.4-301.fc41"):
            files.append(tmp_path / f"{name}.x86_64.rpm")
            files[-1].touch()
        assert newest(files, "kernel-modules") == files[1]
        assert newest(files, "kernel") is None

    def test_an_installation_leaves_out_weak_dependencies(self):
        (install,) = Dnf().install_commands(Dnf.qemu_packages)
        assert "--setopt=install_weak_deps=False" in install
        assert install[-2:] == ["qemu-system-x86-core", "qemu-img"]


@pytest.mark.parametrize(
    ("stderr", "lost"),
    [
        ("W: Failed to fetch http://archive.example/x  Temporary failure resolving 'archive.example'", True),
        ("E: Failed to fetch http://x/y.deb  Could not connect to 127.0.0.1:9 (127.0.0.1).", True),
        (" - Curl error (6): Couldn't resolve host name for https://mirrors.fedoraproject.org/", True),
        ("Error: Failed to download metadata for repo 'fedora': Cannot prepare internal mirrorlist", True),
        ("E: Unable to locate package linux-image-6.1.0-55-amd64", False),
        ("E: Failed to fetch http://x/y.deb  404  Not Found [IP: 151.101.2.132 80]", False),
        ("", False),
    ],
)
def test_a_lost_network_is_told_from_other_failures(stderr, lost):
    assert lost_network(stderr) is lost
