"""Random sequences against a model: after every step QEMU has exactly what the model says.

``QEMUVM_SEQUENCES=500 pytest tests/hotplug/test_sequences.py`` runs more of them.
"""

import itertools
import os

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytest_qemuvm import CpuSpec, DiskSpec, MemorySpec, NicSpec, RngSpec, UsbSpec, VMSpec
from pytest_qemuvm.errors import AlreadyAttached, NoFreeSlot, NotAttached, NotRunning

SPECS = [
    DiskSpec("1M"),
    DiskSpec("1M", bus="scsi", format="raw"),
    DiskSpec("1M", bus="nvme"),
    DiskSpec("1M", bus="usb"),
    NicSpec(),
    NicSpec(model="e1000e"),
    RngSpec(),
    UsbSpec("mouse"),
    MemorySpec("128M"),
    CpuSpec(),
]
SLOTS = 3
NEEDS_SLOT = {0, 2, 4, 5, 6}
KEPT = {8, 9}  # without a guest nobody lets memory and processors go

steps = st.one_of(
    st.tuples(st.just("plug"), st.integers(0, len(SPECS) - 1)),
    st.tuples(st.just("unplug"), st.integers(0, 7)),
    st.tuples(st.just("attach"), st.integers(0, 1)),
    st.tuples(st.just("detach"), st.integers(0, 1)),
    st.tuples(st.sampled_from(["stop", "start", "restart", "pause", "resume"]), st.just(0)),
)
numbers = itertools.count()


class Model:
    """What should be plugged, and the machine that has it."""

    def __init__(self, harness, vm, disks):
        self.harness, self.vm, self.disks = harness, vm, disks
        self.plugged = []
        self.attached = {}
        self.running, self.paused = True, False
        self.always = self.devices()

    def devices(self):
        return {entry["name"] for entry in self.vm.qmp.execute("qom-list", {"path": "/machine/peripheral"})}

    def slots_taken(self):
        return sum(number in NEEDS_SLOT for number, _ in self.plugged) + len(self.attached)

    def do(self, act, number):
        if act in ("plug", "unplug", "attach", "detach"):
            getattr(self, act)(number)
        elif (self.running and act in ("stop", "restart")) or (act == "restart"):
            getattr(self.vm, act)()
            self.plugged, self.attached, self.paused = [], {}, False
            self.running = act == "restart"
        elif act == "start" and not self.running:
            self.vm.start()
            self.running = True
        elif act == "pause" and self.running and not self.paused:
            self.vm.pause()
            self.paused = True
        elif act == "resume" and self.paused:
            self.vm.resume()
            self.paused = False

    def plug(self, number):
        try:
            device = self.vm.hotplug(SPECS[number])
        except NotRunning:
            assert not self.running
        except NoFreeSlot:
            cpus = sum(kind == 9 for kind, _ in self.plugged)
            assert self.slots_taken() == SLOTS if number in NEEDS_SLOT else cpus == 3
        else:
            self.plugged.append((number, device))

    def unplug(self, index):
        free = [(number, device) for number, device in self.plugged if number not in KEPT]
        if not free:
            return
        entry = free[index % len(free)]
        entry[1].unplug()
        self.plugged.remove(entry)

    def attach(self, index):
        try:
            device = self.vm.attach(self.disks[index])
        except NotRunning:
            assert not self.running
        except AlreadyAttached:
            assert index in self.attached
        except NoFreeSlot:
            assert self.slots_taken() == SLOTS
        else:
            self.attached[index] = device

    def detach(self, index):
        try:
            self.vm.detach(self.disks[index])
        except NotRunning:
            assert not self.running
        except NotAttached:
            assert index not in self.attached
        else:
            del self.attached[index]

    def agrees(self):
        assert self.vm.state == ("paused" if self.paused else "running" if self.running else "stopped")
        for index, disk in enumerate(self.disks):
            assert disk.state == ("attached" if index in self.attached else "available")
            assert disk.path.exists()
        if self.running:
            mine = {device.id for _, device in self.plugged} | {
                device.id for device in self.attached.values()
            }
            assert self.devices() - self.always == mine
            assert {device.id for device in self.vm.devices} == mine


@settings(
    max_examples=int(os.environ.get("QEMUVM_SEQUENCES", "15")),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.lists(steps, min_size=3, max_size=15))
def test_qemu_has_what_the_model_says(qemuvm, sequence):
    spec = VMSpec(template="bare", hotplug_slots=SLOTS)
    vm = qemuvm.create(None, spec, "sequences")
    disks = [qemuvm.create_disk(DiskSpec("1M"), f"seq{next(numbers)}", "sequences") for _ in range(2)]
    try:
        vm.start()
        model = Model(qemuvm, vm, disks)
        for act, number in sequence:
            model.do(act, number)
            model.agrees()
    finally:
        vm.delete()
        for disk in disks:
            disk.delete()
