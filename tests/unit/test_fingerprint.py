"""Whether a setup is the same as the last time."""

import functools
import os
import threading
from pathlib import Path

import pytest

from pytest_qemuvm.errors import SpecError
from pytest_qemuvm.spec.fingerprint import fingerprint

SIZE = 64


def helper(vm):
    vm.run("one")


def uses_helper(vm):
    helper(vm)
    os.fspath("x")
    return SIZE


def source(text, **names):
    space = {"__name__": "made", **names}
    exec(text, space)  # modules of test suites, two versions of each
    return space["setup"]


def closing_over(value):
    def setup(vm):
        vm.run(value)

    return setup


def test_the_same_is_the_same():
    text = "def setup(vm):\n    vm.run('a')\n"
    assert fingerprint(source(text)) == fingerprint(source("# a line above\n\n" + text))
    assert fingerprint(["a", "b"]) == fingerprint(["a", "b"])
    assert fingerprint(closing_over("x")) == fingerprint(closing_over("x"))
    assert fingerprint(uses_helper) == fingerprint(uses_helper)
    assert fingerprint({"a", "b", "c"}) == fingerprint({"c", "b", "a"})


CHANGES = {
    "a command": ("a", "b"),
    "where one ends": (["ab", "c"], ["a", "bc"]),
    "a number for its text": ([1], ["1"]),
    "a constant": (source("def setup(vm): vm.run('a')"), source("def setup(vm): vm.run('b')")),
    "a method": (source("def setup(vm): vm.run('a')"), source("def setup(vm): vm.ran('a')")),
    "a default": (source("def setup(vm, n=1): pass"), source("def setup(vm, n=2): pass")),
    "a keyword's default": (source("def setup(vm, *, n=1): pass"), source("def setup(vm, *, n=2): pass")),
    "what it closes over": (closing_over("a"), closing_over("b")),
    "a path": (closing_over(Path("a")), closing_over(Path("b"))),
    "a global": (source("N = 1\ndef setup(vm): vm.run(N)"), source("N = 2\ndef setup(vm): vm.run(N)")),
    "a function it calls": (
        source("def below(vm): vm.run('a')\ndef setup(vm): below(vm)"),
        source("def below(vm): vm.run('b')\ndef setup(vm): below(vm)"),
    ),
    "a function in it": (
        source("N = 1\ndef setup(vm): return [lambda: N]"),
        source("N = 2\ndef setup(vm): return [lambda: N]"),
    ),
    "an argument": (functools.partial(helper, 1), functools.partial(helper, 2)),
}


@pytest.mark.parametrize(("one", "other"), CHANGES.values(), ids=CHANGES)
def test_a_change_shows(one, other):
    assert fingerprint(one) != fingerprint(other)


def test_what_cannot_be_told_is_refused():
    with pytest.raises(SpecError, match="nobody can tell"):
        fingerprint(closing_over(threading.Lock()))


def test_functions_that_call_each_other_come_to_an_end():
    both = "def other(vm): setup(vm)\ndef setup(vm): other(vm)"
    assert fingerprint(source(both)) == fingerprint(source(both))
