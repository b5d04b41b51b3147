"""Which machines can start as clones of a live template, and what has to be the same for two to share one."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from pytest_qemuvm.plan.machine import plan_machine
from pytest_qemuvm.spec.network import Link

if TYPE_CHECKING:
    from pytest_qemuvm.plan.model import MachinePlan, Surroundings
    from pytest_qemuvm.spec.devices import NicSpec
    from pytest_qemuvm.spec.vm import VMSpec


SAVED = "saved"
"""The name of whatever has none of its own in a machine that is saved."""


def why_cold(spec: VMSpec, plan: MachinePlan) -> str | None:
    """Return why a machine has to boot, as a reader of a report understands it; None if it can be a clone.

    What only QEMU can know, whether it can save some device, shows when it is asked to.
    """
    reasons = (
        (plan.boot == "none", "without a guest there is nothing to save a boot of"),
        (plan.boot == "disk", "nobody says when a guest on a disk of yours is up"),
        (plan.boot == "network", "what it boots is its network's to say, each time anew"),
        (any(disk.bus == "nvme" for disk in spec.disks), "QEMU cannot save NVMe disks"),
        (any(disk.handle for disk in spec.disks), "a disk of disk_factory has a life of its own"),
        (any(nic.model == "e1000e" for nic in spec.nics), "an e1000e cannot have another address once saved"),
        (
            any(disk.volatile_cache for disk in spec.disks),
            "what is in a volatile cache cannot be saved",
        ),
        (spec.balloon, "a balloon takes memory away that a clone shares with its template"),
        (bool(spec.args), "args= may hold anything"),
    )
    return next((reason for holds, reason in reasons if holds), None)


def nics_saved(spec: VMSpec) -> tuple[NicSpec, ...]:
    """Return the NICs of the machine that is saved: each clone's has a network and addresses of its own."""
    return tuple(replace(nic, mac=None, ip=None, network=None, forward=()) for nic in spec.nics)


def links_saved(world: Surroundings) -> dict[str, Link]:
    """Return how these are connected: to nobody, but for user-mode networking, which QEMU saves too."""
    return {
        name: replace(link, network=SAVED, served=False, commands=())
        if link.backend == "user"
        else Link(SAVED, "hub")
        for name, link in world.links.items()
    }


def shape_of(spec: VMSpec, world: Surroundings) -> list[Any]:
    """Return all of a machine that its saved state depends on: its command line, and what its disks are.

    Names, directories, addresses, networks and forwarded ports are each clone's own.
    """
    canonical = replace(
        world,
        name=SAVED,
        tag=SAVED,
        run_dir="/saved",
        monitor="/saved/monitor",
        memory="clone",
        links=links_saved(world),
    )
    plan = plan_machine(spec.with_keywords({"nics": nics_saved(spec)}, "saved"), canonical)
    return [plan.argv, [asdict(image) for image in plan.images]]
