"""Images of our own writing, judged by qemu-img."""

import json
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_qemuvm.errors import QemuVMError, SpecError
from pytest_qemuvm.host.images import grow_image, make_image, virtual_size
from pytest_qemuvm.plan import ImagePlan


def qemu_img(*args):
    done = subprocess.run(["qemu-img", *map(str, args)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def info(path):
    return json.loads(qemu_img("info", "--output=json", path))


@settings(max_examples=25, deadline=None)
@given(sectors=st.one_of(st.integers(1, 2**20), st.integers(1, 2**35)))
def test_an_empty_qcow2_passes_qemu_imgs_check(tmp_path_factory, sectors):
    path = tmp_path_factory.mktemp("image") / "disk.qcow2"
    make_image(ImagePlan(str(path), "qcow2", sectors * 512), path)
    assert "No errors" in qemu_img("check", path)
    assert info(path)["virtual-size"] == sectors * 512 == virtual_size(str(path), "qcow2")


@pytest.mark.parametrize("backing_format", ["raw", "qcow2"])
def test_an_overlay_has_its_backings_size_and_names_its_format(tmp_path, backing_format):
    backing, path = tmp_path / "back, ing.img", tmp_path / "disk.qcow2"
    qemu_img("create", "-f", backing_format, backing, "3M")
    make_image(ImagePlan(str(path), "qcow2", None, str(backing), backing_format), path)
    assert "No errors" in qemu_img("check", path)
    found = info(path)
    assert found["virtual-size"] == 3 * 1024**2
    assert found["backing-filename"] == str(backing)
    assert found["backing-filename-format"] == backing_format


def test_writes_go_to_the_overlay_and_the_backing_stays_as_it_was(tmp_path):
    backing, path = tmp_path / "backing.raw", tmp_path / "disk.qcow2"
    backing.write_bytes(b"x" * 1024**2)
    make_image(ImagePlan(str(path), "qcow2", None, str(backing), "raw"), path)
    subprocess.run(["qemu-io", "-c", "write -P 7 0 64k", path], check=True, capture_output=True)
    subprocess.run(["qemu-io", "-c", "read -P 120 64k 64k", path], check=True, capture_output=True)
    assert backing.read_bytes() == b"x" * 1024**2
    assert "No errors" in qemu_img("check", path)


def test_a_raw_image_is_as_long_as_its_disk_and_takes_no_space(tmp_path):
    path = tmp_path / "disk.raw"
    make_image(ImagePlan(str(path), "raw", 1024**3), path)
    assert path.stat().st_size == 1024**3
    assert path.stat().st_blocks == 0
    assert info(path)["virtual-size"] == 1024**3


def test_an_image_that_is_not_what_its_format_says_is_refused_and_nothing_left(tmp_path):
    backing, path = tmp_path / "backing.img", tmp_path / "disk.qcow2"
    backing.write_bytes(b"not a qcow2 image" * 100)
    with pytest.raises(SpecError):
        make_image(ImagePlan(str(path), "qcow2", None, str(backing), "qcow2"), path)
    assert not path.exists()


def test_a_directory_that_is_not_there_is_a_typed_error(tmp_path):
    path = tmp_path / "nowhere" / "disk.qcow2"
    with pytest.raises(QemuVMError):
        make_image(ImagePlan(str(path), "qcow2", 512), path)


def test_a_file_that_is_there_is_never_overwritten(tmp_path):
    path = tmp_path / "disk.raw"
    path.write_text("mine")
    with pytest.raises(QemuVMError):
        make_image(ImagePlan(str(path), "raw", 512), path)
    assert path.read_text() == "mine"


def test_a_disk_that_is_full_is_a_typed_error_and_leaves_no_half_image(tmp_path):
    import resource

    path = tmp_path / "disk.qcow2"
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limit[1]))  # Python ignores SIGXFSZ: the write fails
    try:
        with pytest.raises(QemuVMError):
            make_image(ImagePlan(str(path), "qcow2", 1024**2), path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert not path.exists()


def test_a_backing_path_that_qcow2_cannot_hold_is_refused(tmp_path):
    deep = tmp_path
    for _ in range(6):
        deep /= "d" * 200
    deep.mkdir(parents=True)
    backing, path = deep / "backing.raw", tmp_path / "disk.qcow2"
    backing.write_bytes(bytes(512))
    with pytest.raises(SpecError):
        make_image(ImagePlan(str(path), "qcow2", None, str(backing), "raw"), path)
    assert not path.exists()


def told(path):
    """Return what qemu-img says of an image, without what its file is called and takes on the disk."""
    differs = ("filename", "actual-size", "children")
    return {key: value for key, value in info(path).items() if key not in differs}


def written(path, at):
    subprocess.run(["qemu-io", "-c", f"write -P 7 {at} 64k", path], check=True, capture_output=True)


@settings(max_examples=15, deadline=None)
@given(before=st.integers(1, 2**33), more=st.integers(0, 2**33 - 1))
def test_a_qcow2_grows_as_qemu_img_would_have_it(tmp_path_factory, before, more):
    ours = tmp_path_factory.mktemp("image") / "ours.qcow2"
    theirs = ours.with_name("theirs.qcow2")
    size = (before + more) * 512
    make_image(ImagePlan(str(ours), "qcow2", before * 512), ours)
    qemu_img("create", "-q", "-f", "qcow2", theirs, before * 512)
    grow_image(ours, "qcow2", size)
    qemu_img("resize", "-q", theirs, size)
    assert "No errors" in qemu_img("check", ours)
    assert told(ours) == told(theirs)
    assert told(ours)["virtual-size"] == size == virtual_size(str(ours), "qcow2")


def test_what_was_written_is_there_after_growing_and_what_is_new_is_empty(tmp_path, monkeypatch):
    path, same = tmp_path / "disk.qcow2", tmp_path / "same.qcow2"
    make_image(ImagePlan(str(path), "qcow2", 1024**2), path)
    written(path, 0)
    qemu_img("create", "-q", "-f", "qcow2", same, "3G")
    written(same, 0)
    with monkeypatch.context() as patch:
        patch.setenv("PATH", str(tmp_path))  # there is no qemu-img
        grow_image(path, "qcow2", 3 * 1024**3)
    assert "Images are identical" in qemu_img("compare", "-s", path, same)
    assert "No errors" in qemu_img("check", path)
    written(path, "2G")


def test_an_image_that_another_process_has_open_is_not_made_larger(tmp_path):
    path = tmp_path / "disk.qcow2"
    make_image(ImagePlan(str(path), "qcow2", 1024**2), path)
    with subprocess.Popen(
        ["qemu-io", path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        other.stdin.write("info\n")
        other.stdin.flush()
        other.stdout.readline()
        with pytest.raises(QemuVMError):
            grow_image(path, "qcow2", 2 * 1024**2)
        other.stdin.close()
    assert virtual_size(str(path), "qcow2") == 1024**2


def test_an_image_with_snapshots_is_left_to_qemu_img(tmp_path, monkeypatch):
    path = tmp_path / "disk.qcow2"
    make_image(ImagePlan(str(path), "qcow2", 1024**2), path)
    qemu_img("snapshot", "-c", "before", path)
    with monkeypatch.context() as patch:
        patch.setenv("PATH", str(tmp_path))
        with pytest.raises(QemuVMError):
            grow_image(path, "qcow2", 2 * 1024**2)
    grow_image(path, "qcow2", 2 * 1024**2)
    assert info(path)["virtual-size"] == 2 * 1024**2
    assert [each["name"] for each in info(path)["snapshots"]] == ["before"]


@pytest.mark.parametrize("backing_format", [None, "raw", "qcow2"])
def test_qemu_img_sees_no_difference_to_an_image_of_its_own(tmp_path, backing_format):
    ours, theirs = tmp_path / "ours.qcow2", tmp_path / "theirs.qcow2"
    backing = tmp_path / "backing.img"
    chain = []
    if backing_format is not None:
        qemu_img("create", "-q", "-f", backing_format, backing, "3M")
        chain = ["-b", backing, "-F", backing_format]
    size = None if backing_format else 3 * 1024**2
    plan = ImagePlan(str(ours), "qcow2", size, str(backing) if chain else None, backing_format)
    make_image(plan, ours)
    qemu_img("create", "-q", "-f", "qcow2", *chain, theirs, "3M")

    assert told(ours) == told(theirs)
    assert "Images are identical" in qemu_img("compare", "-s", ours, theirs)


def test_a_copy_has_the_same_content_and_holes(tmp_path):
    source, copy = tmp_path / "source", tmp_path / "copy"
    with source.open("wb") as file:
        for at in (0, 3 << 20, (40 << 20) - 5):
            file.seek(at)
            file.write(b"data!")
        file.truncate(50 << 20)
    make_image(ImagePlan(str(copy), "raw", None, copy_of=str(source)), copy)
    assert copy.read_bytes() == source.read_bytes()
    assert copy.stat().st_blocks <= source.stat().st_blocks
    with pytest.raises(QemuVMError):
        make_image(ImagePlan(str(copy), "raw", None, copy_of=str(source)), copy)
    assert copy.read_bytes() == source.read_bytes()
    with pytest.raises(QemuVMError):
        make_image(ImagePlan("other", "raw", None, copy_of=str(tmp_path / "none")), tmp_path / "other")
    assert not (tmp_path / "other").exists()
