"""Everything that one simulated QEMU has."""

from __future__ import annotations

from pytest_qemuvm.sim.block.graph import Graph
from pytest_qemuvm.sim.commands import Commands
from pytest_qemuvm.sim.cpus import Topology
from pytest_qemuvm.sim.devices import Devices
from pytest_qemuvm.sim.fdsets import FdSets
from pytest_qemuvm.sim.guest import Guest
from pytest_qemuvm.sim.hotplug import Hotplug
from pytest_qemuvm.sim.loop import Loop
from pytest_qemuvm.sim.runstate import RunState

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pytest_qemuvm.sim.archive import Archive
    from pytest_qemuvm.sim.block.jobs import Job
    from pytest_qemuvm.sim.chardev import Chardev
    from pytest_qemuvm.sim.drive import Drive
    from pytest_qemuvm.sim.faults import Faults
    from pytest_qemuvm.sim.memory import Module
    from pytest_qemuvm.sim.monitor import Monitor
    from pytest_qemuvm.sim.objects import Object


class Machine:
    """The machine, its backends and its monitors; each concern is in a module of its own."""

    def __init__(self, archive: Archive, faults: Faults) -> None:
        self.archive = archive
        self.faults = faults
        version = archive.get("version")["qemu"]
        self.version = (version["major"], version["minor"])
        self.name: str | None = None
        self.uuid = "00000000-0000-0000-0000-000000000000"
        self.type = "pc"
        self.qom_type = "pc-machine"
        self.settings: dict[str, str] = {}
        """What ``-machine`` said besides the type."""
        self.max_cpus = 1
        self.accelerator = "tcg"
        self.loop = Loop()
        self.commands = Commands(self)
        self.fdsets = FdSets()
        self.runstate = RunState(self)
        self.guest = Guest(self)
        self.hotplug = Hotplug(self)
        self.chardevs: dict[str, Chardev] = {}
        self.monitors: list[Monitor] = []
        self.objects: dict[str, Object] = {}
        self.netdevs: dict[str, dict[str, Any]] = {}
        self.gone_netdevs: list[tuple[str, dict[str, Any]]] = []
        """Backends that were removed while an interface had them."""
        self.graph = Graph(self)
        self.jobs: dict[str, Job] = {}
        self.drives: dict[str, Drive] = {}
        """Block backends of devices, by the devices' paths."""
        self.devices = Devices(self)
        self.cpu_model = "qemu64"
        self.topology = Topology()
        self.cpus: dict[str, int] = {}
        """Numbers of the processors that were plugged, by their paths."""
        self.memory = 128 << 20
        self.memory_most = self.memory
        self.memory_slots = 0
        self.modules: dict[str, Module] = {}
        """Memory that was plugged, by its devices' paths."""

    @property
    def has_numa(self) -> bool:
        """Whether there are NUMA nodes: memory that can be plugged makes one."""
        return self.memory_slots > 0 and self.type != "microvm"

    def greeting(self) -> Any:
        """Return what a client of a monitor is told first."""
        return self.archive.get("greeting")

    def emit(self, name: str, data: Any = None) -> None:
        """Send an event to all monitors."""
        for monitor in self.monitors:
            monitor.event(name, data)

    def was_reset(self) -> None:
        """Do what a reset does to devices."""
        self.hotplug.reset()

    def end(self) -> None:
        """Leave the main loop; jobs that are still at work are cancelled."""
        for job in list(self.jobs.values()):
            if job.status in {"running", "paused"}:
                job.act("cancel")
        self.loop.stop()

    def close(self) -> None:
        """Give everything back; what was said already reaches the clients."""
        for chardev in self.chardevs.values():
            chardev.close()
