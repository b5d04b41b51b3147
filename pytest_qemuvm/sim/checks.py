"""Options that change nothing in a machine without a guest: looked at all the same, because QEMU would."""

from __future__ import annotations

import os

from pytest_qemuvm.sim.keyval import key_values
from pytest_qemuvm.sim.words import LaunchNotModelled, LaunchRefusal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pytest_qemuvm.sim.archive import Archive
    from pytest_qemuvm.sim.argv import Line

_LISTED = {
    "-name": ("name", "guest"),
    "-mon": ("mon", "chardev"),
    "-chardev": ("chardev", "backend"),
    "-rtc": ("rtc", None),
    "-fw_cfg": ("fw_cfg", "name"),
    "-sandbox": ("sandbox", "enable"),
}
"""Options whose keys QEMU lists: under which name, and the key of a first value without one."""
_SANDBOX = {"spawn": ("allow", "deny"), "resourcecontrol": ("allow", "deny"), "obsolete": ("allow", "deny")}
_SWITCHES = ("on", "off")


def check(line: Line, recording: Archive) -> None:
    """Raise LaunchRefusal for what QEMU would refuse, LaunchNotModelled for what would show itself."""
    known = {entry["option"]: entry["parameters"] for entry in recording.get("command-line-options")}
    for name, value in line.options:
        if name in _LISTED:
            listed, implied = _LISTED[name]
            names = {"id", *(parameter["name"] for parameter in known[listed])}
            for key, _ in key_values(value, implied):
                if key not in names:
                    raise LaunchRefusal(f"{name} {value}: Invalid parameter '{key}'")
        if name in _CHECKS:
            _CHECKS[name](value, known)


def _sandbox(value: str, _known: object) -> None:
    for key, setting in key_values(value, "enable"):
        if key == "enable" and setting not in _SWITCHES:
            raise LaunchRefusal(f"-sandbox {value}: Parameter 'enable' expects 'on' or 'off'")
        if key in _SANDBOX and setting not in _SANDBOX[key]:
            raise LaunchRefusal(f"-sandbox {value}: invalid argument for {key}")


def _boot(value: str, known: dict[str, list[dict[str, str]]]) -> None:
    names = {parameter["name"] for parameter in known["boot-opts"]}
    for key, setting in key_values(value, "order"):
        if key not in names:
            raise LaunchRefusal(f"Parameter 'boot.{key}' is unexpected")
        if key in {"strict", "menu"} and setting not in _SWITCHES:
            raise LaunchRefusal(f"Parameter 'boot.{key}' expects 'on' or 'off'")
        if key in {"order", "once"} and (bad := setting.strip("abcdefghijklmnop")):
            raise LaunchRefusal(f"Invalid boot device '{bad[0]}'")


def _fw_cfg(value: str, _known: object) -> None:
    given = dict(key_values(value, "name"))
    sources = given.keys() & {"file", "string", "gen_id"}
    if "name" not in given or len(sources) != 1:
        what = "name, plus exactly one of file, string and gen_id, are needed"
        raise LaunchRefusal(f"-fw_cfg {value}: {what}")
    path = given.get("file")
    if path is not None and not os.path.exists(path):
        why = f"Failed to open file “{path}”: {os.strerror(2)}"
        raise LaunchRefusal(f"-fw_cfg {value}: can't load {path}: {why}")


def _rtc(value: str, _known: object) -> None:
    base = dict(key_values(value)).get("base", "utc")
    if base in {"utc", "localtime"}:
        return
    from time import strptime

    for form in ("%Y-%m-%dT%H:%M:%S", "%Y-%m-%d"):
        try:
            strptime(base, form)
        except ValueError:
            continue
        return
    raise LaunchRefusal("invalid datetime format\nvalid formats: '2006-06-17T16:01:21' or '2006-06-17'")


def _uuid(value: str, _known: object) -> None:
    plain = value.lower().replace("-", "")
    if len(plain) != 32 or plain.strip("0123456789abcdef"):
        raise LaunchRefusal(f"-uuid {value}: failed to parse UUID string: wrong format")


def _vga(value: str, _known: object) -> None:
    if value != "none":
        raise LaunchNotModelled(f"-vga {value}")


_CHECKS = {
    "-sandbox": _sandbox,
    "-boot": _boot,
    "-fw_cfg": _fw_cfg,
    "-rtc": _rtc,
    "-uuid": _uuid,
    "-vga": _vga,
}
