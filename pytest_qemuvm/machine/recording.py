"""What became of a VM's plan: what was launched, made and said, run by run; for ``--qemu-plan``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pytest_qemuvm.plan.stable import without_host
from pytest_qemuvm.qmp.arguments import shown_arguments

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pytest_qemuvm.plan import ImagePlan, MachinePlan
    from pytest_qemuvm.qmp import Qmp
    from pytest_qemuvm.qmp.session import Call

_GUESTS_OWN = frozenset(
    ("ACPI_DEVICE_OST", "BALLOON_CHANGE", "NIC_RX_FILTER_CHANGED", "RTC_CHANGE", "VSERPORT_CHANGE")
)
"""Events by which a guest goes about its business: how many come, and when, is nobody's plan."""


@dataclass(slots=True)
class Recording:
    """One VM's plan and what came of it."""

    owner: str
    """The test, module or session that the VM was made for."""
    plan: MachinePlan
    program: str
    """What the QEMU binary is called."""
    _runs: list[Qmp] = field(default_factory=list)

    def begin(self, monitor: Qmp) -> None:
        """Take note of a launch: from now on what is said to that monitor is kept."""
        monitor.keep_calls()
        self._runs.append(monitor)

    def as_dict(self, made: Iterable[ImagePlan]) -> dict[str, Any]:
        """Return all of it as plain data; ``made`` are images, of which those are shown that the VM names."""
        runs = [{"qmp": _said(monitor.kept_calls), "events": _heard(monitor)} for monitor in self._runs]
        images = list(self.plan.images)
        named = repr((self.plan.argv, runs))
        images += [image for image in made if image.path in named and image not in images]
        return {
            **self.plan.as_dict(),
            "argv": without_host(self.plan.argv, self.program),
            "fds": sorted((*self.plan.sockets, "monitor")),
            "files": [self.plan.firmware[0]] if self.plan.firmware else [],
            "images": [image.as_dict() for image in images],
            "image_commands": [image.command() for image in images],
            "runs": runs,
        }


def _said(calls: Iterable[Call]) -> list[dict[str, Any]]:
    """Return commands in their order: all of the test's, and of the harness's those that change something.

    What the harness only asks, and how often it does, depends on how fast things go. For the same reason what
    is said again and again, as until a guest notices, is shown once.
    """
    said: list[dict[str, Any]] = []
    for call in calls:
        if call.own and call.class_ == "safe":
            continue
        entry: dict[str, Any] = {"by": "harness" if call.own else "test", "execute": call.command}
        if call.arguments:
            entry["arguments"] = dict(shown_arguments(call.command, call.arguments))
        if (failed := _failure(call)) is not None:
            entry["error"] = failed
        if not said or said[-1] != entry:
            said.append(entry)
    return said


def _failure(call: Call) -> dict[str, Any] | None:
    """Return why a command did not succeed, in QEMU's words where it has any; None where it did."""
    if not call.future.done():
        return {"class": "NoReply"}
    if call.future.exception() is not None:
        # The connection ended. Whether QEMU came to answer ``quit`` before is nobody's plan.
        return None if call.command == "quit" else {"class": "Disconnected"}
    error = call.future.result().get("error")
    return {"class": error.get("class"), "desc": error.get("desc")} if isinstance(error, dict) else None


def _heard(monitor: Qmp) -> list[dict[str, Any]]:
    events = [event for event in monitor.events if event.name not in _GUESTS_OWN]
    return [{"event": event.name, **({"data": event.data} if event.data else {})} for event in events]
