"""What faults do to the life of a VM: each waits for its turn, and touches only the run it is meant for."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from pytest_qemuvm.machine.lifecycle import STOP_SECONDS, Lifecycle

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_qemuvm.machine.live import Live


class Enduring(Lifecycle):
    """A VM as ``vm.faults`` breaks and mends it; for the harness.

    What mends does nothing where the run it was meant for has ended: then there is nothing to mend.
    """

    def running(self) -> Live:
        """Return what exists while it runs. Raises NotRunning."""
        return self._running()

    def halt(self) -> None:
        """Stop its processors. Raises VMStateError unless they run."""
        with self._turn("pause"):
            self._switch("stop", "STOP", "running", "paused")

    def unhalt(self, live: Live) -> None:
        """Let its processors run on, where they stand still at somebody's word."""
        with self._turn("resume"):
            if self._is_at(live) and self.state == "paused":
                self._resume()

    def cut(self) -> Live:
        """End QEMU by SIGKILL; return what has ended."""
        with self._turn("kill"):
            live = self._running()
            self._end(live, "kill")
            return live

    def revive(self, live: Live | None = None) -> None:
        """Start it unless it runs; with ``live`` have it begin anew, if it still is at that."""
        with self._turn("restart"):
            if live is not None:
                if not self._is_at(live):
                    return
                self._end(live, "quit")
            elif self._live is not None and self._live.alive:
                return
            self._start()

    def reset_now(self) -> Live:
        """Reset it, and return when it has been; its guest boots then."""
        with self._turn("reset"):
            live = self._running()
            if live.plan.guest:
                live.check_running()
            self._press_reset(live)
            return live

    def expect_reboot(self, live: Live) -> None:
        """Note that the present boot of its guest is about to end."""
        self._expect_reboot(live)

    def come_up_again(self, live: Live) -> None:
        """Wait until a guest that was reset is up again."""
        if self._is_at(live) and not live.ready:
            with self._turn("reset"):
                if self._is_at(live):
                    self._come_up_again(live)

    def go_on_from(self, live: Live, states: tuple[str, ...]) -> None:
        """Let its processors run on, where QEMU has stopped them for such a reason of its own."""
        with self._turn("resume"):
            if self._is_at(live) and self.state in states:
                live.execute_until("cont", "RESUME")
                self._recorder.switched(live, "running")

    def _is_at(self, live: Live) -> bool:
        return self._live is live and live.alive

    @contextmanager
    def _turn(self, what: str) -> Iterator[None]:
        with self._change(what, patience=self.spec.boot_timeout + STOP_SECONDS):
            yield
