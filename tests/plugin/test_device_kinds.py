"""A kind of device that a stranger brings through the hook."""


def test_a_new_kind_of_device_comes_from_a_conftest(pytester, run):
    pytester.makeconftest(
        """
from dataclasses import dataclass

from pytest_qemuvm.devices.kind import DeviceKind
from pytest_qemuvm.devices.steps import AddDevice, Fragment
from pytest_qemuvm.spec.devices import DeviceSpec


@dataclass(frozen=True, slots=True)
class TabletSpec(DeviceSpec):
    pass


def fragment(spec, supplies):
    name = supplies.place.id
    return Fragment(name, "tablet", (AddDevice("virtio-tablet-pci", name, supplies.place.on_bus()),))


def pytest_qemuvm_device_kinds():
    return [DeviceKind("tablet", TabletSpec, lambda spec: "slot", fragment)]
"""
    )
    pytester.makepyfile(
        """
import pytest
from conftest import TabletSpec
from pytest_qemuvm import RngSpec

@pytest.mark.qemuvm(template="bare")
def test_it(vm):
    with vm.hotplug(TabletSpec()) as tablet, vm.hotplug(RngSpec()):
        path = f"/machine/peripheral/{tablet.id}"
        assert vm.qmp.execute("qom-get", {"path": path, "property": "type"}) == "virtio-tablet-pci"
    assert vm.devices == ()
"""
    )
    run("--qemu-real").assert_outcomes(passed=1)
