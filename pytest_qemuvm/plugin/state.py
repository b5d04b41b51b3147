"""What the plugin knows for the length of a session: the decision, and the harness once there is one."""

from __future__ import annotations

import os
from collections import Counter
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_qemuvm.errors import QemuVMError, SettingsError, SpecError
from pytest_qemuvm.spec.settings import OPTIONS, Settings, resolve

if TYPE_CHECKING:
    from pytest_qemuvm.host.capabilities import Capabilities
    from pytest_qemuvm.machine.harness import Extensions, Harness
    from pytest_qemuvm.spec.suite import Suite


class SessionState:
    """The session's settings and capabilities, decided before collection, and its harness."""

    def __init__(
        self, config: pytest.Config, settings: Settings, capabilities: Capabilities, cache: Path
    ) -> None:
        self.config = config
        self.settings = settings
        self.capabilities = capabilities
        self.cache = cache
        self._suite: Suite | None = None
        """What the suite's file names."""
        self.harness: Harness | None = None
        self.acting: list[str] = []
        """For whom pytest does something now, the innermost last: a test, a module, the session."""
        self.permits: tuple[str, frozenset[str]] = ("", frozenset())
        """The test that runs now, and the QMP commands that its marks permit."""
        self.checked = 0
        """Tests that ended with a coherence check."""
        self.findings: dict[str, list[str]] = {}
        """Kinds of undeclared findings, by the test at whose end they were found."""
        self.users: set[str] = set()
        """Node ids of tests that really used a VM."""
        self.starts: Counter[str] = Counter()
        """How VMs with a guest came up: ``clone``, or why one booted."""
        self.controller: tuple[int, int] | None = None
        """In a worker of xdist, (pid, start in ticks) of its controller, if that runs on this host."""
        self._left_plans: list[tuple[str, dict[str, Any]]] = []
        """Plans of VMs that lived as long as the session."""
        self.plans: dict[str, list[dict[str, Any]]] = {}
        """Plans of all VMs by the test (or wider scope) they were made for."""

    @property
    def is_worker(self) -> bool:
        """True in a worker of xdist."""
        return hasattr(self.config, "workerinput")

    @property
    def unused_but_strict(self) -> bool:
        """True where --qemu-strict demands that some test uses a VM, and none did."""
        collected_only = bool(self.config.option.collectonly)
        return self.settings.strict and not self.users and not self.is_worker and not collected_only

    @property
    def suite(self) -> Suite:
        """What ``qemuvm.yaml`` names; nothing where there is no such file."""
        if self._suite is None:
            from pytest_qemuvm.spec.suite import NO_SUITE  # noqa: PLC0415  # few suites have one

            self._suite = NO_SUITE
        return self._suite

    def open_harness(self) -> Harness:
        """Return the session's harness, made on first use."""
        if self.harness is None:
            from pytest_qemuvm.host.lease import Origin  # noqa: PLC0415  # the first VM pays for it
            from pytest_qemuvm.machine.harness import Harness  # noqa: PLC0415  # as above
            from pytest_qemuvm.machine.wardens import Run  # noqa: PLC0415

            worker = getattr(self.config, "workerinput", {}).get("workerid")
            origin = Origin(str(self.config.rootpath), worker, self.controller)
            self.harness = Harness(
                self.settings,
                self.capabilities,
                self.cache,
                self._progress,
                self.suite,
                self.extensions,
                Run(self.acts_for, self.permitted, self.artifacts),
                origin,
            )
            if self.settings.plan is not None:
                self.harness.recordings.begin()
        return self.harness

    def take_plans(self, item: pytest.Item) -> list[tuple[str, dict[str, Any]]]:
        """Return the plans that are complete when a test has ended, each with whom it was made for."""
        from pytest_qemuvm.plugin.plans import taken  # noqa: PLC0415  # only where plans are wanted

        left, self._left_plans = self._left_plans, []
        return left + (taken(self.harness, self.config, item.nodeid) if self.harness is not None else [])

    def acts_for(self) -> str:
        """Return the test, module or session that pytest does something for now."""
        return self.acting[-1] if self.acting else "session"

    def tell(self) -> None:
        """Have other processes know what is permitted now, which changes with who acts."""
        if self.harness is not None:
            self.harness.permission_changed()

    def permitted(self) -> frozenset[str]:
        """Return the QMP commands that may be sent now; a fixture of wider scope has no marks of its own."""
        test, commands = self.permits
        return commands if test == self.acts_for() else frozenset()

    @property
    def artifacts(self) -> Path:
        """Where kept files go; a relative path starts from the rootdir."""
        return self.config.rootpath / self.settings.artifacts

    @cached_property
    def extensions(self) -> Extensions:
        """What all plugins add, this one's built-in parts among it."""
        from pytest_qemuvm.machine.harness import Extensions  # noqa: PLC0415

        hook = self.config.hook
        kinds, rules, facts = (
            found(config=self.config)
            for found in (
                hook.pytest_qemuvm_device_kinds,
                hook.pytest_qemuvm_coherence_rules,
                hook.pytest_qemuvm_coherence_facts,
            )
        )
        return Extensions(
            kinds=tuple(kind for some in kinds for kind in some),
            rules=tuple(rule for some in rules for rule in some),
            collectors={name: collector for some in facts for name, collector in some.items()},
        )

    def close(self) -> None:
        """End the harness and all its machines."""
        harness, self.harness = self.harness, None
        if harness is None:
            return
        try:
            harness.close()
        finally:
            if self.settings.plan is not None:
                from pytest_qemuvm.plugin.plans import taken  # noqa: PLC0415  # only where plans are wanted

                self._left_plans += taken(harness, self.config, None)

    def _progress(self, line: str) -> None:
        """Say what takes time, where somebody watches: a first build of the guest takes seconds."""
        reporter = self.config.pluginmanager.get_plugin("terminalreporter")
        if reporter is None or not reporter.isatty:
            return
        capture = self.config.pluginmanager.get_plugin("capturemanager")
        if capture is None:
            reporter.write_line(f"qemuvm: {line}")
            return
        with capture.global_and_fixture_disabled():
            reporter.write_line(f"qemuvm: {line}")


SUITE_FILE = "qemuvm.yaml"

STATE: pytest.StashKey[SessionState] = pytest.StashKey()


def configure(config: pytest.Config) -> SessionState:
    """Decide and remember settings and mode; UsageError stops the session before collection."""
    from pytest_qemuvm.host.capabilities import Capabilities, discover  # noqa: PLC0415
    from pytest_qemuvm.host.paths import cache_dir  # noqa: PLC0415

    handed: dict[str, Any] | None = getattr(config, "workerinput", {}).get("qemuvm")
    try:
        cache = cache_dir()
        if handed is not None:
            settings = Settings(**handed["settings"])
            capabilities = Capabilities.from_dict(handed["capabilities"])
        else:
            settings = resolve(_command_line(config), _environment(config), _ini(config))
            _check_plan_file(settings)
            _check_image(settings)
            capabilities = discover(settings, cache)
        suite = _read_suite(config, settings)
    except QemuVMError as error:
        raise pytest.UsageError(str(error)) from error
    state = config.stash[STATE] = SessionState(config, settings, capabilities, cache)
    state._suite = suite  # noqa: SLF001  # its other half, in the same module
    if handed is not None:
        from pytest_qemuvm.host.sweep import start_ticks  # noqa: PLC0415  # only a worker needs it

        # Now, while it surely lives: later its absence means that it has died.
        pid, ticks = handed["controller"]
        state.controller = (pid, ticks) if start_ticks(pid) == ticks else None
    return state


def worker_data(config: pytest.Config) -> dict[str, Any] | None:
    """Return the decision as plain data for a worker."""
    state = config.stash.get(STATE, None)
    if state is None:
        return None
    from pytest_qemuvm.host.sweep import start_ticks  # noqa: PLC0415  # only the controller of workers needs it

    return {
        "settings": state.settings._asdict(),
        "capabilities": state.capabilities.as_dict(),
        "controller": (os.getpid(), start_ticks(os.getpid())),
    }


def _command_line(config: pytest.Config) -> dict[str, Any]:
    found = {
        option.name: config.getoption(option.flag_name.lstrip("-").replace("-", "_")) for option in OPTIONS
    }
    return _with_image_from(config.invocation_params.dir, found, "image")


def _environment(config: pytest.Config) -> dict[str, str]:
    return _with_image_from(config.invocation_params.dir, dict(os.environ), "QEMUVM_IMAGE")


def _ini(config: pytest.Config) -> dict[str, str | None]:
    found = {option.name: str(config.getini(option.ini) or "") for option in OPTIONS}
    return _with_image_from(config.rootpath, found, "image")


def _with_image_from(directory: Path, values: dict[str, Any], key: str) -> dict[str, Any]:
    """Return a level's values with a relative path of an image taken from where that level's paths start."""
    given = str(values.get(key) or "").strip()
    return {**values, key: str(directory / given)} if given else values


def _check_image(settings: Settings) -> None:
    """Refuse an image for all VMs that is not there, or not what it is said to be. Raises SettingsError."""
    if settings.image is None:
        if settings.image_format is not None:
            raise SettingsError("--qemu-image-format says what the image is, and there is no --qemu-image")
        return
    if settings.image_format is None:
        raise SettingsError(
            f"the format of the image {settings.image} is not guessed",
            hint="say --qemu-image-format=qcow2 or raw, or qemu_image_format in the ini file",
        )
    from pytest_qemuvm.host.chains import chain_of  # noqa: PLC0415  # few runs name one

    try:
        chain_of(Path(settings.image), settings.image_format)
    except SpecError as error:
        raise SettingsError(f"--qemu-image: {error.brief}", error.details, error.hint) from error


def _read_suite(config: pytest.Config, settings: Settings) -> Suite | None:
    """Read the file that names the suite's VMs, templates and disks, if there is one.

    A relative path that was given is looked for where pytest was started, then in the rootdir. Raises
    SettingsError, with file and line, for what it should not say, and where a file that was given is missing.
    """
    if settings.config is None:
        path = config.rootpath / SUITE_FILE
        if not path.is_file():
            return None
    else:
        places = [base / settings.config for base in (config.invocation_params.dir, config.rootpath)]
        path = next((place for place in places if place.is_file()), places[0])
    from pytest_qemuvm.spec.suite_file import parse_suite  # noqa: PLC0415  # YAML, which few suites use

    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} cannot be read: {error}", hint="--qemu-config names it") from error
    return parse_suite(text, path)


def _check_plan_file(settings: Settings) -> None:
    """Refuse ``--qemu-plan tests``, a path of tests taken for the file; and a file without a directory."""
    if settings.plan is None or settings.plan == "-":
        return
    if settings.plan.endswith(".py") or Path(settings.plan).is_dir():
        raise SettingsError(
            f"--qemu-plan would write to {settings.plan}, which is not a file for a plan",
            hint="write --qemu-plan=FILE with an equals sign, or put --qemu-plan last to print the plan",
        )
    if not Path(settings.plan).parent.is_dir():
        raise SettingsError(
            f"--qemu-plan would write to {settings.plan}, whose directory is not there",
            hint=f"make the directory {Path(settings.plan).parent}, or name another file",
        )
