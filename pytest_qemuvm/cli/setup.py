"""``qemuvm setup``: get what is missing, with the distribution's own package manager, and build the guest.

QEMU is installed, which takes root. The guest's kernel and busybox are only unpacked into the cache, which
takes nobody. A second run finds everything there and is done at once.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_qemuvm.cli.doctor import table
from pytest_qemuvm.cli.guest_parts import UNPACKERS
from pytest_qemuvm.cli.output import complain, say
from pytest_qemuvm.cli.survey import Survey, survey
from pytest_qemuvm.errors import CapabilityError
from pytest_qemuvm.host.packages import PackageManager, detect
from pytest_qemuvm.host.paths import cache_dir
from pytest_qemuvm.spec.settings import Settings, resolve

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

MENDABLE = ("qemu", "qemu-img", *UNPACKERS, "kernel", "busybox")
"""The rows of the survey that packages can mend."""

REFUSED = 2
"""Exit status where consent is needed and cannot be asked for, or was not given."""


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to do."""

    what: str
    commands: tuple[str, ...]
    act: Callable[[], object]


def add_to(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "setup",
        help="get QEMU and what the built-in guest is made of",
        description="Installs QEMU (as root), unpacks a kernel and busybox into the cache (as anybody), "
        "and builds the built-in guest. Says what it will do and asks first.",
    )
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.add_argument("--dry-run", action="store_true", help="only say what would be done")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Find out what is missing, say so, ask, do it, and show the result."""
    settings = resolve({}, os.environ, {})
    found = survey(settings)
    # A second round, because only an unpacked kernel tells what it takes to unpack its modules.
    done: set[str] = set()
    for _ in range(2):
        steps, for_root = plan(found, settings, cache_dir())
        steps = [step for step in steps if step.what not in done]
        _show(steps, for_root)
        if arguments.dry_run or not steps:
            break
        if not arguments.yes and not _consent():
            return REFUSED
        for step in steps:
            say(f"\n{step.what}")
            step.act()
            done.add(step.what)
        found = survey(settings)
    if found.ready and not arguments.dry_run:
        _build(settings)
    say(table(found))
    return 0 if found.ready or arguments.dry_run else 1


def plan(found: Survey, settings: Settings, cache: Path) -> tuple[list[Step], tuple[str, ...]]:
    """Return the steps that mend what is missing, and the commands that only root can run.

    What the settings name is the user's to mend. Raises CapabilityError if packages are needed and there is
    no package manager that is known here.
    """
    named = {"qemu": settings.binary, "kernel": settings.kernel}
    wanted = [name for name in MENDABLE if found.lacks(name) and not named.get(name)]
    if not wanted:
        return [], ()
    manager = detect(say)
    if manager is None:
        raise CapabilityError(
            f"missing: {', '.join(wanted)}, and there is neither apt nor dnf to get it with",
            None,
            "install QEMU by hand, and name a kernel with --qemu-kernel or QEMUVM_KERNEL",
        )
    install, for_root = _installation(manager, wanted)
    return [*install, *_unpackings(manager, wanted, cache / "packages")], for_root


def _installation(manager: PackageManager, wanted: list[str]) -> tuple[list[Step], tuple[str, ...]]:
    packages = [
        *(manager.qemu_packages if {"qemu", "qemu-img"} & set(wanted) else ()),
        *(program for program in UNPACKERS if program in wanted),
    ]
    if not packages:
        return [], ()
    what = f"Install {' '.join(packages)}"
    commands = [shlex.join(command) for command in manager.install_commands(packages)]
    if os.geteuid() == 0:
        return [Step(what, tuple(commands), lambda: manager.install(packages))], ()
    if shutil.which("sudo"):
        with_sudo = tuple(f"sudo {command}" for command in commands)
        return [Step(what, with_sudo, lambda: manager.install(packages, sudo=True))], ()
    return [], tuple(commands)


def _unpackings(manager: PackageManager, wanted: list[str], into: Path) -> list[Step]:
    steps = []
    if "kernel" in wanted:
        what = f"{manager.name}: download {manager.kernel_source}, unpack into {into}"
        steps.append(
            Step(
                "Unpack a kernel for the guest (70 MB; nothing is installed)",
                (what,),
                lambda: manager.unpack_kernel(into),
            )
        )
    if "busybox" in wanted:
        packages = manager.busybox_packages
        what = f"{manager.name}: download {' '.join(packages)}, unpack into {into}"
        steps.append(
            Step(
                "Unpack busybox for the guest (1 MB; nothing is installed)",
                (what,),
                lambda: manager.unpack(packages, into),
            )
        )
    return steps


def _show(steps: list[Step], for_root: tuple[str, ...]) -> None:
    for number, step in enumerate(steps, 1):
        say(f"{number}. {step.what}")
        for command in step.commands:
            say(f"     {command}")
    if for_root:
        say("This needs root, and there is no sudo here. Run as root:")
        for command in for_root:
            say(f"     {command}")


def _consent() -> bool:
    if not sys.stdin.isatty():
        complain("qemuvm: nobody to ask here; say --yes to go ahead, or --dry-run only to look")
        return False
    try:
        answer = input("Go ahead? [y/N] ")
    except EOFError:
        answer = ""
    if answer.strip().lower() in {"y", "yes"}:
        return True
    say("Nothing was done.")
    return False


def _build(settings: Settings) -> None:
    """Build the guest; where it has been built already this takes no time."""
    from pytest_qemuvm.guest.tiny import build_tiny  # noqa: PLC0415  # only needed here

    kernel = Path(settings.kernel) if settings.kernel else None
    build_tiny(cache_dir(), kernel=kernel, progress=say)
