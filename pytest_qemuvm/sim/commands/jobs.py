"""Jobs on block nodes."""

from __future__ import annotations

from pytest_qemuvm.sim.block import beginning
from pytest_qemuvm.sim.words import QmpRefusal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pytest_qemuvm.sim.machine import Machine


def blockdev_backup(machine: Machine, arguments: dict[str, Any]) -> dict[str, Any]:
    """Copy a node as it is now."""
    beginning.begin(machine, "backup", arguments)
    return {}


def blockdev_mirror(machine: Machine, arguments: dict[str, Any]) -> dict[str, Any]:
    """Copy a node and what is written to it."""
    beginning.begin(machine, "mirror", arguments)
    return {}


def blockdev_create(machine: Machine, arguments: dict[str, Any]) -> dict[str, Any]:
    """Make an image."""
    beginning.create(machine, arguments)
    return {}


def query_jobs(machine: Machine, _arguments: dict[str, Any]) -> list[dict[str, Any]]:
    """Return all jobs."""
    return [job.described() for job in machine.jobs.values()]


def query_block_jobs(machine: Machine, _arguments: dict[str, Any]) -> list[dict[str, Any]]:
    """Return all jobs on block nodes, in the older form."""
    return [job.described_as_block_job() for job in machine.jobs.values() if job.kind != "create"]


def _by_id(verb: str) -> Callable[[Machine, dict[str, Any]], dict[str, Any]]:
    def act(machine: Machine, arguments: dict[str, Any]) -> dict[str, Any]:
        job = machine.jobs.get(arguments["id"])
        if job is None:
            raise QmpRefusal("Job not found")
        job.act(verb, force=True)
        return {}

    return act


def _by_device(verb: str) -> Callable[[Machine, dict[str, Any]], dict[str, Any]]:
    def act(machine: Machine, arguments: dict[str, Any]) -> dict[str, Any]:
        name = arguments["device"]
        job = machine.jobs.get(name)
        if job is None or job.kind == "create":
            raise QmpRefusal(f"Block job '{name}' not found", "DeviceNotActive")
        job.act(verb, speed=arguments.get("speed", 0), force=arguments.get("force", False))
        return {}

    return act


job_cancel, job_complete, job_dismiss = _by_id("cancel"), _by_id("complete"), _by_id("dismiss")
job_finalize, job_pause, job_resume = _by_id("finalize"), _by_id("pause"), _by_id("resume")
block_job_cancel, block_job_complete = _by_device("cancel"), _by_device("complete")
block_job_pause, block_job_resume = _by_device("pause"), _by_device("resume")
block_job_set_speed = _by_device("set-speed")
