"""The command line as QEMU's own parser takes it apart."""

from __future__ import annotations

from pytest_qemuvm.sim.words import LaunchNotModelled, LaunchRefusal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pytest_qemuvm.sim.archive import Archive

FLAGS = frozenset(["-nodefaults", "-no-user-config", "-S", "-no-reboot", "-no-shutdown", "-enable-kvm"])
"""Modelled options without a value."""
_VALUES = """-name -machine -M -accel -cpu -smp -m -bios -kernel -initrd -append -fw_cfg -chardev -mon -serial
    -object -device -blockdev -netdev -display -sandbox -action -boot -uuid -rtc -vga"""
VALUES = frozenset(_VALUES.split())
"""Modelled options with a value."""
_PRINTED = {"-version": "version", "--version": "version", "-h": "help", "-help": "help", "--help": "help"}
_LISTS = {
    "-device": "devices", "-machine": "machines", "-M": "machines", "-cpu": "cpus", "-accel": "accelerators",
    "-object": "objects", "-netdev": "netdevs", "-chardev": "chardevs",
}  # fmt: skip
_HELP = frozenset({"help", "?"})


class Told(Exception):
    """An option that makes QEMU print something and end."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text


class Line:
    """A command line: options in order, and under their names. Raises LaunchRefusal and Told."""

    def __init__(self, arguments: list[str], recording: Archive) -> None:
        self.options: list[tuple[str, str]] = []
        self._recording = recording
        words = iter(arguments)
        for word in words:
            if not word.startswith("-") or word == "-":
                raise LaunchNotModelled(f"the image {word!r} without an option")
            name = word[1:] if word.startswith("--") else word
            if word in _PRINTED:
                raise Told(recording.get(f"printed/{_PRINTED[word]}"))
            if name in FLAGS:
                self.options.append((name, ""))
            elif name in VALUES:
                value = next(words, None)
                if value is None:
                    raise LaunchRefusal(f"{word}: requires an argument")
                self.options.append((name, value))
            elif name in self._known():
                raise LaunchNotModelled(f"the option {word}")
            else:
                raise LaunchRefusal(f"{word}: invalid option")
        self._tell()

    def _known(self) -> set[str]:
        """Return all options that this QEMU has, from its own help."""
        text = self._recording.get("printed/help")
        return {line.split()[0] for line in text.splitlines() if line.startswith("-")}

    def _tell(self) -> None:
        """Print what an option asks for, if one does."""
        for name, value in self.options:
            if name in _LISTS and value in _HELP:
                raise Told(self._recording.get(f"printed/{_LISTS[name]}"))
            driver, comma, rest = value.partition(",")
            if name == "-device" and comma and rest in _HELP:
                raise Told(self._options_of(driver))

    def _options_of(self, driver: str) -> str:
        """Return what ``-device DRIVER,help`` prints."""
        driver = self._recording.get("aliases").get(driver, driver)
        if f"device/{driver}" not in self._recording:
            raise LaunchRefusal(f"-device {driver},help: Device '{driver}' not found")
        lines = []
        for entry in self._recording.get(f"device/{driver}")["properties"]:
            text = f"  {entry['name']}=<{entry['type']}>"
            if "description" in entry:
                text = f"{text:<24} - {entry['description']}"
            if "default-value" in entry:
                default = entry["default-value"]
                shown = (
                    {True: "on", False: "off"}.get(default, default) if isinstance(default, bool) else default
                )
                text = (
                    f"{text} (default: {shown})"
                    if "description" in entry
                    else f"{text:<24} -  (default: {shown})"
                )
            lines.append(text)
        return f"{driver} options:\n" + "\n".join(sorted(lines)) + "\n"

    def all(self, name: str) -> list[str]:
        """Return the values of an option, in order."""
        return [value for option, value in self.options if option == name]

    def last(self, name: str) -> str | None:
        """Return the last value of an option, or None."""
        values = self.all(name)
        return values[-1] if values else None
