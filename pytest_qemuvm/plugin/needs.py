"""The marker ``qemuvm``: what a test asks of its VM, and what it cannot do without."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from pytest_qemuvm.errors import NotSupportedInDryRun, QemuVMError, SpecError
from pytest_qemuvm.host.capabilities import may_administer_networks
from pytest_qemuvm.spec.vm import VMSpec, laid_over

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from pytest_qemuvm.plugin.state import SessionState

MACHINE = ("guest", "real")
"""Needs that a simulated machine does not meet."""
WHERE = "@pytest.mark.qemuvm"


def merged(marks: Iterable[pytest.Mark]) -> dict[str, Any]:
    """Return the keys of several marks, given from the closest to the farthest; the closest wins.

    An image and its format go together.

    Raises SpecError for a mark with positional arguments.
    """
    keys: dict[str, Any] = {}
    for mark in marks:
        if mark.args:
            raise SpecError(
                f"{WHERE} takes keywords only, not {mark.args!r}", hint='write qemuvm(template="bare")'
            )
        keys = laid_over(mark.kwargs, keys)
    return keys


def check_marks(marks: Iterable[pytest.Mark], state: SessionState) -> frozenset[str]:
    """Return what a test needs: fail it for a key that no spec has, skip it for what cannot be had here."""
    try:
        spec = VMSpec().with_keywords(merged(marks), WHERE)
    except QemuVMError as error:
        raise pytest.fail.Exception(str(error), pytrace=False) from None
    for need in spec.needs:
        reason = _unmet(need, state)
        if reason:
            skip(f"needs {need}: {reason}", state)
    return frozenset(spec.needs)


def check_permissions(item: pytest.Item) -> frozenset[str]:
    """Return the QMP commands that a test's marks permit; fail the test for what is none."""
    # Only a test that is marked so pays for it.
    from pytest_qemuvm.qmp.policy import checked_permission  # noqa: PLC0415

    commands: set[str] = set()
    for mark in item.iter_markers("qemuvm_allow"):
        if mark.kwargs or not mark.args:
            text = "@pytest.mark.qemuvm_allow takes names of QMP commands"
            raise pytest.fail.Exception(f'{text}: write qemuvm_allow("inject-nmi")', pytrace=False)
        try:
            commands.update(checked_permission(command) for command in mark.args)
        except SpecError as error:
            raise pytest.fail.Exception(str(error), pytrace=False) from None
    return frozenset(commands)


def skip(reason: str, state: SessionState) -> None:
    """Skip the test for a missing capability; under --qemu-strict that is a failure."""
    if state.settings.strict:
        # From None: it may come of an exception that says the same.
        raise pytest.fail.Exception(f"{reason} (a failure because of --qemu-strict)", pytrace=False) from None
    skipped = pytest.skip.Exception(reason)
    skipped.qemuvm_reason = reason  # type: ignore[attr-defined]  # for locate_skip
    raise skipped


def skip_if_dry(error: Exception, needs: frozenset[str], state: SessionState) -> None:
    """Skip a test that said what it needs where only that could go on; any other fails with the error."""
    if isinstance(error, NotSupportedInDryRun) and not needs.isdisjoint(MACHINE):
        skip(error.brief, state)


def skip_unknown(needs: frozenset[str], state: SessionState) -> None:
    """Skip a test that needs a guest and came to its end without one: what it is about was not shown."""
    if "guest" in needs and state.capabilities.mode == "dry-run":
        skip("needs guest: this is a dry-run, and all that could be known without a guest was right", state)


def locate_skip(report: pytest.TestReport, item: pytest.Item, error: BaseException) -> None:
    """Let a skip of ours point to the test, as pytest's own marks do, and not to a line in here."""
    reason = getattr(error, "qemuvm_reason", None)
    if reason is not None:
        path, line, _ = item.reportinfo()
        report.longrepr = (str(path), (line or 0) + 1, f"Skipped: {reason}")


def _unmet(need: str, state: SessionState) -> str | None:
    """Return why a need cannot be met, or None if it can."""
    found = state.capabilities
    if need == "net-admin" and state.settings.network_dry_run:
        return "networks are a dry-run (--qemu-network-dry-run=no makes them)"
    if need == "net-admin":
        return None if may_administer_networks() else "this process may not make network devices"
    if found.mode == "dry-run":
        # What needs a guest goes as far as it can without one: its machines are planned, started and plugged.
        untold = {"real": "this is a dry-run", "guest": None, "simulator": None}
        return untold.get(need, "nothing is proven in a dry-run")
    if need == "simulator":
        return "the machines of this session are real"
    if need == "kvm" and found.accelerator is not None and found.accelerator.name != "kvm":
        return found.accelerator.proof
    return None


def keywords_from(
    base: VMSpec | Mapping[str, Any] | None, marks: Iterable[pytest.Mark], where: str
) -> dict[str, Any]:
    """Return the fixture ``vm_spec``'s value as keywords, with the marks' keys laid over it.

    Of a VMSpec that is what was given to it: the rest is left to the template.
    """
    if isinstance(base, VMSpec):
        said = base.as_keywords()
    elif base is None or hasattr(base, "keys"):
        said = dict(base or {})
        VMSpec().with_keywords(said, where)
    else:
        raise SpecError(f"{where} gave {base!r}", hint="return a VMSpec or a dict of its keywords")
    marked = merged(marks)
    VMSpec().with_keywords(marked, WHERE)
    return laid_over(said, marked)


def from_root(keywords: Mapping[str, Any], root: Path) -> dict[str, Any]:
    """Return keywords with a relative path of an image taken from the rootdir."""
    image = keywords.get("image")
    return {**keywords, "image": root / image} if isinstance(image, (str, os.PathLike)) else dict(keywords)
