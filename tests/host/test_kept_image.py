"""Overlays that know every sector, made of any changes, and judged by qemu-img."""

from __future__ import annotations

import io
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytest_qemuvm.host.kept_image import CLUSTER, KeptImage
from pytest_qemuvm.host.write_log import DISCARD, SECTOR, Entry

if TYPE_CHECKING:
    from collections.abc import Sequence

SIZE = 48 << 20
"""Three L2 tables."""
SECTORS = SIZE // SECTOR
Change = tuple[int, int, int]
"""Sector, sectors, byte; -1: a discard."""

spots = st.one_of(
    st.integers(0, 100),
    st.integers(SECTORS - 100, SECTORS - 90),
    st.sampled_from([32767, 32768, 32760, 65000]),
)
changes = st.lists(st.tuples(spots, st.integers(1, 90), st.integers(-1, 4)), max_size=12)


def qemu_img(*args: object) -> str:
    done = subprocess.run(["qemu-img", *map(str, args)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def as_entries(given: Sequence[Change]) -> tuple[list[Entry], io.BytesIO]:
    entries, log = [], io.BytesIO()
    for sector, sectors, byte in given:
        at = log.tell()
        log.write(bytes([max(byte, 0)]) * (sectors * SECTOR))
        entries.append(Entry(sector, sectors, DISCARD if byte < 0 else 0, at))
    return entries, log


def apply(content: bytearray, given: Sequence[Change]) -> None:
    for sector, sectors, byte in given:
        content[sector * SECTOR : (sector + sectors) * SECTOR] = bytes([max(byte, 0)]) * (sectors * SECTOR)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(changes, changes)
def test_it_holds_what_was_written_over_what_lies_below(first: list[Change], second: list[Change]) -> None:
    with tempfile.TemporaryDirectory() as name:
        base, path, flat = (Path(name) / each for each in ("base.raw", "kept.qcow2", "flat.raw"))
        content = bytearray(b"\x77" * SIZE)
        base.write_bytes(content)
        for changes_of_run, mode in ((first, "x+b"), (second, "r+b")):
            entries, log = as_entries(changes_of_run)
            apply(content, changes_of_run)
            with path.open(mode) as file:
                image = KeptImage(file) if mode == "x+b" else KeptImage.reopened(file)
                image.apply(entries, log)
                image.finish(SIZE, str(base), "raw")
            assert "No errors" in qemu_img("check", path)
            qemu_img("convert", "-O", "raw", path, flat)
            assert flat.read_bytes() == content


def test_a_sector_takes_a_cluster_and_zeros_none(tmp_path: Path) -> None:
    base, path = tmp_path / "base.raw", tmp_path / "kept.qcow2"
    with base.open("wb") as file:
        file.truncate(SIZE)
    entries, log = as_entries([(5, 1, 1), (64, 4096, 0), (9000, 4096, -1)])
    with path.open("x+b") as file:
        image = KeptImage(file)
        image.apply(entries, log)
        image.finish(SIZE, str(base), "raw")
    # The header, the sector's cluster, an L2 table, the L1 table, refcounts and their table.
    assert path.stat().st_size == 6 * CLUSTER
    assert "No errors" in qemu_img("check", path)
