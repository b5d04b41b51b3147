"""A cache may be missing, damaged or read-only: that costs time, never correctness."""

from __future__ import annotations

import json

import pytest

from pytest_qemuvm.host import probe_cache

KEY = {"inode": 7, "names": ["a", "b"]}


def test_what_was_stored_is_loaded(tmp_path):
    probe_cache.store(tmp_path / "new" / "cache", "x", KEY, {"a": 1})
    assert probe_cache.load(tmp_path / "new" / "cache", "x", KEY) == {"a": 1}


def test_another_key_has_no_answer(tmp_path):
    probe_cache.store(tmp_path, "x", KEY, {"a": 1})
    assert probe_cache.load(tmp_path, "x", {**KEY, "inode": 8}) is None


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b"null",
        b'{"key": 1}',
        b"[" * 100_000,
        json.dumps({"key": KEY, "answer": [1]}).encode(),
    ],
)
def test_a_damaged_file_is_no_answer_and_is_made_anew(tmp_path, damage):
    probe_cache.store(tmp_path, "x", KEY, {"a": 1})
    (tmp_path / "probes" / "x.json").write_bytes(damage)
    assert probe_cache.load(tmp_path, "x", KEY) is None
    probe_cache.store(tmp_path, "x", KEY, {"a": 2})
    assert probe_cache.load(tmp_path, "x", KEY) == {"a": 2}


def test_only_the_answer_is_left_in_the_directory(tmp_path):
    probe_cache.store(tmp_path, "x", KEY, {"a": 1})
    assert [file.name for file in (tmp_path / "probes").iterdir()] == ["x.json"]


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path):
    (tmp_path / "probes").write_text("a file where the directory should be")
    probe_cache.store(tmp_path, "x", KEY, {"a": 1})
    assert probe_cache.load(tmp_path, "x", KEY) is None
