"""Whether a processor is idle, from what the kernel says."""

import pytest

from pytest_qemuvm.host import idle

TEXT = """\
cpu  100 0 100 {total} 7 0 0 0 0 0
cpu0 50 0 50 {first} 3 0 0 0 0 0
cpu1 50 0 50 {second} 4 0 0 0 0 0
cpu10 50 0 50 9000 0 0 0 0 0 0
intr 12345
"""


def text(first, second):
    return TEXT.format(total=first + second + 9000, first=first, second=second)


def test_only_the_processors_that_we_may_use_count():
    assert idle.idle_ticks(text(100, 200), {0}) == 103
    assert idle.idle_ticks(text(100, 200), {0, 1}) == 307
    assert idle.idle_ticks(text(100, 200), {2}) == 0
    assert idle.idle_ticks("", {0}) == 0


TICKS = 10
"""In a window of the test's: 0.1 s at 100 Hz."""


@pytest.fixture
def host(monkeypatch):
    """A host of two processors on which time passes when it is told to."""

    class Host:
        now = 0.0
        idle = (0, 0)

        def pause_with(self, first, second, seconds=TICKS / 100):
            def pause(_seconds):
                self.now += seconds
                self.idle = (self.idle[0] + first, self.idle[1] + second)

            return pause

    host = Host()
    monkeypatch.setattr(idle.os, "sched_getaffinity", lambda _pid: {0, 1})
    monkeypatch.setattr(idle.os, "sysconf", lambda _name: 100)
    monkeypatch.setattr(idle.time, "monotonic", lambda: host.now)
    monkeypatch.setattr(idle, "_read", lambda: text(*host.idle))
    return host


@pytest.mark.parametrize(
    ("first", "second", "spare"),
    [(TICKS, 0, True), (0, TICKS - 1, True), (4, 5, True), (4, 3, False), (0, 0, False), (TICKS, 9, True)],
)
def test_a_processor_is_to_spare_where_so_much_was_idle(host, first, second, spare):
    assert idle.has_spare_processor(host.pause_with(first, second)) is spare


def test_a_window_that_was_cut_short_says_nothing(host):
    assert not idle.has_spare_processor(host.pause_with(TICKS, TICKS, seconds=0.01))


def test_where_the_kernel_says_nothing_there_is_none(host, monkeypatch, tmp_path):
    monkeypatch.undo()
    monkeypatch.setattr(idle, "STAT", tmp_path / "none")
    waited = []
    assert not idle.has_spare_processor(waited.append)
    assert waited == [idle.WINDOW]


def test_this_kernel_says_something():
    import os

    assert idle.idle_ticks(idle.STAT.read_text(), os.sched_getaffinity(0)) > 0
