"""The same test on several machines, chosen by marks and parameters."""

import pytest


@pytest.mark.qemuvm(memory="512M", cpus=2)
def test_a_marked_test_gets_what_it_asks_for(vm):
    assert vm.run("nproc").stdout == "2\n"
    kib = int(vm.run("awk '/MemTotal/ {print $2}' /proc/meminfo").stdout)
    assert 400 * 1024 < kib < 512 * 1024


@pytest.mark.parametrize("machine", ["q35", "pc"])
def test_one_test_on_two_chipsets(vm_factory, machine):
    vm = vm_factory(machine=machine)
    bridge = vm.run("cat /sys/bus/pci/devices/0000:00:00.0/device").stdout.strip()
    assert bridge == {"q35": "0x29c0", "pc": "0x1237"}[machine]


@pytest.mark.qemuvm(append="qemuvm.example=42")
def test_the_kernel_gets_more_words(vm):
    assert "qemuvm.example=42" in vm.run("cat /proc/cmdline").stdout.split()
