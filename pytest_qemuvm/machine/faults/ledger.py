"""A fault is an act and its inverse. The ledger has those that last, and heals them in the end.

What breaks something pushes what mends it onto a stack before it acts, as a plug does. ``heal`` runs the
stack; an act that fails half way is undone at once, and no fault is left. A fault whose machine has ended is
over: there is nothing left to mend.
"""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager, ExitStack, contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Protocol, Self, TypeVar, overload

from pytest_qemuvm.errors import QemuVMError, end_with

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pytest_qemuvm.machine.faults.timeline import Timeline

    Aside = Callable[[], AbstractContextManager[object]]

_on_behalf_of: ContextVar[str | None] = ContextVar("qemuvm_fault_owner", default=None)
"""Whom a thread that is not the tests' own acts for."""


class Act(Protocol):
    """What breaks something."""

    def __call__(self, undo: ExitStack) -> object:
        """Do it, and see that it has come about; what undoes it goes onto the stack first.

        A string that is returned says by what it was seen, for the timeline.
        """


class Fault:
    """Something that was broken on purpose. It heals with the end of a ``with``, or of the test.

    ``what`` says it in one line, as the report does.
    """

    def __init__(
        self,
        ledger: FaultLedger,
        what: str,
        owner: str,
        subject: object,
    ) -> None:
        self.what = what
        self.owner = owner
        """The test, module or session that wanted it."""
        self.subject = subject
        """What it is about: a run of a machine, or a network. When that has ended, so has the fault."""
        self.aside: Aside | None = None
        """What lets others break and mend the same subject, where this fault keeps them from it."""
        self.revives: object = None
        """The machine that boots anew when it heals: nobody waits for that where it is deleted anyway."""
        self.undo = ExitStack()
        """What mends it; for the ledger."""
        self.turn = threading.Lock()
        """Held by whoever mends it; for the ledger."""
        self._ledger = ledger

    def __repr__(self) -> str:
        return f"<Fault: {self.what}; {'active' if self.active else 'over'}>"

    @property
    def active(self) -> bool:
        """True until it has healed, or what it is about has ended."""
        return self._ledger.holds(self)

    def heal(self) -> None:
        """Mend it, and return when that has come about; where it is over already, nothing is done.

        Raises QemuVMError where it could not be mended. Then it counts as over all the same.
        """
        self._ledger.heal(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        end_with(self.heal, error, f"besides, {self.what} could not be healed")


Made_co = TypeVar("Made_co", bound=Fault, covariant=True)


class Making(Protocol[Made_co]):
    """What makes a fault: its class, or one of which more is known."""

    def __call__(self, ledger: FaultLedger, what: str, owner: str, subject: object) -> Made_co:
        """Return the fault, before anything is broken."""
        ...


class FaultLedger:
    """All faults of a session that are active, in the order in which they began."""

    def __init__(self, timeline: Timeline, acting: Callable[[], str]) -> None:
        self.timeline = timeline
        self._acting = acting
        self._active: list[Fault] = []
        self._lock = threading.Lock()

    @overload
    def inject(
        self,
        what: str,
        subject: object,
        act: Act,
        owner: str | None = None,
        *,
        aside: Aside | None = None,
        revives: object = None,
    ) -> Fault: ...

    @overload
    def inject(
        self, what: str, subject: object, act: Act, owner: str | None = None, *, kind: Making[Made_co]
    ) -> Made_co: ...

    def inject(
        self,
        what: str,
        subject: object,
        act: Act,
        owner: str | None = None,
        *,
        aside: Aside | None = None,
        revives: object = None,
        kind: Making[Fault] = Fault,
    ) -> Fault:
        """Break something and return the fault, once it has come about. What the act raises comes out of it.

        ``subject`` is what has the fault: when it ends, ``forget`` is called with it. Other threads, which
        act on behalf of no test, name the ``owner``. With ``aside`` the fault gives way to others of its
        subject for as long as they begin or heal; ``revives`` is what boots when it heals. ``kind`` makes a
        fault that can tell more of itself.
        """
        fault = kind(self, what, owner or self.acting, subject)
        fault.aside, fault.revives = aside, revives
        try:
            with self.reaching(subject, fault):
                seen = act(fault.undo)
        except BaseException as error:
            self.timeline.note(fault.owner, f"failed: {what}")
            try:
                fault.undo.close()
            except QemuVMError as problem:
                error.add_note(f"besides, what was begun could not be undone: {problem}")
            raise
        with self._lock:
            self._active.append(fault)
        how = f" ({seen})" if isinstance(seen, str) else ""
        self.timeline.note(fault.owner, f"begun: {what}{how}")
        return fault

    def note(self, what: str) -> None:
        """Note an act that has no inverse, such as an NMI."""
        self.timeline.note(self.acting, what)

    @property
    def acting(self) -> str:
        """The test, module or session on whose behalf the present thread acts."""
        return _on_behalf_of.get() or self._acting()

    @contextmanager
    def acting_for(self, owner: str) -> Iterator[None]:
        """Have what this thread breaks in the block belong to an owner."""
        token = _on_behalf_of.set(owner)
        try:
            yield
        finally:
            _on_behalf_of.reset(token)

    @contextmanager
    def reaching(self, subject: object, own: Fault | None = None) -> Iterator[None]:
        """Have the faults of a subject give way that keep others from it, all but one's own."""
        with ExitStack() as stack:
            for fault in self.active(subject=subject):
                if fault.aside is not None and fault is not own:
                    stack.enter_context(fault.aside())
            yield

    def holds(self, fault: Fault) -> bool:
        """Return whether a fault is active."""
        with self._lock:
            return fault in self._active

    def active(self, *, owner: str | None = None, subject: object = None) -> list[Fault]:
        """Return the faults that are active: all, those of an owner, those of one subject."""
        with self._lock:
            return [
                fault
                for fault in self._active
                if (owner is None or fault.owner == owner) and (subject is None or fault.subject is subject)
            ]

    def heal(self, fault: Fault) -> None:
        """Mend a fault; see ``Fault.heal``. Of several threads one does, and the others wait for it."""
        with fault.turn:
            if not self.holds(fault):
                return
            try:
                with self.reaching(fault.subject, fault):
                    fault.undo.close()
            except BaseException:
                self.timeline.note(fault.owner, f"not healed: {fault.what}")
                raise
            else:
                self.timeline.note(fault.owner, f"healed: {fault.what}")
            finally:
                self._drop(fault)

    def forget(self, subject: object) -> None:
        """Note that what had faults has ended, and they with it; one that is being mended ends with that."""
        for fault in self.active(subject=subject):
            if not fault.turn.locked():
                self.let_be(fault)

    def let_be(self, fault: Fault) -> None:
        """Leave a fault as it is, and note that it is over."""
        fault.undo.pop_all()
        self._drop(fault)
        self.timeline.note(fault.owner, f"over with what it was about: {fault.what}")

    def _drop(self, fault: Fault) -> None:
        with self._lock:
            if fault in self._active:
                self._active.remove(fault)
