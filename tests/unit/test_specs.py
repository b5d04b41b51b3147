import copy
import pickle
from dataclasses import replace
from pathlib import Path

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
    VMSpec,
)
from pytest_qemuvm.devices.kind import Supplies
from pytest_qemuvm.devices.place import Image, Place
from pytest_qemuvm.devices.registry import BUILT_IN, kind_of
from pytest_qemuvm.devices.steps import AddDevice
from pytest_qemuvm.errors import SpecError


def test_a_spec_normalises_what_it_is_given():
    spec = VMSpec(memory="1G", disks=[DiskSpec("64M")], nics=NicSpec(), needs="guest", args=["-snapshot"])
    assert spec.bytes == 1024**3
    assert spec.disks == (DiskSpec(64 * 1024**2),)
    assert spec.nics == (NicSpec(),)
    assert spec.needs == ("guest",)
    assert spec.args == ("-snapshot",)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("memory", "512X"),
        ("memory", 1000),
        ("cpus", 0),
        ("cpus", True),
        ("cpus", "2"),
        ("template", "no name"),
        ("disks", "64M"),
        ("disks", [NicSpec()]),
        ("nics", 3),
        ("needs", "guets"),
        ("balloon", "yes"),
        ("display", 1),
        ("hotplug_slots", -1),
        ("kernel", "/nonexistent/vmlinuz"),
        ("args", "-snapshot"),
        ("args", [1]),
        ("boot_timeout", 0),
        ("boot_timeout", "10"),
        ("boot_timeout", float("nan")),
        ("append", 5),
        ("append", "a\0b"),
        ("machine", 5),
        ("kernel", 5),
        ("args", ["a\0b"]),
        ("args", ["\ud800"]),
        ("serials", [SerialSpec("a"), SerialSpec("a")]),
        ("devices", "edu"),
        ("devices", [RngSpec()]),
    ],
)
def test_a_wrong_value_is_named_before_anything_is_touched(key, value):
    with pytest.raises(SpecError) as caught:
        VMSpec(**{key: value})
    assert key in str(caught.value)


def test_a_misspelt_key_names_the_nearest():
    with pytest.raises(SpecError) as caught:
        VMSpec().with_keywords({"memroy": "1G"}, "the marker")
    assert "memory" in caught.value.hint
    assert "the marker" in caught.value.brief


def test_keywords_change_only_what_they_name():
    spec = VMSpec(template="bare", cpus=2)
    changed = spec.with_keywords({"memory": "1G"}, "here")
    assert (changed.template, changed.cpus, changed.bytes) == ("bare", 2, 1024**3)
    assert spec.with_keywords({}, "here") is spec


@pytest.mark.parametrize(
    "keywords",
    [
        {"size": "0M"},
        {"size": 100},
        {"size": "64M", "bus": "sata"},
        {"size": "64M", "format": "vmdk"},
        {"size": "64M", "serial": "has space"},
        {"size": "64M", "serial": "x" * 21},
        {},
        {"path": "/nonexistent.img"},
        {"path": "/etc/hostname", "size": "64M"},
        {"path": 5},
        {"path": "a\0b"},
        {"size": "64M", "serial": 5},
        {"size": "64M", "read_only": "no"},
        {"size": "2049T"},
        {"size": 2**70},
    ],
)
def test_a_disk_that_cannot_be(keywords):
    with pytest.raises(SpecError):
        DiskSpec(**keywords)


@pytest.mark.parametrize(
    "keywords",
    [
        {"model": "rtl8139"},
        {"mac": "52:54:00:12:34"},
        {"mac": "53:54:00:12:34:56"},
        {"forward": (0,)},
        {"forward": (22, 22)},
        {"forward": ("22",)},
        {"mac": 5},
        {"outward": "yes"},
    ],
)
def test_a_nic_that_cannot_be(keywords):
    with pytest.raises(SpecError):
        NicSpec(**keywords)


def test_one_forwarded_port_needs_no_tuple():
    assert NicSpec(forward=22).forward == (22,)


def test_other_devices_check_their_words():
    with pytest.raises(SpecError):
        UsbSpec("printer")
    with pytest.raises(SpecError):
        SerialSpec("no name")
    with pytest.raises(SpecError):
        SerialSpec("org.qemuvm.agent.0")


def test_an_image_whose_name_is_not_utf8_is_refused(tmp_path):
    image = tmp_path / "\udcff.img"
    image.touch()
    with pytest.raises(SpecError, match="UTF-8"):
        DiskSpec(path=image)


def test_a_spec_knows_what_was_said_even_if_it_is_the_default():
    spec = VMSpec("bare", cpus=1)
    assert spec.as_keywords() == {"template": "bare", "cpus": 1}
    more = spec.with_keywords({"memory": "256M"}, "here")
    assert more.as_keywords() == {"template": "bare", "cpus": 1, "memory": 256 * 1024**2}
    assert VMSpec().as_keywords() == {}
    assert more.said == pickle.loads(pickle.dumps(more)).said == copy.deepcopy(more).said
    assert replace(more, cpus=2).as_keywords() == {"template": "bare", "cpus": 2}


def test_what_was_said_makes_no_difference_between_specs():
    assert VMSpec(cpus=1) == VMSpec()
    assert hash(VMSpec(cpus=1)) == hash(VMSpec())


def test_an_image_and_its_format_go_together():
    own = VMSpec(image="own.img", format="raw")
    assert own.image == Path("own.img").absolute()
    assert own.with_keywords({"image": None}, "here") == VMSpec()
    assert own.with_keywords({"cpus": 2}, "here").format == "raw"
    for keywords in ({"image": "other.qcow2"}, {"image": None, "format": "raw"}, {"format": "vmdk"}):
        with pytest.raises(SpecError):
            own.with_keywords(keywords, "here")
    for keywords in ({"image": "own.img"}, {"format": "raw"}, {"image": "a\0b", "format": "raw"}):
        with pytest.raises(SpecError):
            VMSpec(**keywords)


WITH_PROPERTIES = {
    "disk": (DiskSpec, {"size": "1M"}),
    "usb disk": (DiskSpec, {"size": "1M", "bus": "usb"}),
    "nic": (NicSpec, {}),
    "serial": (SerialSpec, {"name": "one"}),
    "rng": (RngSpec, {}),
    "usb": (UsbSpec, {}),
    "dimm": (MemorySpec, {"size": "128M"}),
    "virtio-mem": (MemorySpec, {"size": "128M", "kind": "virtio-mem"}),
    "cdrom": (CdromSpec, {"path": __file__}),
    "driver": (DriverSpec, {"driver": "edu"}),
}


def device_of(spec):
    """Return what QEMU is told of a spec's device."""
    place = Place("name0", "bus", address="0x5")
    supplies = Supplies(place, Image("/image", "raw"), "52:54:00:00:00:01", "/socket")
    if isinstance(spec, CdromSpec):
        supplies = Supplies(Place("cdrom0", "bus"))
    step = kind_of(spec, BUILT_IN).fragment(spec, supplies).steps[-1]
    assert isinstance(step, AddDevice)
    return step.plug().arguments


def test_every_kind_but_the_processor_hands_properties_on():
    assert {kind.spec for kind in BUILT_IN} - {spec for spec, _ in WITH_PROPERTIES.values()} == {CpuSpec}


@pytest.mark.parametrize("name", WITH_PROPERTIES)
def test_properties_reach_the_device_and_what_the_harness_sets_cannot_be_among_them(name):
    kind, keywords = WITH_PROPERTIES[name]
    own = device_of(kind(**keywords))
    given = {"some-thing": 5, "x-other": True, "word": "a b,c"}
    assert device_of(kind(**keywords, properties=given)) == {**own, **given}
    for key in own:
        with pytest.raises(SpecError) as caught:
            kind(**keywords, properties={key: 5})
        assert repr(key) in caught.value.brief
        assert kind.__name__ in caught.value.brief


def test_a_property_that_a_spec_has_a_field_for_says_so():
    with pytest.raises(SpecError) as caught:
        DiskSpec("1M", properties={"serial": "x"})
    assert "DiskSpec(serial=" in caught.value.hint


def test_specs_with_properties_are_values():
    given = {"a": 1, "b": True}
    spec, twin = DriverSpec("edu", given), DriverSpec("edu", {"b": True, "a": 1})
    assert spec == twin
    assert hash(spec) == hash(twin)
    given["a"] = 2
    assert spec == twin
    assert spec != DriverSpec("edu", given)
    with pytest.raises(TypeError):
        spec.properties["a"] = 2
    assert pickle.loads(pickle.dumps(spec)) == copy.deepcopy(spec) == spec


@pytest.mark.parametrize(
    "properties",
    [
        5,
        ["a"],
        {5: 1},
        {"": 1},
        {"a=b": 1},
        {"a": None},
        {"a": 1.5},
        {"a": [1]},
        {"a": 1 << 64},
        {"a": -(1 << 63) - 1},
        {"a": "b\0"},
        {"a": "\ud800"},
        {"a": "b\udcff"},
    ],
    ids=repr,
)
def test_properties_that_cannot_be(properties):
    with pytest.raises(SpecError, match="properties of DriverSpec"):
        DriverSpec("edu", properties)


@pytest.mark.parametrize(
    ("keywords", "right"),
    [
        ({"driver": "edu", "bus": "pic"}, "'pci'"),
        ({"driver": "edu", "bus": "usb.0"}, "'usb'"),
        ({"driver": "edu", "bus": None}, "'none'"),
        ({"driver": "edu", "bus": 5}, "virtio-serial"),
        ({"driver": ""}, "help"),
        ({"driver": "edu,dma_mask=5"}, "help"),
        ({"driver": "edu dma"}, "help"),
        ({"driver": 5}, "help"),
    ],
)
def test_a_driver_that_cannot_be(keywords, right):
    with pytest.raises(SpecError) as caught:
        DriverSpec(**keywords)
    assert right in caught.value.hint


def test_a_driver_may_have_a_comma_in_its_name():
    assert DriverSpec("SUNW,tcx").driver == "SUNW,tcx"
