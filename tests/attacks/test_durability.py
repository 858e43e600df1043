"""Writers that are killed, run out of disk, lack permissions or meet each other.

The runs themselves are those of benchmarks/reliability.py, with small numbers.
"""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from sfpose import TemplateGallery
from sfpose._gallery_files import gallery_files
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


def gallery_of(*names):
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
    gallery_of("ann", "bo", "cy").save(path)
    path.rename(tmp_path / ".door.previous")
    if both:
        gallery_of("ann", "bo", "cy", "di").save(tmp_path / "new")
        (tmp_path / "new").rename(path)

    def enrolled(place):
        gallery = TemplateGallery.load(place)
        gallery.add(["eve"], np.ones((1, 4)))
        return gallery_files(gallery._contents())

    with changing_folder(path, marker="manifest.json") as (place, files):
        files.update(enrolled(place))
    found = list(TemplateGallery.load(path))
    assert found == ["ann", "bo", "cy", *(["di"] if both else []), "eve"]
    gallery_of("fay").save(path, overwrite=True)
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


def test_a_gallery_that_was_loaded_stays_whole_while_another_is_saved_over_it(tmp_path):
    gallery = TemplateGallery()
    gallery.add(["ann"], np.ones((1, 4)))
    gallery.save(tmp_path / "people")
    loaded = TemplateGallery.load(tmp_path / "people")
    gallery.update(["ann"], np.full((1, 4), 7))
    gallery.save(tmp_path / "people", overwrite=True)
    np.testing.assert_array_equal(loaded.templates, np.ones((1, 4)))
    np.testing.assert_array_equal(TemplateGallery.load(tmp_path / "people").templates[0], [7] * 4)


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
