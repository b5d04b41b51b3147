"""Whether QEMU has the boot ROMs that it gives its NICs, before it is started without them."""

import pytest

from pytest_qemuvm.devices.nic import BOOT_ROMS
from pytest_qemuvm.errors import CapabilityError
from pytest_qemuvm.host.boot_roms import data_directories, missing_roms, require_roms
from pytest_qemuvm.host.executables import Executables


@pytest.fixture
def qemu(tmp_path):
    """Return a program that says what QEMU says of its directories, and one of these."""
    directory = tmp_path / "roms"
    directory.mkdir()
    path = tmp_path / "qemu"
    path.write_text(f'#!/bin/sh\n[ "$*" = "-L help" ] && echo /nowhere && echo {directory}\n')
    path.chmod(0o755)
    return str(path), directory


def test_a_rom_is_found_in_any_of_its_directories(qemu):
    binary, directory = qemu
    (directory / "efi-virtio.rom").touch()
    require_roms(binary, ["efi-virtio.rom"])
    assert missing_roms(BOOT_ROMS.values(), data_directories(binary)) == ["efi-e1000e.rom"]


def test_one_that_is_missing_is_named_with_the_package_that_has_it(qemu):
    binary, directory = qemu
    with pytest.raises(CapabilityError) as caught:
        Executables(listing=binary).require_roms(["efi-virtio.rom", "efi-e1000e.rom"])
    assert "efi-virtio.rom" in caught.value.brief
    assert str(directory) in caught.value.details
    assert "ipxe-qemu" in caught.value.hint
    Executables(listing=binary, version="7.2").require_roms(["efi-virtio.rom"])
    Executables(listing=binary).require_roms([])


@pytest.mark.parametrize("says", ["exit 1", "true"])
def test_a_qemu_that_does_not_say_where_it_looks_has_none(tmp_path, says):
    path = tmp_path / "qemu"
    path.write_text(f"#!/bin/sh\n{says}\n")
    path.chmod(0o755)
    with pytest.raises(CapabilityError, match="did not say"):
        require_roms(str(path), ["efi-virtio.rom"])
