"""What lies beside a folder that is saved, or is written into it, and belongs to somebody else."""

import os
import threading

import numpy as np
import pytest
from test_durability import MARK, gallery_of

from sfpose import FaceEmbedder, TemplateGallery, TemplateVerifier
from sfpose.bundle import VerificationBundle
from sfpose.runtime.files import whole_file
from sfpose.runtime.folders import changing_folder, read_whole, write_folder, write_zip


def test_a_file_of_a_longer_name_can_be_written_while_a_gallery_is_saved(tmp_path):
    """As ``sfpose embed --out people.npz`` does beside a gallery of people."""
    with whole_file(tmp_path / "people.npz") as part:
        gallery_of("ann").save(tmp_path / "people")
        part.write_bytes(b"descriptors")
    assert (tmp_path / "people.npz").read_bytes() == b"descriptors"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["people", "people.npz"]


@pytest.mark.parametrize("name", ["door", "door.v2"])
def test_a_folder_can_be_written_while_a_file_is(tmp_path, name):
    """A writer of a folder holds the lock of its part too, so that nobody takes it for left."""

    def change(_):
        with whole_file(tmp_path / "door") as part:
            part.write_bytes(b"a file")
        (tmp_path / "door").unlink()
        return {"mark": MARK}

    with changing_folder(tmp_path / name, marker="mark") as (place, files):
        files.update(change(place))
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name / "mark").read_bytes() == MARK


@pytest.mark.parametrize("kind", ["folder", "zip"])
@pytest.mark.parametrize(
    "name",
    [
        ".people.mine.part",
        ".people.thesis00.part",
        ".people.0123456789ABCDEF.part",
        ".people.v2.0123456789abcdef.part",
        ".people.0123456789abcdef.part.old",
        ".people2.0123456789abcdef.part",
    ],
)
def test_folders_of_others_stay(tmp_path, kind, name):
    mine = tmp_path / name / "thesis.txt"
    mine.parent.mkdir()
    mine.write_text("mine")
    for _ in range(2):
        if kind == "folder":
            gallery_of("ann").save(tmp_path / "people", overwrite=True)
        else:
            write_zip(tmp_path / "people", {"mark": MARK}, overwrite=True, marker="mark")
    with whole_file(tmp_path / "people.txt") as part:
        part.write_text("text")
    assert mine.read_text() == "mine"


@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize("link", [False, True])
def test_a_folder_of_somebody_else_is_not_taken_for_the_version_before(tmp_path, there, link):
    path = tmp_path / "people"
    if there:
        gallery_of("ann").save(path)
    previous = tmp_path / ".people.previous"
    mine = (tmp_path / "elsewhere" if link else previous) / "thesis.txt"
    mine.parent.mkdir()
    mine.write_text("mine")
    if link:
        previous.symlink_to(mine.parent)
    with pytest.raises(FileExistsError, match=r"must be a version of 'people' .*: move it away"):
        gallery_of("bo").save(path, overwrite=True)
    assert mine.read_text() == "mine"
    assert previous.exists()
    assert path.exists() == there
    previous.rename(tmp_path / "thesis")
    gallery_of("bo").save(path, overwrite=True)
    assert list(TemplateGallery.load(path)) == ["bo"]


def test_what_a_living_writer_prepares_is_left_alone(tmp_path):
    """Even if it is of the same name: two that know nothing of each other's lock."""
    parts = []

    def change(_):
        parts.extend(tmp_path.iterdir())
        with whole_file(tmp_path / "one") as part:
            part.write_text("a file")
            assert parts[0].is_dir()
        (tmp_path / "one").unlink()
        return {"mark": MARK}

    write_folder(tmp_path / "one", {"mark": MARK}, overwrite=False, marker="mark")
    (tmp_path / "one").rename(tmp_path / "two")
    (tmp_path / "two" / "mark").unlink()
    (tmp_path / "two").rmdir()
    with changing_folder(tmp_path / "one", marker="mark") as (place, files):
        files.update(change(place))
    assert len(parts) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["one"]


def test_a_folder_that_something_else_writes_into_all_the_time_can_be_read(tmp_path):
    """A lock file, a file manager, a backup: the files that are read stay the same."""
    path = gallery_of(*map(str, range(2000))).save(tmp_path / "people")
    stop = threading.Event()

    def touch():
        while not stop.is_set():
            (path / ".lock").touch()
            (path / ".lock").unlink()

    other = threading.Thread(target=touch)
    other.start()
    try:
        versions = []

        def read(folder):
            versions.append(folder.stat().st_mtime_ns)
            while folder.stat().st_mtime_ns == versions[-1]:
                pass
            return (folder / "ids.json").read_bytes()

        assert read_whole(path, read) == (path / "ids.json").read_bytes()
        assert len(versions) == 1
        assert len(TemplateGallery.load(path)) == 2000
    finally:
        stop.set()
        other.join()


def test_a_folder_that_is_replaced_again_and_again_is_told(tmp_path):
    path = write_folder(tmp_path / "one", {"mark": MARK}, overwrite=False, marker="mark")
    reads = []

    def read(folder):
        reads.append(folder)
        write_folder(path, {"mark": MARK}, overwrite=True, marker="mark")

    with pytest.raises(OSError, match="must not be replaced while it is read; it was, 100 times"):
        read_whole(path, read)
    assert len(reads) == 100


LOADS = {
    "gallery": TemplateGallery.load,
    "bundle": VerificationBundle.load,
    "artifact": lambda path: FaceEmbedder(path).artifact,
}
BAD_PATHS = ["", "/", "x/" * 300, "a\0b", "a" * 233, "ä" * 117, "a" * 5000, "\ud800", "\udc80\0"]


@pytest.mark.parametrize("path", BAD_PATHS, ids=ascii)
@pytest.mark.parametrize("kind", LOADS)
def test_paths_that_lead_nowhere_are_told(kind, path):
    with pytest.raises(ValueError, match="must lead to a name of 1 to 232 bytes"):
        LOADS[kind](path)


def _change(path, *, overwrite):
    with TemplateGallery.changing(path) as gallery:
        gallery.add(["bo"], np.ones((1, 4)))


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("path", BAD_PATHS, ids=ascii)
def test_nothing_is_saved_to_a_path_that_leads_nowhere(tmp_path, monkeypatch, path, overwrite):
    gallery_of("ann").save(tmp_path / "people")
    before = {file.name: file.read_bytes() for file in (tmp_path / "people").iterdir()}
    monkeypatch.chdir(tmp_path / "people")
    bundle = VerificationBundle(FaceEmbedder("plain"), TemplateVerifier(0.01, weights="plain"))
    for save in (gallery_of("bo").save, FaceEmbedder("plain").save, bundle.save, _change):
        with pytest.raises(ValueError, match="must lead to a name of 1 to 232 bytes"):
            save(path, overwrite=overwrite)
    assert {file.name: file.read_bytes() for file in (tmp_path / "people").iterdir()} == before
    assert [left.name for left in tmp_path.iterdir()] == ["people"]


def test_names_as_long_as_they_may_be_are_saved_and_loaded(tmp_path):
    for name in ("a" * 232, "ä" * 116):
        path = tmp_path / name
        for _ in range(2):
            gallery_of("ann").save(path, overwrite=True)
        assert list(TemplateGallery.load(path)) == ["ann"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no pipes")
def test_what_is_no_file_is_not_replaced_by_one(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with (
        pytest.raises(FileExistsError, match="what is replaced must be an ordinary file"),
        whole_file(tmp_path / "pipe") as part,
    ):
        part.write_text("never")
    assert (tmp_path / "pipe").is_fifo()
