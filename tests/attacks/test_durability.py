"""Writers that are killed, run out of disk, lack rights or meet each other.

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
from sfpose.runtime.files import whole_file
from sfpose.runtime.folders import read_whole, write_folder

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
    """Killed at random moments and at every step, a full disk, a folder without rights."""
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
    assert result["read-only"]["message"].startswith("PermissionError")
    if kind != "checkpoint":
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
            contents = {"mark": b"", "value": value}
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
    path = write_folder(tmp_path / "one", {"mark": b"1"}, overwrite=False, marker="mark")
    path.rename(tmp_path / ".one.previous")
    (tmp_path / ".one.0123.part").mkdir()
    assert read_whole(path, lambda folder: (folder / "mark").read_bytes()) == b"1"
    with pytest.raises(FileExistsError, match="must not exist"):
        write_folder(path, {"mark": b"2"}, overwrite=False, marker="mark")
    assert (path / "mark").read_bytes() == b"1"
    assert [path.name for path in tmp_path.iterdir()] == ["one"]


def test_names_with_wildcards_remove_nobody_elses_leftovers(tmp_path):
    (tmp_path / ".other.0123.part").mkdir()
    write_folder(tmp_path / "*", {"mark": b"1"}, overwrite=False, marker="mark")
    assert (tmp_path / ".other.0123.part").is_dir()


def test_a_reader_never_mixes_two_versions(tmp_path):
    """The folder is replaced between the first and the second file that are read."""
    path = tmp_path / "one"

    def write(value):
        write_folder(path, {"mark": value, "more": value}, overwrite=True, marker="mark")

    write(b"1")
    calls = []

    def read(folder):
        first = (folder / "mark").read_bytes()
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
    """The folder holds what identifies people: its rights follow the umask."""
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
