"""Jobs: their lists, and what is said of one that is not there. No command that makes one is modelled."""

from __future__ import annotations

from pytest_qemuvm.sim.words import QmpRefusal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pytest_qemuvm.sim.machine import Machine


def query_jobs(_machine: Machine, _arguments: dict[str, Any]) -> list[dict[str, Any]]:
    """Return all jobs."""
    return []


query_block_jobs = query_jobs


def job_cancel(_machine: Machine, _arguments: dict[str, Any]) -> dict[str, Any]:
    """Say that there is no such job."""
    raise QmpRefusal("Job not found")


job_complete = job_dismiss = job_finalize = job_pause = job_resume = job_cancel


def block_job_cancel(_machine: Machine, arguments: dict[str, Any]) -> dict[str, Any]:
    """Say that there is no such job, in the older words."""
    raise QmpRefusal(f"Block job '{arguments['device']}' not found", "DeviceNotActive")


block_job_complete = block_job_pause = block_job_resume = block_job_set_speed = block_job_cancel
