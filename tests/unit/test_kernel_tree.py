"""An unpacked kernel is made smaller without breaking a driver that is kept."""

from __future__ import annotations

import pytest

from pytest_qemuvm.host.kernel_tree import UNUSED, depends, give_usual_places, prune_modules

RELEASE = "6.1.0-56-amd64"


@pytest.fixture
def modules(tmp_path):
    """Add modules to a tree: path under kernel/, and what it depends on."""

    def add(path: str, needs: str = "") -> None:
        file = tmp_path / "lib" / "modules" / RELEASE / "kernel" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"\x7fELF...license=GPL\0depends=" + needs.encode() + b"\0retpoline=Y\0")

    return add


@pytest.fixture
def left(tmp_path):
    def names() -> set[str]:
        return {path.name for path in tmp_path.rglob("*.ko*")}

    return names


@pytest.mark.parametrize(
    ("data", "names"),
    [
        (b"license=GPL\0depends=virtio,virtio-ring\0name=x\0", ["virtio", "virtio_ring"]),
        (b"license=GPL\0depends=\0name=x\0", []),
        (b"no such entry", []),
    ],
)
def test_what_a_module_depends_on(data, names):
    assert depends(data) == names


def test_drivers_for_other_hardware_go(modules, left, tmp_path):
    modules("drivers/net/virtio_net.ko")
    modules("sound/core/snd.ko")
    modules("drivers/gpu/drm/i915/i915.ko")
    assert prune_modules(tmp_path) > 0
    assert left() == {"virtio_net.ko"}


def test_what_a_kept_driver_depends_on_stays_through_any_number_of_steps(modules, left, tmp_path):
    modules("drivers/gpu/drm/tiny/bochs.ko", "cec-core")
    modules("drivers/media/cec/core/cec-core.ko", "rc_core")
    modules("drivers/media/rc/rc-core.ko")
    modules("drivers/media/usb/uvc.ko", "rc_core")
    prune_modules(tmp_path)
    assert left() == {"bochs.ko", "cec-core.ko", "rc-core.ko"}


def test_dependencies_in_a_circle_end(modules, left, tmp_path):
    modules("fs/a.ko", "one")
    modules("sound/one.ko", "two")
    modules("sound/two.ko", "one")
    prune_modules(tmp_path)
    assert left() == {"a.ko", "one.ko", "two.ko"}


def test_compressed_modules_are_left_alone(modules, left, tmp_path):
    modules("sound/core/snd.ko.xz")
    assert prune_modules(tmp_path) == 0
    assert left() == {"snd.ko.xz"}


def test_a_tree_without_a_kernel(tmp_path):
    assert prune_modules(tmp_path) == 0


@pytest.mark.parametrize(
    "wanted",
    [
        "fs",
        "net/9p",
        "drivers/acpi",
        "drivers/ata",
        "drivers/block",
        "drivers/char",
        "drivers/gpu/drm/qxl",
        "drivers/gpu/drm/tiny",
        "drivers/gpu/drm/virtio",
        "drivers/i2c",
        "drivers/net/ethernet/amd",
        "drivers/net/ethernet/intel",
        "drivers/net/ethernet/realtek",
        "drivers/nvme",
        "drivers/scsi",
        "drivers/tty",
        "drivers/usb",
        "drivers/virt",
        "drivers/virtio",
        "drivers/watchdog",
    ],
)
def test_nothing_that_qemu_offers_is_called_unused(wanted):
    assert not [gone for gone in UNUSED if f"{wanted}/".startswith(f"{gone}/")]


class TestUsualPlaces:
    def touch(self, tmp_path, name, mode=0o644):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
        path.chmod(mode)
        return path

    def test_a_kernel_for_root_alone_becomes_readable(self, tmp_path):
        image = self.touch(tmp_path, f"boot/vmlinuz-{RELEASE}", 0o600)
        give_usual_places(tmp_path)
        assert image.stat().st_mode & 0o777 == 0o644

    def test_modules_and_busybox_under_usr(self, tmp_path):
        self.touch(tmp_path, f"usr/lib/modules/{RELEASE}/modules.order")
        self.touch(tmp_path, "usr/bin/busybox", 0o755)
        give_usual_places(tmp_path)
        moved = tmp_path.rename(tmp_path.with_name("moved"))
        assert (moved / "lib/modules" / RELEASE / "modules.order").is_file()
        assert (moved / "bin/busybox").is_file()

    def test_a_kernel_beside_its_modules(self, tmp_path):
        self.touch(tmp_path, "lib/modules/6.11.4-301.fc41.x86_64/vmlinuz")
        self.touch(tmp_path, "sbin/busybox", 0o755)
        give_usual_places(tmp_path)
        assert (tmp_path / "boot/vmlinuz-6.11.4-301.fc41.x86_64").read_text().endswith("vmlinuz")
        assert (tmp_path / "bin/busybox").is_file()

    def test_documentation_goes(self, tmp_path):
        self.touch(tmp_path, "usr/share/doc/linux/README")
        give_usual_places(tmp_path)
        assert not (tmp_path / "usr/share").exists()
