"""Live templates: made once, kept whole, made anew when they have to be, and never otherwise."""

import json
import socket

import pytest

from pytest_qemuvm import DiskSpec, DriverSpec, NicSpec
from pytest_qemuvm.errors import GuestBootError, GuestCommandError, QemuVMWarning
from pytest_qemuvm.host.memory import copy_file


@pytest.fixture
def vm_spec():
    return {"template": "tiny", "memory": "128M"}


def made(own_store):
    """Return how many live templates were made."""
    return sum("took" in line for line in own_store.lines)


def test_a_setup_is_done_once_and_its_processes_run_on(own_store, template_factory, vm_factory):
    lasting = "(while :; do sleep 1000; done) </dev/null >/dev/null 2>&1 & echo $! >/root/pid"
    setup = f"echo done >>/root/log; {lasting}"
    template_factory("db", setup=setup)
    vms = [vm_factory(template="db", disks=[DiskSpec("16M")]) for _ in range(2)]
    assert made(own_store) == 1
    for vm in vms:
        assert vm.started_as == "clone"
        assert vm.run("cat /root/log").stdout == "done\n"
        vm.run("kill -0 $(cat /root/pid)")


def test_what_a_setup_wrote_to_a_disk_is_there_and_each_clone_goes_on_alone(
    own_store, template_factory, vm_factory
):
    template_factory("db", setup="mkfs.ext2 -q /dev/vda 2>/dev/null || echo made-by-setup >/dev/vda; sync")
    one, other = (vm_factory(template="db", disks=[DiskSpec("16M", serial="data")]) for _ in range(2))
    before = one.run("head -c 4096 /dev/vda | sha256sum").stdout
    one.run("echo changed >/dev/vda; sync")
    assert other.run("head -c 4096 /dev/vda | sha256sum").stdout == before
    save = own_store.store.all()[0]
    assert one.plan.images[0].backing == str(save.disk(0))
    assert not save.disk(0).stat().st_mode & 0o222


def test_connections_of_the_old_life_are_gone(own_store, template_factory, vm_factory):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        setup = [
            "until ip address show eth0 | grep -q 10.0.2.15; do usleep 9999; done",
            "mkfifo /run/line",
            f"(exec 4<>/run/line; nc 10.0.2.2 {port} <&4; echo $? >/run/end) >/dev/null 2>&1 &",
            f"until netstat -tn | grep -q ':{port}.*ESTAB'; do usleep 9999; done",
        ]
        template_factory("caller", setup=setup, setup_timeout=20)
        vm = vm_factory(template="caller", nics=[NicSpec(outward=True)])
        assert vm.started_as == "clone"
        assert not vm.run("test -e /run/end", check=False).ok
        vm.run("echo something >/run/line")
        vm.wait_for_file("/run/end")


def test_templates_rest_on_templates(own_store, template_factory, vm_factory):
    template_factory("below", setup="echo below >>/root/log")
    template_factory("above", base="below", setup=lambda vm: vm.run("echo above >>/root/log"))
    vm = vm_factory(template="above")
    assert (vm.started_as, vm.run("cat /root/log").stdout) == ("clone", "below\nabove\n")


def test_a_setup_that_fails_is_seen_in_the_vm_that_wanted_it(own_store, template_factory, vm_factory):
    template_factory("bad", setup="echo so it is >&2; exit 3")
    vm = vm_factory(template="bad", start=False)
    with pytest.raises(GuestCommandError, match="so it is"):
        vm.start()
    assert "could not be made" in vm.cold_because
    assert own_store.store.all() == []


def test_a_guest_that_does_not_come_up_is_seen_in_the_vm_that_wanted_it(own_store, vm_factory):
    vm = vm_factory("broken", start=False, append="init=/nowhere rdinit=/nowhere", boot_timeout=40)
    with pytest.raises(GuestBootError) as caught:
        vm.start()
    assert "broken" in caught.value.brief
    assert "panic" in vm.console.text


@pytest.mark.parametrize("what", ["ram", "manifest"])
def test_a_save_that_was_touched_is_made_anew(own_store, vm_factory, what):
    vm_factory()
    own_store.forget()
    directory = own_store.store.all()[0].directory
    if what == "manifest":
        (directory / "manifest.json").write_text("{")
    else:
        (directory / what).chmod(0o600)
        with (directory / what).open("r+b") as file:
            file.seek(4096)
            byte = file.read(1)
            file.seek(4096)
            file.write(bytes([byte[0] ^ 1]))
    if what == "ram":
        with pytest.warns(QemuVMWarning, match="made anew"):
            vm = vm_factory()
    else:
        vm = vm_factory()
    assert (vm.started_as, made(own_store)) == ("clone", 2)
    vm.run("true")


def test_a_template_that_cannot_be_restored_is_made_anew_once(own_store, vm_factory):
    vm_factory()
    own_store.forget()
    save = own_store.store.all()[0]
    # A state that is what its digest says, and that no QEMU can load.
    with (save.directory / "state").open("wb") as file:
        file.write(b"nonsense" * 100)
        file.flush()
        digest = digest_of(save.directory / "state")
    manifest = json.loads((save.directory / "manifest.json").read_text())
    manifest["digests"]["state"] = digest
    (save.directory / "manifest.json").write_text(json.dumps(manifest))
    with pytest.warns(QemuVMWarning, match="made anew"):
        vm = vm_factory()
    assert (vm.started_as, vm.run("echo well").stdout) == ("clone", "well\n")
    assert made(own_store) == 2


def digest_of(path):
    with path.open("rb") as file:
        return copy_file(file.fileno(), None)


def test_what_qemu_cannot_save_is_asked_once(own_store, vm_factory):
    spec = {"devices": [DriverSpec("nvme", properties={"serial": "x"})]}
    for _ in range(2):
        vm = vm_factory(**spec)
        assert vm.started_as == "cold"
        assert "nvme" in vm.cold_because.lower()
        own_store.forget()
    assert sum("making" in line for line in own_store.lines) == 1
    assert [save.manifest.refused is not None for save in own_store.store.all()] == [True]
