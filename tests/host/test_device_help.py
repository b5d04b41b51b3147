"""What QEMU's own help says of devices: read from a real QEMU."""

import shutil

import pytest

from pytest_qemuvm.host.device_help import read_drivers, right_name

BINARY = shutil.which("qemu-system-x86_64")


@pytest.mark.parametrize(
    ("log", "right"),
    [
        ("qemu-system-x86_64: -device edw: 'edw' is not a valid device model name", "'edu'"),
        ('qemu: -device {"driver":"edw"}: \'edw\' is not a valid device name', "'edu'"),
        ("qemu: -device edu,dma_maks=5: Property 'edu.dma_maks' not found", "'dma_mask'"),
        (
            "qemu: -device virtio-balloon,x=5: Property 'virtio-balloon-pci.deflate' not found",
            "'deflate-on-oom'",
        ),
        ("qemu: -device usb-kbd,bus=pcie.0: Device 'usb-kbd' can't go on PCIE bus", "bus='usb'"),
        ("qemu: -device scsi-cd: No 'SCSI' bus found for device 'scsi-cd'", None),
        ("qemu: -device none: Property 'no-such-device.x' not found", None),
        ("qemu: -machine x: Property 'pc-q35-7.2-machine.x' not found", None),
        ("", None),
    ],
)
def test_the_right_name_is_found_where_the_log_says_that_one_was_wrong(log, right):
    hint = right_name(BINARY, log)
    assert hint is None if right is None else right in hint


def test_a_binary_that_is_gone_or_says_nothing_has_no_hint(tmp_path):
    log = "qemu: -device edw: 'edw' is not a valid device model name"
    assert right_name(str(tmp_path / "qemu"), log) is None
    assert right_name("/bin/true", log) is None


def test_drivers_are_known_by_all_their_names_and_only_those_a_user_may_say():
    text = (
        'name "e1000", bus PCI, alias "e1000-82540em", desc "Intel, the \\"first\\""\r\n'
        'name "pc-dimm", desc "DIMM memory module"\r\n'
        'name "mch", bus PCI, desc "Host bridge", no-user\r\n'
    )
    known = read_drivers(text)
    assert {name: (driver.name, driver.bus) for name, driver in known.items()} == {
        "e1000": ("e1000", "PCI"),
        "e1000-82540em": ("e1000", "PCI"),
        "pc-dimm": ("pc-dimm", None),
    }
    assert "bus='pci'" in known["e1000"].belongs()
    assert "bus='none'" in known["pc-dimm"].belongs()
