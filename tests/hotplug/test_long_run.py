"""Many plugs and unplugs of mixed kinds in one machine: graph, descriptors, memory are where they were.

One takes 65 ms, 50 of which QEMU waits for more work before it frees the device (``util/rcu.c``), so the full
thousand is asked for: ``QEMUVM_ROUNDS=1000 pytest -s tests/hotplug/test_long_run.py``.
"""

import os
import statistics
from pathlib import Path

from qemu_graph import graph

from pytest_qemuvm import DiskSpec, NicSpec, RngSpec, SerialSpec, UsbSpec

ROUNDS = int(os.environ.get("QEMUVM_ROUNDS", "80"))
KINDS = [
    DiskSpec("16M"),
    DiskSpec("16M", bus="scsi"),
    DiskSpec("16M", bus="nvme"),
    DiskSpec("16M", bus="usb", format="raw"),
    NicSpec(forward=22),
    NicSpec(model="e1000e"),
    UsbSpec(),
    SerialSpec("metrics"),
    RngSpec(),
]
WARM_UP = 16  # QEMU gives back in them what starting took
# QEMU's allocator keeps or gives back a megabyte as it likes. In a short run that hides anything smaller; one
# device leaked per round would be twice as much.
GROWTH = 1.02 if ROUNDS >= 1000 else 1.10
WINDOW = 8  # passes over all kinds; now and then QEMU's allocator gives back more, for a moment


def open_files(vm):
    return sorted(str(entry.readlink()).partition(":")[0] for entry in Path(f"/proc/{vm.pid}/fd").iterdir())


def usual_memory(vm, passes):
    """Return the usual memory of QEMU's own in KiB, seen after each of some passes over all kinds.

    Its anonymous pages: all other figures depend on how many QEMUs share its program at the moment.
    """
    seen = []
    for _ in range(passes):
        for spec in KINDS:
            vm.hotplug(spec).unplug()
        status = Path(f"/proc/{vm.pid}/status").read_text()
        seen.append(int(status.partition("RssAnon:")[2].split()[0]))
    return statistics.median(seen)


def test_a_machine_is_after_many_rounds_what_it_was_before(vm_factory):
    vm = vm_factory(template="bare")
    usual_memory(vm, WARM_UP)
    everything, files = graph(vm), open_files(vm)
    before = usual_memory(vm, WINDOW)
    usual_memory(vm, max(1, ROUNDS // len(KINDS) - 2 * WINDOW))
    after = usual_memory(vm, WINDOW)
    print(f"QEMU's own memory: {before} KiB before, {after} KiB after {ROUNDS} rounds")  # noqa: T201  # the figure
    assert graph(vm) == everything
    assert open_files(vm) == files
    assert after < before * GROWTH, f"{before} KiB became {after} KiB"
