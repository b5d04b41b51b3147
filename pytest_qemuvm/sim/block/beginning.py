"""How jobs begin: what they are given, what is refused, and what is not modelled."""

from __future__ import annotations

from pytest_qemuvm.sim.block.jobs import Job
from pytest_qemuvm.sim.block.locks import ALL
from pytest_qemuvm.sim.block.nodes import Edge
from pytest_qemuvm.sim.words import NotModelled, QmpRefusal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pytest_qemuvm.sim.block.nodes import Node
    from pytest_qemuvm.sim.machine import Machine


def begin(machine: Machine, kind: str, arguments: dict[str, Any]) -> None:
    """Make a job and start it. Raises QmpRefusal."""
    source, target = (_node(machine, arguments[key]) for key in ("device", "target"))
    if arguments["sync"] in {"incremental", "bitmap"} and "bitmap" not in arguments:
        raise QmpRefusal(f"must provide a valid bitmap name for '{arguments['sync']}' sync mode")
    if source is target:
        raise QmpRefusal("Source and target cannot be the same")
    if any(edge.role == "target" for edge in target.parents):
        for job in machine.jobs.values():
            job.held_for_a_moment()
        raise QmpRefusal(f"Node '{target.name}' is busy: block device is in use by block job: {kind}")
    if source.size != target.size:
        raise QmpRefusal("Source and target image have different sizes")
    _check_modelled(kind, arguments, source, target)
    name = _checked_name(machine, arguments)
    job = Job(machine, kind, arguments, source.size if arguments["sync"] != "none" else 0)
    job.edges = [Edge(source, "job", "a job", 0, ALL), Edge(target, "target", "a job", 0, ALL)]
    for edge in job.edges:
        edge.node.parents.append(edge)
    machine.jobs[name] = job
    job.start()


def _check_modelled(kind: str, arguments: dict[str, Any], source: Node, target: Node) -> None:
    if not target.driver.startswith("null-") or "bitmap" in arguments or "filter-node-name" in arguments:
        raise NotModelled("the copying of data between block nodes")
    if kind == "mirror" and arguments["sync"] != "none" and not source.driver.startswith("null-"):
        raise NotModelled("the mirroring of data that is there already")


def _checked_name(machine: Machine, arguments: dict[str, Any]) -> str:
    from pytest_qemuvm.sim.objects import well_formed

    name: str = arguments.get("job-id", "")
    if not well_formed(name):
        raise QmpRefusal(f"Invalid job ID '{name}'")
    if name in machine.jobs:
        raise QmpRefusal(f"Job ID '{name}' already in use")
    return name


def create(machine: Machine, arguments: dict[str, Any]) -> None:
    """Make the job that makes an image file. Raises QmpRefusal."""
    options = arguments["options"]
    if options["driver"].startswith("null-"):
        raise QmpRefusal("Driver does not support blockdev-create")
    if options["driver"] != "file" or options.keys() - {"driver", "filename", "size"}:
        raise NotModelled(f"the making of images by the driver {options['driver']!r}")
    name = _checked_name(machine, arguments)
    job = Job(machine, "create", {"job-id": name, "auto-dismiss": False}, 1)
    machine.jobs[name] = job
    job.create(options["filename"], options["size"])


def _node(machine: Machine, name: str) -> Node:
    node = machine.graph.find(name)
    if node is None:
        raise QmpRefusal(f"Cannot find device='{name}' nor node-name='{name}'")
    return node
