"""Data sets that lie about their files: refused with a reason, in little time and memory."""

import io
import os
import subprocess
import sys
import warnings
import zipfile

import pytest
from PIL import Image

from sfpose.protocols import CFP, LFW, ImageFiles, PoseFolder

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes in folders here")


def png():
    data = io.BytesIO()
    Image.new("RGB", (30, 40)).save(data, "PNG")
    return data.getvalue()


def zipped(path, names, data=None, compression=zipfile.ZIP_STORED):
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w", compression) as archive:
        warnings.simplefilter("ignore")
        for name in names:
            archive.writestr(name, png() if data is None else data)
    return path


def nameless(path):
    """The zip's second entry keeps its bytes and loses its name: they become a field of extras."""
    data = bytearray(zipped(path, ["a/f/1.png", "Q"]).read_bytes())
    entry = data.index(b"PK\x01\x02", data.index(b"PK\x01\x02") + 1)
    data[entry + 28 : entry + 32] = (0).to_bytes(2, "little") + (1).to_bytes(2, "little")
    path.write_bytes(data)
    return path


def within_seconds(code, *arguments, seconds=30):
    """What Python prints, or the last line of its error, in 4 GB of addresses."""
    limit = "import resource; resource.setrlimit(resource.RLIMIT_AS, (4 << 30,) * 2)\n"
    command = [sys.executable, "-c", "import sys\n" + limit + code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    return (done.stdout + done.stderr).strip().splitlines()[-1]


def test_an_image_that_is_twice_in_a_zip_is_not_its_own_partner(tmp_path):
    names = ["ann/frontal/1.png", "ann/frontal/1.png", "bo/frontal/1.png"]
    path = zipped(tmp_path / "set.zip", names)
    for read in (CFP, PoseFolder, ImageFiles):
        with pytest.raises(ValueError, match=r"which differ; .*'ann/frontal/1\.png' 2 times"):
            read(path)


def test_an_entry_without_a_name_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"must have names, .* one without a name"):
        ImageFiles(nameless(tmp_path / "set.zip"))


def test_pairs_of_an_image_with_itself_are_refused(tmp_path):
    (tmp_path / "Ann_0001.jpg").write_bytes(png())
    for line in ("Ann 1 1", "Ann 1 Ann 01"):
        (tmp_path / "pairs.txt").write_text(f"1 1\n{line}\nAnn 1 1\n")
        with pytest.raises(ValueError, match=r"line 2 of pairs.txt must name two images; got 'Ann"):
            LFW(tmp_path)


@pytest.mark.parametrize("name", ["../outside.png", "/etc/hostname", "a/../a/f/1.png", "a/f", ""])
@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_files_that_are_none_of_a_data_set_are_not_read(tmp_path, name, kind):
    (tmp_path / "outside.png").write_bytes(png())
    home = tmp_path / "set"
    (home / "a" / "f").mkdir(parents=True)
    (home / "a" / "f" / "1.png").write_bytes(png())
    files = ImageFiles(home if kind == "folder" else zipped(tmp_path / "set.zip", ["a/f/1.png"]))
    assert files.read("a/f/1.png") == png()
    with pytest.raises(FileNotFoundError, match=f"must hold '{name}'; it does not"):
        files.read(name)


def test_links_to_files_are_followed_and_those_to_folders_are_not(tmp_path):
    (tmp_path / "outside.png").write_bytes(png())
    (tmp_path / "others").mkdir()
    (tmp_path / "others" / "2.png").write_bytes(png())
    home = tmp_path / "set"
    home.mkdir()
    (home / "1.png").symlink_to(tmp_path / "outside.png")
    (home / "ann").symlink_to(tmp_path / "others", target_is_directory=True)
    (home / "nowhere.png").symlink_to(tmp_path / "none.png")
    files = ImageFiles(home)
    assert (files.names, files.folders) == (["1.png", "nowhere.png"], ["ann"])
    assert files.read("1.png") == png()
    with pytest.raises(FileNotFoundError, match=r"must hold 'nowhere\.png'; it does not"):
        files.read("nowhere.png")


READ_ALL = """
from sfpose.protocols import CFP
images = CFP(sys.argv[1]).images
print([images[row].shape for row in range(len(images))])
"""


@pytest.mark.parametrize("kind", ["pipe", "endless"])
def test_what_never_ends_is_no_picture(tmp_path, kind):
    home = tmp_path / "ann" / "frontal"
    home.mkdir(parents=True)
    (home / "1.png").write_bytes(png())
    assert within_seconds(READ_ALL, tmp_path) == "[(40, 30, 3)]"
    other = home / "2.png"
    os.mkfifo(other) if kind == "pipe" else other.symlink_to("/dev/zero")
    said = within_seconds(READ_ALL, tmp_path)
    assert said.startswith("ValueError: files of a data set must be ordinary ones; ")
    assert said.endswith("2.png' is not")


def test_a_pipe_is_no_data_set_and_no_list_of_pairs(tmp_path):
    os.mkfifo(tmp_path / "pairs.txt")
    lfw = "from sfpose.protocols import LFW; LFW(sys.argv[1])"
    assert "must be ordinary ones; " in within_seconds(lfw, tmp_path)
    assert "must be a folder or a zip file; got " in within_seconds(
        READ_ALL, tmp_path / "pairs.txt"
    )


def test_an_endless_list_of_pairs_is_refused(tmp_path):
    (tmp_path / "pairs.txt").symlink_to("/dev/zero")
    lfw = "from sfpose.protocols import LFW; LFW(sys.argv[1])"
    assert "must be ordinary ones; " in within_seconds(lfw, tmp_path)


def test_a_large_file_is_refused_before_it_is_read(tmp_path):
    (tmp_path / "ann" / "f").mkdir(parents=True)
    with open(tmp_path / "ann" / "f" / "1.png", "wb") as file:
        file.truncate(2**33)
    with pytest.raises(ValueError, match=r"at most 256000000 bytes; 'ann/f/1\.png' has 8589934592"):
        PoseFolder(tmp_path).images[0]


def bomb(path, size, compression=zipfile.ZIP_DEFLATED):
    with (
        zipfile.ZipFile(path, "w", compression) as archive,
        archive.open("ann/f/1.png", "w") as entry,
    ):
        for _ in range(size >> 20):
            entry.write(bytes(2**20))
    return path


COST = """
import resource
from sfpose.protocols import PoseFolder
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    PoseFolder(sys.argv[1]).images[0]
except ValueError as error:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, error)
"""


def test_a_zip_that_unpacks_to_much_costs_little(tmp_path):
    path = bomb(tmp_path / "set.zip", 2**29)
    assert path.stat().st_size < 2**20
    kilobytes, said = within_seconds(COST, path).split(" ", 1)
    assert "must have at most 256000000 bytes; 'ann/f/1.png' has 536870912" in said
    assert int(kilobytes) < 50_000


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_zip_that_says_little_and_unpacks_to_much_costs_little(tmp_path, method):
    path = bomb(tmp_path / "set.zip", 2**28, method)
    data = bytearray(path.read_bytes())
    size = data.rindex(b"PK\x01\x02") + 24
    assert int.from_bytes(data[size : size + 4], "little") == 2**28
    data[size : size + 4] = (1000).to_bytes(4, "little")
    path.write_bytes(data)
    kilobytes, said = within_seconds(COST, path).split(" ", 1)
    assert "must be readable; 'ann/f/1.png' is not" in said
    assert int(kilobytes) < 50_000


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("1 1\nAnn ² 1\nAnn 1 Bo 1".encode(), "line 2 of pairs.txt must name two images; got"),
        ("1 1\nAnn 2 1\nAnn ² Bo 1".encode(), "line 3 of pairs.txt must name two images; got"),
        ("² 1\nAnn 2 1\nAnn 1 Bo 1".encode(), "line 1 of pairs.txt must be the number of folds"),
        (b"9" * 5000 + b" 1\n", "line 1 of pairs.txt must be the number of folds"),
        (b"1 1\nAnn " + b"9" * 5000 + b" 1\nAnn 1 Bo 1", "line 2 of pairs.txt must name two"),
        (b"\xff\xfe1 1\n", "pairs.txt must be text in UTF-8; "),
    ],
)
def test_lists_of_pairs_that_cannot_be_read_say_their_rule(tmp_path, data, message):
    (tmp_path / "pairs.txt").write_bytes(data)
    with pytest.raises(ValueError, match=message):
        LFW(tmp_path)


@pytest.mark.parametrize("name", ["²", "9" * 5000, "1.5", "-1"])
def test_names_that_only_look_like_numbers_choose_nobody(tmp_path, name):
    path = zipped(tmp_path / "set.zip", [f"{name}/f/1.png"])
    with pytest.raises(ValueError, match="by number only where folders are numbers; got"):
        PoseFolder(path, people=range(1, 9))
    with zipfile.ZipFile(zipped(path, ["1/f/1.png"]), "a") as archive:
        archive.writestr(f"{name}/", b"")
    assert PoseFolder(path, people=range(1, 9)).without_image == []
