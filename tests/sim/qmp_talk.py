"""One conversation with a QEMU, real or simulated, written down so that two can be compared."""

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest_qemuvm

ROOT = Path(pytest_qemuvm.__file__).parent
SIMULATOR = (sys.executable, "-I", "-S", "-E", str(ROOT / "sim" / "qemu_main.py"))
SECONDS = 20.0
LEAN = ("-no-user-config", "-nodefaults", "-display", "none", "-accel", "tcg,tb-size=32")

HALT = bytearray(64 * 1024)
HALT[0xFFF0:0xFFF4] = b"\xfa\xf4\xeb\xfd"
"""A firmware that stops the processor at once."""


class Talk:
    """A QEMU on one end of a socket pair."""

    def __init__(self, program, arguments, version=None):
        ours, theirs = socket.socketpair()
        ours.settimeout(SECONDS)
        environment = dict(os.environ)
        if version is not None:
            environment["QEMUVM_SIM_VERSION"] = version
        monitor = ("-chardev", f"socket,id=qmp,fd={theirs.fileno()}", "-mon", "chardev=qmp,mode=control")
        self.process = subprocess.Popen(
            [*program, *arguments, *monitor],
            pass_fds=(theirs.fileno(),),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=environment,
        )
        theirs.close()
        self.socket = ours
        self._rest = b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.communicate()
        self.socket.close()

    def send(self, data):
        self.socket.sendall(data)

    def receive(self):
        """Return the next message, or None at the end of the connection."""
        while b"\r\n" not in self._rest:
            chunk = self.socket.recv(1 << 16)
            if not chunk:
                return None
            self._rest += chunk
        line, _, self._rest = self._rest.partition(b"\r\n")
        return json.loads(line)

    def negotiate(self):
        greeting = self.receive()
        self.send(b'{"execute":"qmp_capabilities"}')
        self.receive()
        return greeting


def converse(talk, steps, normal):
    """Carry out the steps of a scenario; return for each what came, in wire order."""
    outcomes = []
    for step in steps:
        talk.send(step["raw"].encode() if "raw" in step else json.dumps(command_of(step)).encode())
        came, awaited = [], list(step.get("await", ()))
        replies = step.get("replies", 1)
        while replies or awaited:
            message = talk.receive()
            if message is None:
                came.append("(end)")
                break
            came.append(normal(message))
            if "event" not in message:
                replies -= 1
            elif message["event"] in awaited:
                awaited.remove(message["event"])
        outcomes.append(came)
    return outcomes


def command_of(step):
    return {"execute": step["execute"], "arguments": step.get("arguments", {})}


UNORDERED = {"name", "label", "cpu-max"}
"""Members of the entries of lists that have no order: of objects, character devices and machine types."""


def normaliser(directory):
    """Return a function that takes out of a message what differs from run to run."""

    def normal(value, key=None):
        if isinstance(value, dict):
            return {
                name: normal(each, name)
                for name, each in sorted(value.items())
                if name not in ("timestamp", "thread-id", "actual-size")
            }
        if isinstance(value, list):
            found = [normal(each, key) for each in value]
            # QEMU keeps these in hash tables, or in an order that is nobody's promise.
            if key == "return" and found and isinstance(found[0], dict) and found[0].keys() & UNORDERED:
                found.sort(key=json.dumps)
            return found
        if isinstance(value, str):
            value = value.replace(str(directory), "{dir}")
            value = re.sub(r"#block\d+", "#block", value)
            return re.sub(r"(HOST_FORWARD\]\s+)\d+(\s+[\d.]+\s+)\d+", r"\1FD\2PORT", value)
        if key == "fd":
            return "FD"
        return value

    return normal
