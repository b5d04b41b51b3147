"""What cannot be plugged is refused with a type and a word on what would be right, and leaves nothing.

QEMU itself is asked what it has, before an image is made or a node added.
"""

import pytest
from qemu_graph import graph

from pytest_qemuvm import (
    CdromSpec,
    DiskSpec,
    DriverSpec,
    LaunchError,
    MemorySpec,
    NicSpec,
    RngSpec,
    SerialSpec,
    UsbSpec,
)
from pytest_qemuvm.errors import NoFreeSlot, SpecError, UnplugRejected


@pytest.fixture
def vm_spec():
    return {"template": "bare"}


@pytest.fixture
def vm(vm_factory):
    return vm_factory()


def refused(vm, spec):
    """Return the error by which a spec is refused, after seeing that nothing was left or even begun."""
    before, directory = graph(vm), vm.run_dir.stat().st_mtime_ns
    since = len(vm.transcript())
    with pytest.raises(SpecError) as caught:
        vm.hotplug(spec)
    begun = [line for line in vm.transcript()[since:] if line.startswith("-> ") and "_add" in line]
    assert begun == []
    assert vm.run_dir.stat().st_mtime_ns == directory
    assert graph(vm) == before
    assert vm.devices == ()
    return caught.value


@pytest.mark.parametrize(
    ("spec", "right"),
    [
        (DriverSpec("virtio-baloon-pci"), "'virtio-balloon-pci'"),
        (DriverSpec("usb-tabelt", bus="usb"), "'usb-tablet'"),
        (DriverSpec("pci-device"), ""),  # abstract
        (DriverSpec("rng-random", bus="none"), ""),  # no device
        (DriverSpec("no-such-thing-at-all-anywhere"), ""),
    ],
    ids=repr,
)
def test_a_device_that_qemu_does_not_have(vm, spec, right):
    error = refused(vm, spec)
    assert repr(spec.driver) in error.brief
    assert right in error.hint


@pytest.mark.parametrize(
    ("spec", "right"),
    [
        (DriverSpec("edu", {"dma_maks": 1}), "'dma_mask'"),
        (DiskSpec("1M", properties={"logical_blok_size": 4096}), "'logical_block_size'"),
        (DiskSpec("1M", bus="nvme", properties={"max_ioqpair": 2}), "'max_ioqpairs'"),
        (DiskSpec("1M", bus="scsi", properties={"rotation_rat": 1}), "'rotation_rate'"),
        (NicSpec(properties={"host_mut": 1400}), "'host_mtu'"),
        (NicSpec(model="e1000e", properties={"vectors": 4}), ""),
        (SerialSpec("one", properties={"nrr": 5}), "'nr'"),
        (RngSpec(properties={"max-byte": 5}), "'max-bytes'"),
        (UsbSpec(properties={"usb_versoin": 1}), "'usb_version'"),
        (CdromSpec(properties={"verr": 1}), "'ver'"),
        (MemorySpec("128M", properties={"nod": 0}), "'node'"),
    ],
    ids=repr,
)
def test_a_property_that_a_device_does_not_have(vm, spec, right):
    (key,) = spec.properties
    error = refused(vm, spec)
    assert repr(key) in error.brief
    assert right in error.hint


@pytest.mark.parametrize(
    ("properties", "wanted"),
    [
        ({"logical_block_size": "4096"}, "an int"),
        ({"logical_block_size": True}, "an int"),
        ({"logical_block_size": -1}, "from 0"),
        ({"num-queues": 1 << 16}, "to 65535"),
        ({"bootindex": 1 << 31}, "to 2147483647"),
        ({"share-rw": "on"}, "True or False"),
        ({"share-rw": 1}, "True or False"),
        ({"iothread": 5}, None),  # a link: not ours to judge
        ({"romfile": 5}, "a str"),
    ],
    ids=repr,
)
def test_a_value_of_the_wrong_type(vm, properties, wanted):
    spec = DiskSpec("1M", properties=properties)
    if wanted is not None:
        error = refused(vm, spec)
        assert wanted in error.brief
        assert next(iter(properties)) in error.brief
        return
    before = graph(vm)
    with pytest.raises(SpecError):
        vm.hotplug(spec)
    assert graph(vm) == before


def test_what_only_qemu_can_judge_is_taken_back(vm):
    before = graph(vm)
    for spec in (
        DiskSpec("1M", properties={"logical_block_size": 3000}),
        DriverSpec("virtio-blk-pci", {"drive": "no-such-node"}),
        DriverSpec("q35-pcihost", bus="none"),
    ):
        with pytest.raises(SpecError, match="refused"):
            vm.hotplug(spec)
        assert graph(vm) == before
    assert vm.devices == ()


@pytest.mark.parametrize(
    ("spec", "right"),
    [
        (DriverSpec("usb-tablet"), "bus='usb'"),
        (DriverSpec("edu", bus="usb"), "bus='pci'"),
        (DriverSpec("edu", bus="none"), "bus='pci'"),
        (DriverSpec("scsi-cd", bus="virtio-serial"), "bus='scsi'"),
        (DriverSpec("virtserialport", bus="scsi"), "bus='virtio-serial'"),
        (DriverSpec("pvpanic", bus="none"), "devices="),
    ],
    ids=repr,
)
def test_a_device_on_a_bus_that_it_does_not_sit_on(vm, spec, right):
    before = graph(vm)
    with pytest.raises(SpecError) as caught:
        vm.hotplug(spec)
    assert right in caught.value.hint
    assert graph(vm) == before
    for _ in range(4):  # all slots are free again
        vm.hotplug(RngSpec())


def test_another_name_of_a_device_does_as_well(vm):
    before = graph(vm)
    for name in ("virtio-balloon", "e1000-82540em"):
        with vm.hotplug(DriverSpec(name)):
            assert len(vm.devices) == 1
    refused(vm, DriverSpec("virtio-balloon", {"deflate-on-om": True}))
    assert graph(vm) == before


def test_qemu_is_asked_once_about_each_driver(vm_factory, qemuvm):
    qemuvm._services.catalogue.devices._properties.clear()
    one, two = vm_factory(), vm_factory()
    for vm in (one, one, two):
        vm.hotplug(DriverSpec("edu")).unplug()
    asked = [line["command"] for vm in (one, two) for line in qemuvm.audited(vm.name)]
    assert asked.count("device-list-properties") == 1


@pytest.mark.parametrize(
    ("command", "arguments", "spec"),
    [
        ("blockdev-add", {"driver": "null-co", "node-name": "disk0-file"}, DiskSpec("1M")),
        ("blockdev-add", {"driver": "null-co", "node-name": "disk0-fmt"}, DiskSpec("1M")),
        ("netdev_add", {"type": "user", "id": "nic0-net"}, NicSpec()),
        ("object-add", {"qom-type": "rng-builtin", "id": "rng1-src"}, RngSpec()),
        ("chardev-add", {"id": "serial0-chr", "backend": {"type": "null", "data": {}}}, SerialSpec("one")),
    ],
    ids=repr,
)
def test_a_name_that_the_test_took_is_left_to_it(vm, command, arguments, spec, coherence):
    vm.qmp.execute(command, arguments)
    before = graph(vm)
    with pytest.raises(SpecError):
        vm.hotplug(spec)
    assert graph(vm) == before
    vm.hotplug(spec).unplug()  # the next id is free
    assert graph(vm) == before
    assert coherence.clean(coherence.check()) == {}


@pytest.mark.qemuvm_expect("leaked_device")
def test_an_id_that_the_test_took_is_passed_over(vm):
    vm.qmp.execute("device_add", {"driver": "usb-kbd", "id": "driver0", "bus": "usb.0"})
    before = graph(vm)
    with vm.hotplug(DriverSpec("usb-tablet", bus="usb")) as device:
        assert device.id == "driver1"
    assert graph(vm) == before


def test_one_device_too_many_says_how_to_ask_for_more_and_leaves_nothing(vm_factory):
    vm = vm_factory(hotplug_slots=1)
    vm.hotplug(DriverSpec("edu"))
    before = graph(vm)
    for spec in (DriverSpec("edu"), DiskSpec("1M"), NicSpec()):
        with pytest.raises(NoFreeSlot) as caught:
            vm.hotplug(spec)
        assert "hotplug_slots=2" in caught.value.hint
        assert graph(vm) == before


def test_a_device_that_qemu_cannot_unplug_stays(vm_factory):
    vm = vm_factory(devices=[DriverSpec("isa-debug-exit", bus="none")])
    (device,) = vm.devices
    with pytest.raises(UnplugRejected) as caught:
        device.unplug()
    assert caught.value.device == device.id
    assert vm.devices == (device,)


@pytest.mark.parametrize(
    ("keywords", "right"),
    [
        ({"devices": [DriverSpec("virtio-baloon-pci")]}, "'virtio-balloon-pci'"),
        ({"devices": [DriverSpec("edu", {"dma_maks": 1})]}, "'dma_mask'"),
        ({"disks": [DiskSpec("1M", properties={"logical_blok_size": 4096})]}, "'logical_block_size'"),
        ({"nics": [NicSpec(properties={"host_mut": 1400})]}, "'host_mtu'"),
        ({"devices": [DriverSpec("usb-tablet")]}, "bus='usb'"),
        ({"devices": [DriverSpec("isa-debug-exit", bus="usb")]}, "bus='none'"),
        ({"args": ("-device", "virtio-baloon-pci")}, "'virtio-balloon-pci'"),
        ({"args": ("-device", "edu,dma_maks=1")}, "'dma_mask'"),
    ],
    ids=repr,
)
def test_a_launch_that_fails_by_a_wrong_name_says_the_right_one(vm_factory, keywords, right):
    with pytest.raises(LaunchError) as caught:
        vm_factory(**keywords)
    assert right in caught.value.hint
    assert caught.value.status == 1


def test_a_launch_that_fails_for_another_reason_has_no_name_in_its_hint(vm_factory):
    with pytest.raises(LaunchError) as caught:
        vm_factory(args=("-device", "edu,dma_mask=much"))
    assert "did you mean" not in caught.value.hint
    assert "shell" in caught.value.hint


@pytest.mark.parametrize("machine", ["q35", "pc"])
def test_devices_by_their_drivers_names_are_there_from_the_start_and_go(vm_factory, machine):
    devices = [
        DriverSpec("edu", {"dma_mask": 0xFFFF}),
        DriverSpec("usb-tablet", bus="usb"),
        DriverSpec("scsi-cd", bus="scsi"),
        DriverSpec("virtserialport", {"name": "own"}, bus="virtio-serial"),
    ]
    vm = vm_factory(machine=machine, devices=devices)
    assert [device.id for device in vm.devices] == [f"driver{number}" for number in range(4)]
    path = {"path": "/machine/peripheral/driver0", "property": "dma_mask"}
    assert vm.qmp.execute("qom-get", path) == 0xFFFF
    for device in vm.devices:
        device.unplug()
    assert vm.devices == ()
    assert not {name for name in graph(vm)["devices"] if name.startswith("driver")}
    vm.hotplug(DriverSpec("edu"))
