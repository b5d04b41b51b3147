"""What the tests of disks share."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

MKFS = "mkfs.ext4"


@pytest.fixture
def ext4_image(tmp_path: Path) -> Path:
    """Return a raw image with an empty ext4, journal included, which the guest's busybox cannot make."""
    if shutil.which(MKFS) is None:
        pytest.skip(f"{MKFS} is not installed here")
    path = tmp_path / "ext4.img"
    with path.open("wb") as file:
        file.truncate(32 << 20)
    subprocess.run([MKFS, "-q", "-F", path], check=True, capture_output=True)
    return path
