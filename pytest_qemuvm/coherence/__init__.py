"""The coherence check: records, files, processes and QEMU's own graph agree, or there is a finding.

Facts are collected once into frozen values, rules compare them, and nothing here knows who asks or why.
"""

from pytest_qemuvm.coherence.collect import Collector, FactCollector, Machine, Scene
from pytest_qemuvm.coherence.facts import Facts, Graph, Ledger
from pytest_qemuvm.coherence.finding import HINTS, KINDS, Finding, checked_kind
from pytest_qemuvm.coherence.rules import BUILT_IN, Rule, apply, known_kinds

__all__ = [
    "BUILT_IN",
    "HINTS",
    "KINDS",
    "Collector",
    "FactCollector",
    "Facts",
    "Finding",
    "Graph",
    "Ledger",
    "Machine",
    "Rule",
    "Scene",
    "apply",
    "checked_kind",
    "known_kinds",
]
