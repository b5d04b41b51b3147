"""The built-in guest itself: what is there when it is ready, and how it ends."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest
from rawguest import Died

from pytest_qemuvm.errors import ChannelError, QemuVMError, WaitTimeout
from pytest_qemuvm.guest import waits
from pytest_qemuvm.host.deadline import Deadline

SECONDS = 120
"""More than a busy host needs."""

if TYPE_CHECKING:
    from pathlib import Path


def disk(folder: Path, number: int) -> list[str]:
    image = folder / f"disk{number}"
    with image.open("wb") as file:
        file.truncate(64 << 20)
    return ["-blockdev", f"driver=file,node-name=disk{number},filename={image}"]


def test_the_first_command_sees_what_was_plugged_at_launch(start, tmp_path):
    with start(
        *disk(tmp_path, 0), "-device", "virtio-blk-pci,drive=disk0,serial=first",
        *disk(tmp_path, 1), "-device", "nvme,drive=disk1,serial=second",
        "-device", "virtio-scsi-pci,id=scsi",
        *disk(tmp_path, 2), "-device", "scsi-hd,bus=scsi.0,drive=disk2,serial=third",
        "-netdev", "user,id=net0", "-device", "virtio-net-pci,netdev=net0",
        "-fw_cfg", "name=opt/qemuvm/hostname,string=alpha",
    ) as guest:  # fmt: skip
        for link, node in {
            "virtio-first": "vda",
            "nvme-QEMU_NVMe_Ctrl_second": "nvme0n1",
            "scsi-0QEMU_QEMU_HARDDISK_third": "sda",
        }.items():
            assert guest.out(f"readlink /dev/disk/by-id/{link}") == f"../../{node}"
        assert guest.out("hostname") == "alpha"
        assert guest.out("ls /sys/class/net") == "eth0\nlo"
        assert guest.out("lsblk -dno SIZE /dev/disk/by-id/*first") == "64M"
        assert (
            guest.out("lsblk -dno NAME,SIZE,SERIAL,TYPE,RO,MOUNTPOINT /dev/vda") == "vda  64M  first  disk 0"
        )
        guest.run("mke2fs -q /dev/vda && mount /dev/vda /mnt && echo kept >/mnt/file")
        assert guest.out("lsblk -no MOUNTPOINT /dev/vda") == "/mnt"
        assert guest.out("cat /mnt/file; umount /mnt") == "kept"
        waits.until_succeeds(
            guest.channel, "ip addr show eth0 | grep -q 'inet 10.0.2.15'", Deadline.after(SECONDS)
        )


@pytest.fixture(scope="module")
def settled(guest):
    waits.for_file(guest.channel, "/run/qemuvm/settled", Deadline.after(SECONDS))
    return guest


def plug_disk(guest, folder, driver, serial, **more):
    image = folder / serial
    with image.open("wb") as file:
        file.truncate(32 << 20)
    guest.monitor.execute(
        "blockdev-add", **{"driver": "file", "node-name": f"node-{serial}", "filename": str(image)}
    )
    guest.monitor.execute(
        "device_add", driver=driver, id=serial, drive=f"node-{serial}", serial=serial, **more
    )


def unplug(guest, serial):
    guest.monitor.execute("device_del", id=serial)
    guest.monitor.wait_event("DEVICE_DELETED", device=serial)
    guest.monitor.execute("blockdev-del", **{"node-name": f"node-{serial}"})


@pytest.mark.parametrize(
    ("driver", "prefix"), [("virtio-blk-pci", "virtio-"), ("nvme", "nvme-QEMU_NVMe_Ctrl_")]
)
def test_a_disk_plugged_later_gets_its_link_and_loses_it(settled, tmp_path, driver, prefix):
    serial = f"hot-{driver}"
    link = prefix + serial
    plug_disk(settled, tmp_path, driver, serial, bus="rp0")
    waits.for_file(settled.channel, f"/dev/disk/by-id/{link}", Deadline.after(SECONDS))
    assert settled.out(f"lsblk -dno SIZE /dev/disk/by-id/{link}") == "32M"
    unplug(settled, serial)
    waits.until_succeeds(settled.channel, f"! [ -L /dev/disk/by-id/{link} ]", Deadline.after(SECONDS))


def test_usb_and_scsi_disks_plugged_later_get_their_links(settled, tmp_path):
    settled.monitor.execute("device_add", driver="qemu-xhci", id="xhci", bus="rp1")
    settled.monitor.execute("device_add", driver="virtio-scsi-pci", id="scsi", bus="rp2")
    plug_disk(settled, tmp_path, "usb-storage", "stick", bus="xhci.0")
    plug_disk(settled, tmp_path, "scsi-hd", "lun", bus="scsi.0")
    for link in ("usb-QEMU_QEMU_HARDDISK_stick", "scsi-0QEMU_QEMU_HARDDISK_lun"):
        waits.for_file(settled.channel, f"/dev/disk/by-id/{link}", Deadline.after(SECONDS))
    unplug(settled, "stick")
    unplug(settled, "lun")
    waits.until_succeeds(settled.channel, '[ -z "$(ls /dev/disk/by-id)" ]', Deadline.after(SECONDS))


def test_a_network_card_plugged_later_comes_up(settled):
    settled.monitor.execute("netdev_add", type="user", id="net9")
    settled.monitor.execute("device_add", driver="e1000e", id="nic9", netdev="net9", bus="rp3")
    waits.until_succeeds(settled.channel, "ip addr | grep -q 'inet 10.0.2.15'", Deadline.after(SECONDS))


def test_memory_and_processors_plugged_later_are_used(settled):
    before = int(settled.out("grep MemTotal /proc/meminfo | tr -dc 0-9"))
    settled.monitor.execute("object-add", **{"qom-type": "memory-backend-ram", "id": "m1", "size": 128 << 20})
    settled.monitor.execute("device_add", driver="pc-dimm", id="dimm1", memdev="m1")
    waits.until_succeeds(
        settled.channel,
        f"[ $(grep MemTotal /proc/meminfo | tr -dc 0-9) -gt {before + 100_000} ]",
        Deadline.after(SECONDS),
    )
    for slot in settled.monitor.execute("query-hotpluggable-cpus"):
        if "qom-path" not in slot:
            settled.monitor.execute("device_add", driver=slot["type"], id="cpu1", **slot["props"])
    waits.until_succeeds(settled.channel, "[ $(nproc) = 2 ]", Deadline.after(SECONDS))


def test_a_serial_port_plugged_later_has_its_name(settled):
    settled.monitor.execute("chardev-add", id="c9", backend={"type": "null", "data": {}})
    settled.monitor.execute(
        "device_add", driver="virtserialport", id="p9", chardev="c9", name="my.port", nr=9
    )
    waits.for_file(settled.channel, "/dev/virtio-ports/my.port", Deadline.after(SECONDS))
    assert settled.out("ls /dev/virtio-ports") == (
        "my.port\norg.qemuvm.agent.0\norg.qemuvm.agent.1\norg.qemuvm.agent.2\norg.qemuvm.agent.3"
    )


def test_the_console_has_a_shell(settled):
    assert settled.console.wait_for("# ", 20)
    settled.console.send("echo $((6 * 7))-answer\n")
    assert settled.console.wait_for("42-answer", 20)


def test_a_reboot_is_noticed_and_waited_for(start):
    with start() as guest:
        before = guest.channel.boot_id
        guest.monitor.execute("system_reset")
        guest.channel.wait_restarted(before, Deadline.after(60))
        assert guest.channel.boot_id != before
        assert guest.out("echo again") == "again"


def test_a_restart_under_a_command_is_told_from_a_reply(start):
    with start() as guest:
        seen: list[QemuVMError] = []

        def work():
            try:
                guest.run("touch /tmp/begun; sleep 60", seconds=60)
            except QemuVMError as error:
                seen.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        waits.for_file(guest.channel, "/tmp/begun", Deadline.after(SECONDS))
        guest.monitor.execute("system_reset")
        thread.join()
        assert isinstance(seen[0], ChannelError)
        assert guest.out("echo again") == "again"
        assert guest.run("[ -e /tmp/begun ]").returncode == 1


def test_qemus_end_is_told_at_once(start):
    with start() as guest:
        threading.Timer(0.5, guest.process.kill).start()
        with pytest.raises(Died):
            guest.run("sleep 60", seconds=60)
        with pytest.raises(Died):
            guest.run("true")


@pytest.mark.parametrize("way", ["button", "command"])
def test_it_switches_itself_off(start, way):
    with start() as guest:
        if way == "button":
            waits.for_file(guest.channel, "/run/qemuvm/settled", Deadline.after(SECONDS))
            guest.monitor.execute("system_powerdown")
        else:
            with pytest.raises(QemuVMError):
                guest.run("poweroff; sleep 60", seconds=60)
        assert guest.ended(20)


def test_a_panic_shows_on_the_console(start):
    with start("-no-reboot") as guest:
        with pytest.raises(QemuVMError):
            guest.run("echo c >/proc/sysrq-trigger", seconds=20)
        assert guest.console.wait_for("Kernel panic - not syncing: sysrq triggered crash", 20)


def test_a_guest_that_does_not_come_up_is_a_time_out(start):
    with start(wait=False) as guest:
        guest.monitor.execute("stop")
        with pytest.raises(WaitTimeout):
            guest.channel.wait_ready(Deadline.after(0.3))
