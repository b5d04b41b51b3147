"""Settings: the command line over the environment over ini, decided once into one frozen value.

Pure: it is given the three sources as mappings, so that every rule of precedence can be tested as a table.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pytest_qemuvm.errors import SettingsError, nearest

if TYPE_CHECKING:
    from collections.abc import Mapping

Mode = Literal["real", "dry-run"]


class Option(NamedTuple):
    """One option: ``--qemu-NAME``, ini ``qemu_NAME``, variable ``QEMUVM_NAME``."""

    name: str
    help: str
    choices: tuple[str, ...] | None = None
    """The words it accepts; None: any."""
    flag: bool = False
    metavar: str | None = None

    @property
    def flag_name(self) -> str:
        """The option on the command line."""
        return f"--qemu-{self.name}"

    @property
    def ini(self) -> str:
        """The key in the ini file."""
        return f"qemu_{self.name.replace('-', '_')}"

    @property
    def variable(self) -> str:
        """The environment variable."""
        return f"QEMUVM_{self.name.replace('-', '_').upper()}"


OPTIONS = (
    Option("real", "run on real machines; stop before collection where QEMU cannot run", flag=True),
    Option("dry-run", "simulate every machine: no QEMU is needed, and no guest runs", flag=True),
    Option("strict", "fail where a test was skipped for a missing capability, or none used a VM", flag=True),
    Option("accel", "accelerator: auto takes the best that is proven to work", ("auto", "kvm", "tcg")),
    Option("binary", "the QEMU system emulator: a path, or a name on PATH", metavar="PATH"),
    Option("kernel", "a kernel image for the built-in guest", metavar="PATH"),
    Option("config", "names VMs, templates and disks (default: qemuvm.yaml in the rootdir)", metavar="FILE"),
    Option(
        "start", "how VMs start: as clones where they can (default), or as said", ("auto", "clone", "cold")
    ),
    Option("pool", "have up to N clones ready ahead, prepared on an idle core (default: 0)", metavar="N"),
    Option("image", "a disk image of yours that VMs are made of; it is never written", metavar="PATH"),
    Option("image-format", "what that image is; it is never guessed", ("qcow2", "raw")),
    Option(
        "coherence",
        "what a test that leaves something behind gets (default: error)",
        ("error", "warn", "off"),
    ),
    Option("keep", "keep files of a test's VMs under --qemu-artifacts", ("never", "failed", "always")),
    Option("artifacts", "where kept files go (default: qemuvm-artifacts)", metavar="DIR"),
    Option("plan", "write the plans of all VMs as JSON by test to FILE; - prints them", metavar="FILE"),
    Option("update-plans", "have assert_plan write its golden files anew", flag=True),
    Option("network-dry-run", "plan TAP and bridge networks, make none (default: yes)", ("yes", "no")),
)
MOST_POOLED = 16
_BY_NAME = {option.name: option for option in OPTIONS}

_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off"})
_OLDER_SPELLINGS = {
    "dry-run": "VMAN_OPERATOR_DRY_RUN",
    "network-dry-run": "VMAN_NETWORK_DRY_RUN",
}


class Settings(NamedTuple):
    """What the user asked for, and where."""

    mode: Mode | None
    """None: nothing was said, so it depends on what this host can do."""
    mode_source: str
    """Where the mode was said: ``--qemu-real``, ``QEMUVM_DRY_RUN=1``, ``qemu_real``."""
    strict: bool
    accel: Literal["auto", "kvm", "tcg"]
    binary: str | None
    kernel: str | None
    config: str | None
    start: Literal["auto", "clone", "cold"]
    pool: int
    """How many clones are prepared before they are asked for, at most."""
    image: str | None
    image_format: Literal["qcow2", "raw"] | None
    coherence: Literal["error", "warn", "off"]
    keep: Literal["never", "failed", "always"]
    artifacts: str
    plan: str | None
    update_plans: bool
    network_dry_run: bool


class _Level(NamedTuple):
    """One of the three sources: what it says, and how to name a value of it."""

    values: Mapping[str, str]
    names: Mapping[str, str]

    def source(self, name: str) -> str:
        return self.names[name]


def resolve(cli: Mapping[str, Any], environ: Mapping[str, str], ini: Mapping[str, str | None]) -> Settings:
    """Decide the settings; keys of ``cli`` and ``ini`` are option names without prefix.

    Raises SettingsError for a word that an option does not accept, and for a contradiction on one level; a
    higher level overrides a lower one without a word.
    """
    levels = (
        _Level(
            {name: "1" if value is True else str(value) for name, value in cli.items() if value},
            {option.name: option.flag_name for option in OPTIONS},
        ),
        _environment(environ),
        _Level(
            {name: value for name, value in ini.items() if value},
            {option.name: f"{option.ini} (ini)" for option in OPTIONS},
        ),
    )
    mode, mode_source = _mode(levels)
    return Settings(
        mode=mode,
        mode_source=mode_source,
        strict=_boolean(levels, "strict", default=False),
        accel=_word(levels, "accel", "auto"),
        binary=_text(levels, "binary"),
        kernel=_text(levels, "kernel"),
        config=_text(levels, "config"),
        start=_word(levels, "start", "auto"),
        pool=_count(levels, "pool", MOST_POOLED),
        image=_text(levels, "image"),
        image_format=_word(levels, "image-format", None),
        coherence=_word(levels, "coherence", "error"),
        keep=_word(levels, "keep", "failed"),
        artifacts=_text(levels, "artifacts") or "qemuvm-artifacts",
        plan=_text(levels, "plan"),
        update_plans=_boolean(levels, "update-plans", default=False),
        network_dry_run=_boolean(levels, "network-dry-run", default=True),
    )


def _environment(environ: Mapping[str, str]) -> _Level:
    """Read the variables, in both spellings where there are two; an empty one is an unset one."""
    values: dict[str, str] = {}
    names: dict[str, str] = {}
    for option in OPTIONS:
        names[option.name] = option.variable
        if value := environ.get(option.variable, "").strip():
            values[option.name] = value
    for name, older in _OLDER_SPELLINGS.items():
        value = environ.get(older, "").strip()
        if not value:
            continue
        spoken = _truth(value, older)
        if name in values and _truth(values[name], names[name]) != spoken:
            raise SettingsError(
                f"{names[name]}={values[name]} and its older spelling {older}={value} contradict each other",
                hint=f"unset {older}",
            )
        if name not in values:
            values[name], names[name] = value, older
    return _Level(values, names)


def _truth(word: str, source: str) -> bool:
    lowered = word.strip().lower()
    if lowered in _TRUE:
        return True
    if lowered in _FALSE:
        return False
    raise SettingsError(f"{source}={word!r} is neither yes nor no", hint="use 1, 0, true, false, yes or no")


def _mode(levels: tuple[_Level, ...]) -> tuple[Mode | None, str]:
    """Return the mode of the highest level that says one, and where it was said."""
    found: list[tuple[Mode, str]] = []
    for level in levels:
        said: dict[Mode, str] = {}
        meanings: tuple[tuple[str, Mode, Mode], ...] = (
            ("real", "real", "dry-run"),
            ("dry-run", "dry-run", "real"),
        )
        for name, if_true, if_false in meanings:
            if name in level.values:
                source = level.source(name)
                value = level.values[name]
                shown = source if source.startswith("--") else f"{source}={value}"
                said[if_true if _truth(value, source) else if_false] = shown
        if len(said) > 1:
            raise SettingsError(
                f"{' and '.join(said.values())} contradict each other", hint="say one of them"
            )
        found.extend(said.items())
    return found[0] if found else (None, "nothing was said")


def _text(levels: tuple[_Level, ...], name: str) -> str | None:
    for level in levels:
        if name in level.values:
            return level.values[name]
    return None


def _boolean(levels: tuple[_Level, ...], name: str, *, default: bool) -> bool:
    answers = [_truth(level.values[name], level.source(name)) for level in levels if name in level.values]
    return answers[0] if answers else default


def _count(levels: tuple[_Level, ...], name: str, most: int) -> int:
    """Return a number from 0 to ``most``; 0 where nothing was said."""
    answers = []
    for level in levels:
        if name in level.values:
            word = level.values[name].strip()
            if not (word.isascii() and word.isdigit() and int(word) <= most):
                raise SettingsError(
                    f"{level.source(name)}={level.values[name]!r} is not accepted",
                    hint=f"a whole number from 0 to {most}",
                )
            answers.append(int(word))
    return answers[0] if answers else 0


def _word(levels: tuple[_Level, ...], name: str, default: str | None) -> Any:
    known = _BY_NAME[name].choices or ()
    answers = []
    for level in levels:
        if name in level.values:
            word = level.values[name].strip().lower()
            if word not in known:
                raise SettingsError(
                    f"{level.source(name)}={level.values[name]!r} is not accepted", hint=nearest(word, known)
                )
            answers.append(word)
    return answers[0] if answers else default
