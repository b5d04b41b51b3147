"""What QEMU says when it refuses something, as exceptions."""

from __future__ import annotations

PROGRAM = "qemu-system-x86_64"
"""The name under which QEMU writes its messages."""


ID_HINT = "Identifiers consist of letters, digits, '-', '.', '_', starting with a letter."
SIZE_HINT = (
    "Optional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, peta-\nand exabytes, respectively."
)
"""What QEMU writes to stderr below a refusal, and does not say over QMP."""


class QmpRefusal(Exception):
    """A command that is answered with an error: its class and its text."""

    def __init__(self, desc: str, class_: str = "GenericError") -> None:
        super().__init__(desc)
        self.desc = desc
        self.class_ = class_


class NotModelled(QmpRefusal):
    """What QEMU knows and the simulator does not: said loudly, never answered with nothing."""

    def __init__(self, what: str) -> None:
        super().__init__(f"the simulated QEMU does not model {what}; run this against a real QEMU")


class LaunchRefusal(Exception):
    """A command line that QEMU refuses. ``line`` is what it writes to stderr; the status is 1."""

    def __init__(self, line: str, program: str = PROGRAM) -> None:
        super().__init__(line)
        self.line = f"{program}: {line}"


class LaunchNotModelled(LaunchRefusal):
    """An argument that QEMU knows and the simulator does not."""

    def __init__(self, what: str) -> None:
        super().__init__(f"the simulated QEMU does not model {what}; run this against a real QEMU")
