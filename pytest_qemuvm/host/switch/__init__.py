"""The switch: networks between machines in user space. ``docs/architecture.md`` says how it works."""

from pytest_qemuvm.host.switch.handles import Capture, Port, Rule
from pytest_qemuvm.host.switch.jack import Counters
from pytest_qemuvm.host.switch.segment import Segment
from pytest_qemuvm.host.switch.services import Service, Services
from pytest_qemuvm.host.switch.switchboard import Switchboard

__all__ = ["Capture", "Counters", "Port", "Rule", "Segment", "Service", "Services", "Switchboard"]
