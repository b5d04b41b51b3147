"""Hot-plug with a real guest: each device is looked at from the inside, and gone from there afterwards."""

import threading

import pytest

from pytest_qemuvm import (
    CdromSpec,
    CpuSpec,
    DiskSpec,
    DriverSpec,
    MemorySpec,
    NicSpec,
    RngSpec,
    SerialSpec,
    UsbSpec,
)
from pytest_qemuvm.errors import DiskStateError, SpecError, UnplugTimeout, VMStateError


@pytest.fixture(scope="module")
def tiny(module_vm_factory):
    return module_vm_factory("tiny", template="tiny")


def cpus(vm):
    return int(vm.run("grep -c ^processor /proc/cpuinfo").stdout)


def memory(vm):
    return int(vm.run("awk '/MemTotal/ {print $2}' /proc/meminfo").stdout) * 1024


@pytest.mark.parametrize("bus", ["virtio", "scsi", "nvme", "usb"])
def test_a_disk_holds_what_is_written_and_is_gone_when_unplugged(tiny, bus):
    link = f"/dev/disk/by-id/*data-{bus}"
    with tiny.hotplug(DiskSpec("64M", bus=bus, serial=f"data-{bus}")):
        assert tiny.run(f"lsblk -dno SIZE {link}").stdout.strip() == "64M"
        tiny.run(f"echo kept | dd of=$(ls {link}) conv=notrunc && sync && echo 3 >/proc/sys/vm/drop_caches")
        assert tiny.run(f"head -n 1 $(ls {link})").stdout == "kept\n"
    assert not tiny.run(f"ls {link}", check=False).ok


@pytest.mark.parametrize("model", ["virtio", "e1000e"])
def test_a_nic_has_its_address_and_gets_one_from_the_network(tiny, model):
    with tiny.hotplug(NicSpec(model=model, mac="52:54:00:12:34:56")):
        tiny.wait_until_succeeds("ip address | grep -A2 52:54:00:12:34:56 | grep 10.0.2.15")
    assert not tiny.run("grep -i 52:54:00:12:34:56 /sys/class/net/*/address", check=False).ok


def test_a_keyboard(tiny):
    before = tiny.run("ls /sys/bus/usb/devices").stdout
    with tiny.hotplug(UsbSpec("kbd")):
        assert "Keyboard" in tiny.run("cat /sys/bus/usb/devices/*/product").stdout
    assert tiny.run("ls /sys/bus/usb/devices").stdout == before


def test_a_serial_port_carries_bytes_both_ways(tiny):
    import socket

    with tiny.hotplug(SerialSpec("metrics")) as device, socket.socket(socket.AF_UNIX) as ours:
        ours.settimeout(30)
        ours.connect(str(device.path))
        tiny.run('(read -r line; echo "got $line") <>/dev/virtio-ports/metrics >&0 2>/dev/null &')
        ours.sendall(b"hello\n")
        assert ours.makefile().readline() == "got hello\n"
    assert not tiny.run("test -e /dev/virtio-ports/metrics", check=False).ok


def test_a_random_number_generator(tiny):
    before = tiny.run("cat /sys/class/misc/hw_random/rng_available").stdout.split()
    with tiny.hotplug(RngSpec()):
        now = tiny.run("cat /sys/class/misc/hw_random/rng_available").stdout.split()
        assert len(now) == len(before) + 1
    assert tiny.run("cat /sys/class/misc/hw_random/rng_available").stdout.split() == before


def test_memory_is_used_at_once_and_given_back(tiny):
    before = memory(tiny)
    with tiny.hotplug(MemorySpec("256M")):
        assert memory(tiny) == before + 256 * 1024**2
    assert memory(tiny) == before


def test_resizable_memory_grows_and_shrinks(vm_factory):
    vm = vm_factory(template="tiny")
    before = memory(vm)
    with vm.hotplug(MemorySpec("512M", kind="virtio-mem")) as device:
        assert memory(vm) == before + 512 * 1024**2
        device.resize("128M")
        assert memory(vm) == before + 128 * 1024**2
        device.resize("256M")
        assert memory(vm) == before + 256 * 1024**2
    assert memory(vm) == before


def test_the_balloon_takes_memory_and_gives_it_back(vm_factory):
    vm = vm_factory(template="tiny", balloon=True)
    before = memory(vm)
    vm.balloon("192M")
    assert memory(vm) < before - 48 * 1024**2
    vm.balloon("256M")
    assert memory(vm) >= before - 4 * 1024**2
    with pytest.raises(SpecError):
        vm.balloon("1G")


def test_without_a_balloon_there_is_nothing_to_inflate(tiny):
    with pytest.raises(VMStateError):
        tiny.balloon("128M")


def test_a_medium_is_read_changed_and_held_while_it_is_mounted(tiny, tmp_path):
    media = []
    for name in ("one", "two"):
        media.append(tmp_path / f"{name}.iso")
        media[-1].write_bytes(name.encode().ljust(64 * 1024, b"."))
    with tiny.hotplug(CdromSpec(media[0])) as drive:
        device = "/dev/sr0"
        assert tiny.run(f"head -c 3 {device}").stdout == "one"
        drive.change_medium(media[1])
        tiny.wait_until_succeeds(f"test $(head -c 3 {device}) = two")
        drive.eject()
        assert not tiny.run(f"head -c 3 {device}", check=False).ok


def test_a_mounted_medium_is_held_by_the_guest(tiny, tmp_path):
    medium = tmp_path / "ext2.img"
    medium.write_bytes(bytes(1024 * 1024))
    with tiny.hotplug(DiskSpec(path=medium, format="raw", serial="made")) as disk:
        tiny.run("mke2fs -b 2048 /dev/disk/by-id/virtio-made && sync")
        tiny.run("dd if=/dev/disk/by-id/virtio-made of=/tmp/medium bs=64k")
        assert disk.present
    tiny.pull("/tmp/medium", medium)
    with tiny.hotplug(CdromSpec(medium)) as drive:
        tiny.run("mount -t ext2 -o ro /dev/sr0 /mnt")
        with pytest.raises(DiskStateError):
            drive.eject()
        tiny.run("umount /mnt")
        tiny.wait_until_succeeds("! grep /mnt /proc/mounts")
        drive.eject(force=True)


def test_a_disk_grows_while_it_is_attached(tiny, disk_factory):
    disk = disk_factory("16M", serial="grows")
    tiny.attach(disk)
    disk.resize("64M")
    assert tiny.run("lsblk -dno SIZE /dev/disk/by-id/*grows").stdout.strip() == "64M"
    tiny.detach(disk)
    disk.resize("1G")
    tiny.attach(disk, bus="scsi")
    assert tiny.run("lsblk -dno SIZE /dev/disk/by-id/*grows").stdout.strip() == "1G"
    with pytest.raises(SpecError):
        disk.resize("16M")


def test_a_processor_works_at_once_and_goes_again(vm_factory):
    # A machine of its own: QEMU 7.2 may corrupt its memory when a processor goes under TCG.
    vm = vm_factory(template="tiny")
    assert cpus(vm) == 1
    with vm.hotplug(CpuSpec()), vm.hotplug(CpuSpec()):
        assert cpus(vm) == 3
        assert vm.run("taskset 4 echo on the third").stdout == "on the third\n"
    assert cpus(vm) == 1


@pytest.mark.parametrize(
    ("spec", "sign"),
    [
        (DriverSpec("edu"), "grep -l 0x11e8 /sys/bus/pci/devices/*/device"),
        (DriverSpec("virtio-balloon-pci"), "ls -d /sys/bus/virtio/drivers/virtio_balloon/virtio*"),
        (DriverSpec("usb-tablet", bus="usb"), "grep -l Tablet /sys/bus/usb/devices/*/product"),
        (
            DriverSpec("scsi-cd", {"product": "GUESSED"}, bus="scsi"),
            "grep -l GUESSED /sys/block/sr*/device/model",
        ),
        (
            DriverSpec("virtserialport", {"name": "own"}, bus="virtio-serial"),
            "grep -lx own /sys/class/virtio-ports/*/name",
        ),
    ],
    ids=repr,
)
def test_any_device_that_qemu_has_is_found_by_the_guest_and_gone_again(tiny, spec, sign):
    before = tiny.run(sign, check=False).stdout.split()
    with tiny.hotplug(spec):
        if spec.driver == "virtio-balloon-pci":  # a driver of the guest's takes it when it has found it
            tiny.wait_until_succeeds(sign)
        assert len(tiny.run(sign).stdout.split()) == len(before) + 1
    assert tiny.run(sign, check=False).stdout.split() == before


def test_a_guest_sees_what_properties_change(tiny):
    blocks = {"logical_block_size": 4096, "physical_block_size": 4096}
    with tiny.hotplug(DiskSpec("64M", serial="big", properties=blocks)):
        device = "$(basename $(readlink -f /dev/disk/by-id/virtio-big))"
        assert tiny.run(f"cat /sys/block/{device}/queue/logical_block_size").stdout == "4096\n"
    with tiny.hotplug(NicSpec(mac="52:54:00:00:00:77", properties={"host_mtu": 1400})):
        interface = "$(dirname $(grep -l 52:54:00:00:00:77 /sys/class/net/*/address))"
        assert tiny.run(f"cat {interface}/mtu").stdout == "1400\n"


def test_a_guest_starts_with_devices_by_their_drivers_names(vm_factory):
    vm = vm_factory(template="tiny", devices=[DriverSpec("edu"), DriverSpec("usb-mouse", bus="usb")])
    signs = ("grep -l 0x11e8 /sys/bus/pci/devices/*/device", "grep -l Mouse /sys/bus/usb/devices/*/product")
    for device, sign in zip(vm.devices, signs, strict=True):
        vm.wait_until_succeeds(sign)
        device.unplug()
        assert not vm.run(sign, check=False).ok


def test_soon_after_a_plug_is_not_too_soon_for_an_unplug(tiny):
    for _ in range(5):
        tiny.hotplug(DiskSpec("1M")).unplug()


def test_several_threads_plug_at_once(tiny):
    devices, threads = [], []
    for number in range(3):
        spec = DiskSpec("1M", bus="scsi", serial=f"thread{number}")
        threads.append(threading.Thread(target=lambda spec=spec: devices.append(tiny.hotplug(spec))))
        threads[-1].start()
    for thread in threads:
        thread.join()
    assert len({device.id for device in devices}) == 3
    for number in range(3):
        assert tiny.run(f"ls /dev/disk/by-id/*thread{number}").ok
    for device in devices:
        device.unplug()
    assert tiny.devices == ()


def test_a_guest_that_does_not_answer_keeps_its_device(tiny):
    device = tiny.hotplug(RngSpec())
    tiny.pause()
    with pytest.raises(UnplugTimeout) as caught:
        device.unplug(timeout=0.5)
    assert caught.value.device == device.id
    assert tiny.devices == (device,)
    tiny.resume()
    device.unplug()
    assert tiny.devices == ()
