"""Which machines can start as clones of a live template, and what has to be the same for two to share one."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from pytest_qemuvm.plan.machine import plan_machine

if TYPE_CHECKING:
    from pytest_qemuvm.plan.model import MachinePlan, Surroundings
    from pytest_qemuvm.spec.vm import VMSpec


def why_cold(spec: VMSpec, plan: MachinePlan) -> str | None:
    """Return why a machine has to boot, as a reader of a report understands it; None if it can be a clone.

    What only QEMU can know, whether it can save some device, shows when it is asked to.
    """
    reasons = (
        (plan.boot == "none", "without a guest there is nothing to save a boot of"),
        (plan.boot == "disk", "nobody says when a guest on a disk of yours is up"),
        (any(disk.bus == "nvme" for disk in spec.disks), "QEMU cannot save NVMe disks"),
        (any(disk.handle for disk in spec.disks), "a disk of disk_factory has a life of its own"),
        (
            any(disk.volatile_cache for disk in spec.disks),
            "what is in a volatile cache cannot be saved",
        ),
        (spec.balloon, "a balloon takes memory away that a clone shares with its template"),
        (bool(spec.args), "args= may hold anything"),
    )
    return next((reason for holds, reason in reasons if holds), None)


def shape_of(spec: VMSpec, world: Surroundings) -> list[Any]:
    """Return all of a machine that its saved state depends on: its command line, and what its disks are.

    Names, directories, addresses and forwarded ports are each clone's own.
    """
    nics = tuple(replace(nic, mac=None, forward=()) for nic in spec.nics)
    canonical = replace(
        world, name="saved", tag="saved", run_dir="/saved", monitor="/saved/monitor", memory="clone"
    )
    plan = plan_machine(spec.with_keywords({"nics": nics}, "saved"), canonical)
    return [plan.argv, [asdict(image) for image in plan.images]]
