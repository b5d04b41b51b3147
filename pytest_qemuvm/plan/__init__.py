"""From a spec to everything that a launch needs, decided before anything is done. No effects."""

from pytest_qemuvm.plan.machine import plan_machine
from pytest_qemuvm.plan.model import (
    MONITOR,
    RAM,
    CachePlan,
    ImagePlan,
    MachinePlan,
    PlannedDevice,
    PlannedNic,
    Plugged,
    Surroundings,
)

__all__ = [
    "MONITOR",
    "RAM",
    "CachePlan",
    "ImagePlan",
    "MachinePlan",
    "PlannedDevice",
    "PlannedNic",
    "Plugged",
    "Surroundings",
    "plan_machine",
]
