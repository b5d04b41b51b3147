"""Logs of writes, made up by hypothesis, and what of them a power cut leaves."""

from __future__ import annotations

import io
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_qemuvm.errors import QemuVMError
from pytest_qemuvm.host.write_log import (
    DISCARD,
    FLUSH,
    FUA,
    SECTOR,
    Entry,
    read_log,
    settled,
    surviving,
)

Request = tuple[int, int, int]
"""Sector, sectors, flags."""

writes = st.tuples(st.integers(0, 60), st.integers(1, 40), st.sampled_from([0, 0, 0, FUA, DISCARD]))
requests = st.lists(st.one_of(writes, writes, st.just((0, 0, FLUSH))), max_size=30)


def as_log(taken: list[Request]) -> bytes:
    """Return a log of requests; the n-th write's data are bytes n."""
    content = b"\0" * SECTOR
    for number, (sector, sectors, flags) in enumerate(taken):
        content += struct.pack("<QQQQ", sector, sectors, flags, 0).ljust(SECTOR, b"\0")
        content += b"" if flags & DISCARD else bytes([number % 255 + 1]) * (sectors * SECTOR)
    return content


def shapes(entries: list[Entry]) -> list[Request]:
    return [(entry.sector, entry.sectors, entry.flags) for entry in entries]


@given(requests)
def test_a_log_is_read_as_it_was_written(taken: list[Request]) -> None:
    content = as_log(taken)
    entries, whole = read_log(io.BytesIO(content))
    assert whole
    assert shapes(entries) == taken
    for number, entry in enumerate(entries):
        if entry.sectors and not entry.flags & DISCARD:
            assert content[entry.at] == content[entry.at + entry.sectors * SECTOR - 1] == number % 255 + 1


@given(requests, st.data())
def test_a_log_that_ends_early_is_read_up_to_there(taken: list[Request], data: st.DataObject) -> None:
    content = as_log(taken)
    length = data.draw(st.integers(0, len(content)))
    entries, whole = read_log(io.BytesIO(content[:length]))
    found = shapes(entries)
    assert whole
    assert found == taken[: len(found)]
    assert len(as_log(taken[: len(found)])) <= max(length, SECTOR)


def test_what_is_no_log_is_refused() -> None:
    with pytest.raises(QemuVMError):
        read_log(io.BytesIO(b"\xff" * 4096))


@given(requests, st.integers())
def test_what_was_flushed_survives_always_and_in_its_order(taken: list[Request], seed: int) -> None:
    entries, _ = read_log(io.BytesIO(as_log(taken)))
    durable, volatile = settled(entries)
    last = max((number for number, each in enumerate(taken) if each[2] & FLUSH), default=-1)
    safe = [each for number, each in enumerate(taken) if each[1] and (number < last or each[2] & FUA)]
    assert shapes(durable) == safe
    everything = [each for each in taken if each[1]]
    assert shapes(surviving(entries, "none", "")[0]) == safe
    assert shapes(surviving(entries, "all", "")[0]) == everything
    left, kept, lost = surviving(entries, "random", str(seed))
    assert surviving(entries, "random", str(seed)) == (left, kept, lost)
    assert kept + lost == len(volatile)
    assert len(left) == len(durable) + kept
    positions = [entries.index(entry) for entry in left]
    assert positions == sorted(positions)
    assert {id(entry) for entry in durable} <= {id(entry) for entry in left}


def test_chance_leaves_and_loses() -> None:
    entries, _ = read_log(io.BytesIO(as_log([(number, 1, 0) for number in range(64)])))
    outcomes = {tuple(shapes(surviving(entries, "random", str(seed))[0])) for seed in range(8)}
    assert len(outcomes) == 8
    assert all(0 < len(left) < 64 for left in outcomes)


@given(requests, requests)
def test_a_hole_is_noticed_and_what_follows_it_is_not_believed(
    one: list[Request], two: list[Request]
) -> None:
    content = as_log(one) + b"\0" * SECTOR + as_log(two)[SECTOR:]
    entries, whole = read_log(io.BytesIO(content))
    assert not whole
    assert shapes(entries) == one
