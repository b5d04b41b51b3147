"""``qemuvm templates``: the live templates in the cache, which VMs are clones of."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_qemuvm.cli.output import complain, say
from pytest_qemuvm.errors import SpecError, TemplateNotFound, nearest
from pytest_qemuvm.host.paths import cache_dir
from pytest_qemuvm.host.saves import MOST_BYTES, MOST_DAYS, Save, SaveStore
from pytest_qemuvm.spec.sizes import MIB, parse_size

if TYPE_CHECKING:
    import argparse

_KEY_LENGTH = 12
"""Digits of a key that are shown; any beginning that only one has will do to name it."""


def add_to(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "templates",
        help="list, show, make and remove the live templates that VMs are clones of",
        description="The first VM of a kind is booted and saved; later ones are clones of it. What was saved "
        "is in your cache. Removing it costs the next run some seconds, and nothing else.",
    )
    verbs = parser.add_subparsers(title="what to do", metavar="VERB", required=True)
    found = verbs.add_parser("list", help="one line each, the one used last first")
    found.set_defaults(run=_list)
    shown = verbs.add_parser("show", help="all that is known of one")
    shown.add_argument("key", help="its key, or the beginning of it")
    shown.set_defaults(run=_show)
    made = verbs.add_parser("build", help="make one now, as for a VM of that template")
    made.add_argument("template", nargs="?", default="tiny", help="tiny, or a template of qemuvm.yaml")
    made.add_argument("--memory", help="such as 512M", metavar="SIZE")
    made.add_argument("--cpus", type=int)
    made.add_argument("--machine", help="q35 or pc")
    made.set_defaults(run=_build)
    removed = verbs.add_parser("rm", help="remove some, or all")
    removed.add_argument("keys", nargs="*", help="their keys, or beginnings of them", metavar="key")
    removed.add_argument("--all", action="store_true", help="all of them")
    removed.set_defaults(run=_remove)
    gone = verbs.add_parser("gc", help="remove those that were not used for long, or are too many")
    gone.add_argument("--size", help="what all may take (default: 8G)", metavar="SIZE")
    gone.add_argument("--days", type=float, default=MOST_DAYS, help="how long one stays unused (30)")
    gone.set_defaults(run=_collect)


def _store() -> SaveStore:
    return SaveStore(cache_dir())


def _list(_arguments: argparse.Namespace) -> int:
    saves = _store().all()
    if not saves:
        say(f"no live template in {_store().directory}")
    for save in saves:
        manifest = save.manifest
        size = "cannot be saved" if manifest.refused else f"{save.size // MIB} MiB"
        used = f"used {_ago(save.used)}"
        say("  ".join((manifest.key[:_KEY_LENGTH], manifest.template, size, used, manifest.what)))
    return 0


def _show(arguments: argparse.Namespace) -> int:
    save = _find(arguments.key)
    manifest = save.manifest
    rows = {
        "key": manifest.key,
        "template": manifest.template,
        "machine": manifest.what,
        "made": f"{_ago(manifest.made)}, in {manifest.seconds:.1f} s",
        "used": _ago(save.used),
        "directory": str(save.directory),
        "on disk": f"{save.size // MIB} MiB",
    }
    if manifest.refused:
        rows["cannot be saved"] = manifest.refused
    for name, digest in manifest.digests.items():
        rows[f"sha256 of {name}"] = digest
    for name, value in rows.items():
        say(f"{name + ':':<20} {value}")
    return 0


def _build(arguments: argparse.Namespace) -> int:
    import os  # noqa: PLC0415

    from pytest_qemuvm.host.capabilities import discover  # noqa: PLC0415  # QEMU is looked for here
    from pytest_qemuvm.machine.harness import Harness  # noqa: PLC0415
    from pytest_qemuvm.spec.settings import resolve  # noqa: PLC0415
    from pytest_qemuvm.spec.suite import NO_SUITE  # noqa: PLC0415

    settings = resolve({"real": True}, os.environ, {})
    suite, file = NO_SUITE, Path(settings.config or "qemuvm.yaml")
    if file.is_file():
        from pytest_qemuvm.spec.suite_file import parse_suite  # noqa: PLC0415

        suite = parse_suite(file.read_text(encoding="utf-8"), file.absolute())
    given = {key: getattr(arguments, key) for key in ("memory", "cpus", "machine")}
    keywords = {key: value for key, value in given.items() if value is not None}
    harness = Harness(settings, discover(settings, cache_dir()), cache_dir(), say, suite)
    try:
        spec = harness.spec_for(None, {"template": arguments.template, **keywords, "start": "clone"}, "build")
        vm = harness.create(None, spec, "session")
        clone = harness.live_templates.clone_for(vm)
        assert clone is not None, "start='clone' leaves no other way"
        say(f"{clone.key[:_KEY_LENGTH]}  {arguments.template}  {clone.save.save.size // MIB} MiB")
    finally:
        harness.close()
    return 0


def _remove(arguments: argparse.Namespace) -> int:
    store = _store()
    if bool(arguments.keys) == arguments.all:
        complain("qemuvm: say which to remove, or --all")
        return 2
    saves = store.all() if arguments.all else [_find(key) for key in arguments.keys]
    for save in saves:
        store.remove(save.manifest.key)
        say(f"removed {save.manifest.key[:_KEY_LENGTH]}  {save.manifest.template}")
    return 0


def _collect(arguments: argparse.Namespace) -> int:
    most = MOST_BYTES if arguments.size is None else parse_size(arguments.size, "--size")
    removed = _store().collect(most_bytes=most, most_days=arguments.days)
    for save in removed:
        say(f"removed {save.manifest.key[:_KEY_LENGTH]}  {save.manifest.template}")
    if not removed:
        say("nothing to remove")
    return 0


def _find(key: str) -> Save:
    """Return the save whose key begins so. Raises TemplateNotFound, and SpecError where there are several."""
    saves = _store().all()
    found = [save for save in saves if save.manifest.key.startswith(key)]
    if len(found) == 1:
        return found[0]
    if found:
        raise SpecError(f"{len(found)} live templates have a key that begins with {key!r}")
    known = [save.manifest.key[:_KEY_LENGTH] for save in saves]
    raise TemplateNotFound(f"no live template {key!r}", hint=nearest(key, known) if known else None)


def _ago(when: float) -> str:
    seconds = max(0.0, time.time() - when)
    for size, name in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {name} ago"
    return f"{seconds:.0f} s ago"
