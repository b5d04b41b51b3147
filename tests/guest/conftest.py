"""Fixtures of the tests that boot the built-in guest."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest
from rawguest import BINARY, RawGuest, boot

from pytest_qemuvm.errors import GuestUnavailable
from pytest_qemuvm.guest.tiny import TinyGuest, build_tiny
from pytest_qemuvm.host.paths import cache_dir

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path


@pytest.fixture(scope="session")
def tiny() -> TinyGuest:
    """The guest, built from the kernel that this host or its cache has."""
    if shutil.which(BINARY) is None:
        pytest.skip(f"no {BINARY}")
    try:
        return build_tiny(cache_dir())
    except GuestUnavailable as error:
        pytest.skip(f"no guest: {error}")


@pytest.fixture
def start(tiny: TinyGuest, tmp_path: Path) -> Callable[..., AbstractContextManager[RawGuest]]:
    """Boot a guest of this test's own: ``with start("-device", ...) as guest``."""
    return lambda *extra, wait=True: boot(tiny, tmp_path / "qemu.log", extra, wait=wait)


@pytest.fixture(scope="module")
def guest(tiny: TinyGuest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RawGuest]:
    """One running guest for all tests of a module that leave it as they found it."""
    folder = tmp_path_factory.mktemp("guest")
    with boot(tiny, folder / "qemu.log") as running:
        yield running
