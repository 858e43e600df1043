"""Writers that are killed, run out of disk, lack permissions or meet each other.

The runs themselves are those of benchmarks/reliability.py, with small numbers.
"""

import errno
import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest

from sfpose import FaceEmbedder, TemplateGallery, TemplateVerifier
from sfpose._gallery_files import gallery_files
from sfpose.bundle import VerificationBundle
from sfpose.cli import main
from sfpose.runtime.files import whole_file
from sfpose.runtime.folders import changing_folder, read_whole, write_folder

MARK = b'{"format": "test"}'

RELIABILITY = Path(__file__).resolve().parents[2] / "benchmarks" / "reliability.py"

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the runs need fork and Linux")


def _run(*words):
    done = subprocess.run(
        [sys.executable, str(RELIABILITY), *map(str, words)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("kind", ["gallery", "artifact", "checkpoint", "bundle"])
def test_a_save_that_is_stopped_keeps_the_old_or_the_new_and_no_more(kind):
    """Killed at random moments and at every step, a full disk, a folder without permissions."""
    if kind == "checkpoint" and importlib.util.find_spec("torch") is None:
        pytest.skip("checkpoints need torch")
    result = _run("saving", kind)
    assert result["lost"] == []
    random, everywhere = result["kill"], result["kill-everywhere"]
    assert random["kills"] == random["old version"] + random["new version"] == 12
    assert everywhere["kills"] >= {"checkpoint": 3, "bundle": 6}.get(kind, 10)
    assert everywhere["old version"] >= 2
    assert everywhere["new version"] >= 1  # at least the last run, which nothing stops
    assert everywhere["left over after the next save"] == []
    assert "Permission denied" in result["read-only"]["message"]
    assert all("is as it was" in text for text in result["full"]["messages"])


def test_several_writers_wait_for_each_other_and_readers_see_one_version():
    result = _run("writers", "--seconds", 3)
    assert result["saves"] >= 8
    assert result["loads"] >= 1
    assert result["saves that failed"] == 0
    assert result["lost"] == result["left over"] == []


def test_workers_that_are_killed_under_load_lose_no_request():
    pytest.importorskip("skimage", reason="the pictures come from scikit-image")
    load = RELIABILITY.with_name("load.py")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", load, "--seconds", "3", "--workers", "2", "--kill"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "wrong or lost 0" in done.stdout
    assert "killed 0" not in done.stdout


@pytest.mark.parametrize("locks", [True, False])
def test_where_there_are_no_locks_a_second_writer_fails_cleanly(tmp_path, monkeypatch, locks):
    """Both have seen that nothing is there; the slower one must not destroy anything."""
    failures = []
    if not locks:
        monkeypatch.setitem(sys.modules, "fcntl", None)
        together, replace = threading.Barrier(2), os.replace

        def meet(source, target):
            together.wait(timeout=20)
            replace(source, target)

        monkeypatch.setattr("sfpose.runtime.folders.os.replace", meet)

    def write(value):
        try:
            contents = {"mark": MARK, "value": value}
            write_folder(tmp_path / "one", contents, overwrite=True, marker="mark")
        except OSError as error:
            failures.append(str(error))

    writers = [threading.Thread(target=write, args=(value,)) for value in (b"a" * 9, b"b" * 9)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert (tmp_path / "one" / "value").read_bytes() in (b"a" * 9, b"b" * 9)
    assert [path.name for path in tmp_path.iterdir()] == ["one"]
    assert len(failures) == (0 if locks else 1)
    assert all("cannot be written and is as it was" in text for text in failures)


def test_a_folder_that_a_killed_writer_moved_aside_is_found_and_put_back(tmp_path):
    path = write_folder(tmp_path / "one", {"mark": MARK}, overwrite=False, marker="mark")
    path.rename(tmp_path / ".one.previous")
    (tmp_path / ".one.0123456789abcdef.part").mkdir()
    assert read_whole(path, lambda folder: (folder / "mark").read_bytes()) == MARK
    with pytest.raises(FileExistsError, match="must not exist"):
        write_folder(path, {"mark": b"2"}, overwrite=False, marker="mark")
    assert (path / "mark").read_bytes() == MARK
    assert [path.name for path in tmp_path.iterdir()] == ["one"]


def _gallery(*names):
    gallery = TemplateGallery()
    gallery.add(names, np.ones((len(names), 4)))
    return gallery


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("locks", [True, False])
def test_a_writer_after_a_killed_one_loses_nobody(tmp_path, monkeypatch, locks, both):
    """Killed between its two renames, or after both."""
    if not locks:
        monkeypatch.setitem(sys.modules, "fcntl", None)
    path = tmp_path / "door"
    _gallery("ann", "bo", "cy").save(path)
    path.rename(tmp_path / ".door.previous")
    if both:
        _gallery("ann", "bo", "cy", "di").save(tmp_path / "new")
        (tmp_path / "new").rename(path)

    def enrolled(place):
        gallery = TemplateGallery.load(place)
        gallery.add(["eve"], np.ones((1, 4)))
        return gallery_files(gallery._contents())

    with changing_folder(path, marker="manifest.json") as (place, files):
        files.update(enrolled(place))
    found = list(TemplateGallery.load(path))
    assert found == ["ann", "bo", "cy", *(["di"] if both else []), "eve"]
    _gallery("fay").save(path, overwrite=True)
    assert [file.name for file in tmp_path.iterdir()] == ["door"]


def test_enrol_after_a_killed_one_keeps_everybody_without_locks(people, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "fcntl", None)
    gallery, photo = tmp_path / "galleries" / "door", str(people / "hopper")
    for name in ("ann", "bo", "cy"):
        assert main(["enrol", str(gallery), photo, "--id", name]) == 0
    gallery.rename(gallery.with_name(".door.previous"))
    # Whoever is enrolled is known although the folder lies under the other name.
    assert main(["enrol", str(gallery), photo, "--id", "cy"]) == 2
    for name in ("di", "eve"):
        assert main(["enrol", str(gallery), photo, "--id", name]) == 0
    assert list(TemplateGallery.load(gallery)) == ["ann", "bo", "cy", "di", "eve"]
    assert [file.name for file in gallery.parent.iterdir()] == ["door"]


def test_without_locks_a_change_of_what_another_wrote_meanwhile_is_refused(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "fcntl", None)
    path = tmp_path / "one"

    def change(value, meanwhile):
        def changed(place):
            meanwhile()
            return {"mark": MARK, "value": value}

        with changing_folder(path, marker="mark") as (place, files):
            files.update(changed(place))

    for before in (None, b"0"):
        if before:
            change(before, lambda: None)
        with pytest.raises(OSError, match="cannot be written and is as it was"):
            change(b"1", lambda: change(b"2", lambda: None))
        assert (path / "value").read_bytes() == b"2"
        assert [file.name for file in tmp_path.iterdir()] == ["one"]


def _saves():
    artifact = FaceEmbedder("plain")
    bundle = VerificationBundle(artifact, TemplateVerifier(weights="plain"))
    gallery = _gallery("ann")
    return {"artifact": artifact, "bundle": bundle, "zip": bundle, "gallery": gallery}


def _contents(path):
    if path.is_file():
        with zipfile.ZipFile(path) as archive:
            return {name: archive.read(name) for name in archive.namelist()}
    return {file: file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


def _place(tmp_path, kind):
    return tmp_path / ("saved.zip" if kind == "zip" else "saved")


@pytest.mark.parametrize("old", ["artifact", "bundle", "gallery", "zip", "web", "photos", "empty"])
@pytest.mark.parametrize("new", ["artifact", "bundle", "gallery", "zip"])
def test_only_the_like_is_overwritten(tmp_path, new, old):
    saves, path = _saves(), _place(tmp_path, new)
    if old in saves:
        made = saves[old].save(tmp_path / _place(tmp_path / "made", old).name)
        made.rename(path)
    elif old == "photos":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("1.jpg", b"a photo")
    else:
        path.mkdir()
        if old == "web":
            (path / "manifest.json").write_text('{"name": "app", "start_url": "/"}')
            (path / "index.html").write_text("mine")
    before = _contents(path)
    if new == old:
        assert saves[new].save(path, overwrite=True) == path
    else:
        with pytest.raises(FileExistsError, match="must be of the same format, sfpose-"):
            saves[new].save(path, overwrite=True)
    assert _contents(path) == before
    assert list(tmp_path.iterdir()) == [path]


def test_commands_overwrite_no_gallery(people, tmp_path):
    path = _gallery("ann").save(tmp_path / "door")
    before = _contents(path)
    assert main(["calibrate", str(people), "--out", str(path), "--overwrite"]) == 2
    assert _contents(path) == before


@pytest.mark.parametrize("kind", ["artifact", "bundle", "zip", "gallery"])
@pytest.mark.parametrize("more", ["notes.txt", "photos/1.jpg"])
def test_nobodys_other_files_are_overwritten(tmp_path, kind, more):
    saves, path = _saves(), _place(tmp_path, kind)
    saves[kind].save(path)
    if kind == "zip":
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr(more, "mine")
    else:
        (path / more).parent.mkdir(exist_ok=True)
        (path / more).write_text("mine")
    before = _contents(path)
    with pytest.raises(FileExistsError, match=f"holds '{more[:6]}.*too, which would be lost"):
        saves[kind].save(path, overwrite=True)
    assert _contents(path) == before


@pytest.mark.parametrize("kind", ["artifact", "bundle", "zip", "gallery"])
@pytest.mark.parametrize("permissions", [0o600, 0o640, 0o664, 0o400])
def test_permissions_stay_when_something_is_overwritten(tmp_path, kind, permissions):
    saves, path = _saves(), _place(tmp_path, kind)
    saves[kind].save(path)
    files = [path] if kind == "zip" else [*path.iterdir()]
    for file in files:
        file.chmod(permissions)
    if kind != "zip":
        path.chmod(0o2700)
    before = {file: file.stat().st_mode for file in [path, *files]}
    saves[kind].save(path, overwrite=True)
    assert {file: file.stat().st_mode for file in [path, *files]} == before


def test_new_files_of_a_private_folder_are_private(tmp_path):
    path = write_folder(tmp_path / "one", {"mark": MARK}, overwrite=False, marker="mark")
    (path / "mark").chmod(0o600)
    write_folder(path, {"mark": MARK, "more": b""}, overwrite=True, marker="mark")
    assert (path / "more").stat().st_mode & 0o777 == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_who_owns_a_folder_owns_its_next_version(tmp_path):
    path = write_folder(tmp_path / "one", {"mark": MARK}, overwrite=False, marker="mark")
    for file in (path, path / "mark"):
        os.chown(file, 65534, 65533)
    write_folder(path, {"mark": MARK, "more": b""}, overwrite=True, marker="mark")
    for file in (path, path / "mark", path / "more"):
        assert (file.stat().st_uid, file.stat().st_gid) == (65534, 65533)


def test_permissions_of_one_group_are_not_given_to_another(tmp_path, monkeypatch):
    path = write_folder(tmp_path / "one", {"mark": MARK}, overwrite=False, marker="mark")
    (path / "mark").chmod(0o664)
    monkeypatch.setattr(os, "chown", lambda *_: os.stat("nothing of that name"))
    write_folder(path, {"mark": MARK}, overwrite=True, marker="mark")
    assert (path / "mark").stat().st_mode & 0o777 == 0o604


def test_a_file_is_replaced_with_its_permissions(tmp_path):
    path = tmp_path / "faces.npz"
    path.write_text("before")
    path.chmod(0o600)
    with whole_file(path) as part:
        part.write_text("after")
    assert path.read_text() == "after"
    assert path.stat().st_mode & 0o777 == 0o600


def test_the_folder_that_one_works_in_is_not_replaced(tmp_path, monkeypatch):
    path = _gallery("ann").save(tmp_path / "door")
    monkeypatch.chdir(path)
    with pytest.raises(OSError, match=r"'.' cannot be .*must not hold the working directory"):
        _gallery("bo").save(".", overwrite=True)
    assert list(TemplateGallery.load(".")) == ["ann"]
    _gallery("bo").save("../window")
    monkeypatch.chdir("..")
    _gallery("bo").save("door", overwrite=True)
    assert list(TemplateGallery.load("door")) == ["bo"]


def test_a_mount_point_is_not_replaced_and_told(tmp_path, monkeypatch):
    path = _gallery("ann").save(tmp_path / "door")
    replace = os.replace

    def busy(source, target):
        if Path(source) == path:
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), str(source))
        replace(source, target)

    monkeypatch.setattr(os, "replace", busy)
    with pytest.raises(OSError, match=r"is as it was: .* must be no mount point; write into a"):
        _gallery("bo").save(path, overwrite=True)
    assert list(TemplateGallery.load(path)) == ["ann"]
    assert list(tmp_path.iterdir()) == [path]


def test_names_with_wildcards_remove_nobody_elses_leftovers(tmp_path):
    (tmp_path / ".other.0123456789abcdef.part").mkdir()
    write_folder(tmp_path / "*", {"mark": b"1"}, overwrite=False, marker="mark")
    assert (tmp_path / ".other.0123456789abcdef.part").is_dir()


def test_a_reader_never_mixes_two_versions(tmp_path):
    """The folder is replaced between the first and the second file that are read."""
    path = tmp_path / "one"

    def write(value):
        contents = {"mark": MARK, "one": value, "more": value}
        write_folder(path, contents, overwrite=True, marker="mark")

    write(b"1")
    calls = []

    def read(folder):
        first = (folder / "one").read_bytes()
        if not calls:
            write(b"2")
        calls.append(first)
        return first, (folder / "more").read_bytes()

    assert read_whole(path, read) == (b"2", b"2")
    assert calls == [b"1", b"2"]


def test_saving_through_a_link_replaces_what_it_leads_to(tmp_path):
    gallery = TemplateGallery()
    gallery.add(["ann"], np.ones((1, 4)))
    gallery.save(tmp_path / "first")
    (tmp_path / "current").symlink_to("first")
    gallery.add(["bo"], np.ones((1, 4)))
    gallery.save(tmp_path / "current", overwrite=True)
    assert (tmp_path / "current").is_symlink()
    assert list(TemplateGallery.load(tmp_path / "first")) == ["ann", "bo"]


def test_a_gallery_that_was_loaded_stays_whole_while_another_is_saved_over_it(tmp_path):
    gallery = TemplateGallery()
    gallery.add(["ann"], np.ones((1, 4)))
    gallery.save(tmp_path / "people")
    loaded = TemplateGallery.load(tmp_path / "people")
    gallery.update(["ann"], np.full((1, 4), 7))
    gallery.save(tmp_path / "people", overwrite=True)
    np.testing.assert_array_equal(loaded.templates, np.ones((1, 4)))
    np.testing.assert_array_equal(TemplateGallery.load(tmp_path / "people").templates[0], [7] * 4)


def test_what_is_written_is_as_private_as_the_user_asks(tmp_path):
    """The folder holds what identifies people: its permissions follow the umask."""
    program = (
        "import os, sys; os.umask(0o077);"
        "from sfpose.runtime.folders import write_folder;"
        "write_folder(sys.argv[1], {'mark': b''}, overwrite=False, marker='mark')"
    )
    path = tmp_path / "private"
    subprocess.run([sys.executable, "-c", program, str(path)], check=True)
    assert path.stat().st_mode & 0o077 == 0
    assert (path / "mark").stat().st_mode & 0o077 == 0


def test_several_may_write_the_same_file(tmp_path):
    path = tmp_path / "made" / "file"
    with whole_file(path) as first, first.open("w") as file:
        file.write("the first ")
        with whole_file(path) as second:
            second.write_text("the second")
        assert path.read_text() == "the second"
        file.write("goes on")
    assert path.read_text() == "the first goes on"
    assert [left.name for left in path.parent.iterdir()] == ["file"]


def test_a_file_that_is_not_written_whole_leaves_what_was_there(tmp_path):
    path = tmp_path / "file"
    path.write_text("before")
    with pytest.raises(FileNotFoundError), whole_file(path) as part:
        (part / "no folder").write_text("half")
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_writer_of_a_file_left_is_removed_and_what_a_living_one_has_is_not(tmp_path):
    path = tmp_path / "file[1]"
    code = (
        "import os; from pathlib import Path; from sfpose.runtime.files import whole_file;"
        f"writer = whole_file(Path({str(path)!r})); part = writer.__enter__();"
        "part.write_text('half'); os.kill(os.getpid(), 9)"
    )
    killed = subprocess.run([sys.executable, "-c", code], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert len(list(tmp_path.iterdir())) == 1
    with whole_file(path) as slow:
        assert list(tmp_path.iterdir()) == [slow.parent]
        with whole_file(path) as quick:
            quick.write_text("quick")
        slow.write_text("slow")
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_text() == "slow"
