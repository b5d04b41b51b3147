"""Jobs that copy nothing: backups and mirrors into nodes that keep nothing.

Their course, their events and the states between are QEMU's. One that would have to copy data is not
modelled: data is never faked. A job with a speed is done when that would have been enough time.
"""

from __future__ import annotations

import os

from pytest_qemuvm.sim.block.nodes import move_users
from pytest_qemuvm.sim.words import QmpRefusal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pytest_qemuvm.sim.block.nodes import Edge
    from pytest_qemuvm.sim.machine import Machine

CHUNK = 1 << 20
"""What a job has done before its speed first holds it back, in bytes."""
_ALLOWED = {
    "cancel": {"created", "running", "paused", "ready", "standby", "waiting", "pending"},
    "pause": {"created", "running", "paused", "ready", "standby"},
    "resume": {"created", "running", "paused", "ready", "standby"},
    "set-speed": {"created", "running", "paused", "ready", "standby"},
    "complete": {"ready"},
    "finalize": {"pending"},
    "dismiss": {"concluded"},
}


class Job:
    """One job. Its events go out before the reply to the command that made them."""

    def __init__(self, machine: Machine, kind: str, arguments: dict[str, Any], length: int) -> None:
        self._machine = machine
        self.id = arguments["job-id"]
        self.kind = kind
        self.status = ""
        self.length = length
        self.offset = 0
        self.speed = arguments.get("speed", 0)
        self.auto_finalize = arguments.get("auto-finalize", True)
        self.auto_dismiss = arguments.get("auto-dismiss", True)
        self.error = ""
        self.edges: list[Edge] = []

    def _become(self, status: str) -> None:
        self.status = status
        self._machine.emit("JOB_STATUS_CHANGE", {"status": status, "id": self.id})

    def _tell(self, event: str) -> None:
        data = {"device": self.id, "len": self.length, "offset": self.offset, "speed": self.speed}
        self._machine.emit(event, {**data, "type": self.kind})

    def start(self) -> None:
        """Begin, and go as far as the speed allows."""
        self._become("created")
        if self.speed < 0:
            self.error = "Parameter 'speed' expects a non-negative value"
            self._vanish()
            raise QmpRefusal(self.error)
        self._become("running")
        if self.kind == "mirror":
            self.offset = self.length
            self._become("ready")
            self._tell("BLOCK_JOB_READY")
            return
        # QEMU holds it while it changes the graph.
        self._become("paused")
        self._become("running")
        self.go_on()

    def go_on(self) -> None:
        """Copy: all at once, or a chunk and the rest when its time has come."""
        if self.speed == 0 or self.length <= CHUNK:
            self._done()
            return
        self.offset = CHUNK
        self._machine.loop.later((self.length - CHUNK) / self.speed * 1000, self._in_time)

    def _in_time(self) -> None:
        if self.status == "running" and self.offset < self.length:
            self._done()

    def _done(self) -> None:
        self.offset = self.length
        self._become("waiting")
        self._become("pending")
        if self.auto_finalize:
            self._conclude("BLOCK_JOB_COMPLETED")
        else:
            self._machine.emit("BLOCK_JOB_PENDING", {"type": self.kind, "id": self.id})

    def _conclude(self, event: str) -> None:
        self._release()
        self._tell(event)
        self._become("concluded")
        if self.auto_dismiss:
            self._vanish()

    def _release(self) -> None:
        for edge in self.edges:
            edge.node.parents.remove(edge)
        self.edges = []

    def held_for_a_moment(self) -> None:
        """Be held, twice, while QEMU looks whether another job could be."""
        if self.status == "running":
            for status in ("paused", "running") * 2:
                self._become(status)

    def _vanish(self) -> None:
        self._release()
        self._become("null")
        self._machine.jobs.pop(self.id, None)

    def create(self, path: str, size: int) -> None:
        """Make a file, which is all that this job does; its end comes after the reply."""
        self._become("created")
        self._become("running")
        self.offset = self.length
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
            os.ftruncate(fd, size)
            os.close(fd)
        except OSError as error:
            self.error = f"Could not create '{path}': {error.strerror}"
            self._become("aborting")
            self._become("concluded")
            return
        self._machine.loop.soon(self._created)

    def _created(self) -> None:
        for status in ("waiting", "pending", "concluded"):
            self._become(status)

    def act(self, verb: str, *, speed: int = 0, force: bool = False) -> None:
        """Do what a command wants. Raises QmpRefusal where the state does not allow it."""
        if self.status not in _ALLOWED[verb]:
            raise QmpRefusal(f"Job '{self.id}' in state '{self.status}' cannot accept command verb '{verb}'")
        match verb:
            case "cancel":
                self._cancel(force=force)
            case "pause":
                self._pause()
            case "resume":
                self._resume()
            case "set-speed":
                self.speed = speed
                if self.status == "running":
                    self.go_on()
            case "complete":
                self._machine.loop.soon(self._pivot)
            case "finalize":
                self._conclude("BLOCK_JOB_COMPLETED")
            case "dismiss":
                self._vanish()

    def _pivot(self) -> None:
        """End a mirror: whoever used the source uses the target from now on."""
        source, target = (edge.node for edge in self.edges)
        move_users(source, target)
        self._done()

    def _cancel(self, *, force: bool) -> None:
        if self.status == "ready":  # unless it must not, a mirror that is ready ends well, with what it has
            self._machine.loop.soon(self._abort if force else self._done)
            return
        self._abort()

    def _abort(self) -> None:
        self.error = "Operation canceled"
        self._become("aborting")
        self._conclude("BLOCK_JOB_CANCELLED")

    def _pause(self) -> None:
        if self.status in {"paused", "standby"}:
            raise QmpRefusal("Job is already paused")
        self._become("standby" if self.status == "ready" else "paused")

    def _resume(self) -> None:
        if self.status not in {"paused", "standby"}:
            raise QmpRefusal("Can't resume a job that was not paused")
        self._become("ready" if self.status == "standby" else "running")

    def described(self) -> dict[str, Any]:
        """Return it as ``query-jobs`` does."""
        found = {
            "id": self.id,
            "type": self.kind,
            "status": self.status,
            "current-progress": self.offset,
            "total-progress": self.length,
        }
        return {**found, "error": self.error} if self.error else found

    def described_as_block_job(self) -> dict[str, Any]:
        """Return it as ``query-block-jobs`` does."""
        found: dict[str, Any] = {
            "device": self.id,
            "type": self.kind,
            "status": self.status,
            "len": self.length,
            "offset": self.offset,
            "speed": self.speed,
            "busy": False,
            "paused": self.status in {"paused", "standby"},
            "ready": self.status in {"ready", "standby"},
            "io-status": "ok",
            "auto-finalize": self.auto_finalize,
            "auto-dismiss": self.auto_dismiss,
        }
        if self.kind == "mirror" and self._machine.version >= (10, 0):
            found["actively-synced"] = False
        return found
