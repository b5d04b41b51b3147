"""Plans of a session: gathered as tests end, written to a file, compared with golden ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_qemuvm.errors import PlanDiffers, SpecError
from pytest_qemuvm.host.paths import cache_dir
from pytest_qemuvm.plan.compare import as_text, difference

if TYPE_CHECKING:
    import pytest

    from pytest_qemuvm.machine.harness import Harness
    from pytest_qemuvm.plugin.state import SessionState

USES = "assert_plan"
"""The fixture that needs what happens in a test to be recorded."""


def places(config: pytest.Config) -> dict[str, str]:
    """Return directories that differ from host to host, by what is written for them in a plan."""
    return {
        "<rootdir>": str(config.rootpath),
        "<cache>": str(cache_dir()),
        "<tmp>": str(config.option.basetemp or ""),
        "<home>": str(Path.home()) if Path.home() != Path("/") else "",
    }


def taken(harness: Harness, config: pytest.Config, test: str | None) -> list[tuple[str, dict[str, Any]]]:
    """Return the plans that nothing is to be added to, each with its owner, and forget them.

    Those are the plans of a test that has ended, and of VMs of wider scope that are gone. Without a ``test``
    they are all that is left.
    """
    owners = dict.fromkeys(recording.owner for recording in harness.recordings)
    done = [owner for owner in owners if test in (None, owner) or not harness.owned_by(owner)]
    if harness.settings.plan == "-":
        # To be read and pasted on this host: nothing is replaced.
        plans = [(each.owner, each.plan.as_dict()) for each in harness.recordings if each.owner in done]
    else:
        known = places(config)
        plans = [(owner, plan) for owner in done for plan in harness.recordings.of([owner], known)]
    harness.recordings.forget(done)
    return plans


class AssertPlan:
    """What ``assert_plan`` gives: call it with a golden file."""

    def __init__(self, state: SessionState, harness: Harness, item: pytest.Item) -> None:
        self._state = state
        self._harness = harness
        self._item = item

    def __call__(self, golden: str | Path) -> None:
        """Compare what the test's VMs were started with, and what was said to them so far, with a file.

        ``golden`` is a path relative to the test's own file. With ``--qemu-update-plans`` the file is written
        instead. Raises PlanDiffers, with the difference, and SpecError for a file that cannot be read.
        """
        __tracebackhide__ = True
        path = self._item.path.parent / golden
        found = self._harness.recordings.of([self._item.nodeid], places(self._item.config))
        if self._state.settings.update_plans:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(as_text(found), encoding="utf-8")
            return
        hint = f"{self._item.nodeid}: --qemu-update-plans writes it"
        try:
            wanted = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise PlanDiffers(f"there is no golden file {path}", hint=hint) from error
        except (OSError, ValueError) as error:
            raise SpecError(f"the golden file {path} cannot be read: {error}", hint=hint) from error
        # As JSON has it, so that both are told apart by what a file can hold.
        told = difference(wanted, json.loads(as_text(found)), (str(golden), "this run"))
        if told:
            raise PlanDiffers(f"the plan is not that of {golden}", told, f"{hint} anew; read the difference")
