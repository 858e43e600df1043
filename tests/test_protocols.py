"""Data set readers on made-up folders and zips, and on the real ones where they are."""

import io
import multiprocessing
import pickle
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from sfpose.cli import main
from sfpose.cli.finding import find_photos
from sfpose.protocols import CFP, LFW, ImageFiles, LazyImages, PoseFolder, all_pairs


def _jpeg(value=0):
    data = io.BytesIO()
    Image.fromarray(np.full((12, 10, 3), value, np.uint8)).save(data, "PNG")
    return data.getvalue()


def _write(root, files, kind):
    if kind == "zip":
        with zipfile.ZipFile(root / "set.zip", "w") as archive:
            for name, data in files.items():
                archive.writestr(name, data)
        return root / "set.zip"
    for name, data in files.items():
        path = root / "set" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root / "set"


PAIRS = b"2 1\nAnn\t1\t2\nAnn\t1\tBo\t1\nBo\t1\t2\nAnn\t2\tBo\t2\n"


def _lfw_files(pairs=PAIRS):
    names = [f"lfw/{person}/{person}_000{n}.jpg" for person in ("Ann", "Bo") for n in (1, 2)]
    return {"pairs.txt": pairs, **{name: _jpeg(40 * k) for k, name in enumerate(names)}}


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_lfw_pairs_are_those_of_the_file(tmp_path, kind):
    lfw = LFW(_write(tmp_path, _lfw_files(), kind))
    trials = lfw.trials()
    names = [name.rsplit("/", 1)[-1] for name in lfw.images.names]
    told = [
        (names[a], names[b], bool(g), int(f))
        for a, b, g, f in zip(
            trials.first, trials.second, trials.is_genuine, trials.folds, strict=True
        )
    ]
    assert told == [
        ("Ann_0001.jpg", "Ann_0002.jpg", True, 0),
        ("Ann_0001.jpg", "Bo_0001.jpg", False, 0),
        ("Bo_0001.jpg", "Bo_0002.jpg", True, 1),
        ("Ann_0002.jpg", "Bo_0002.jpg", False, 1),
    ]
    assert lfw.images[1].shape == (12, 10, 3)
    assert [image[0, 0, 0] for image in lfw.images[1:3]] == [40, 80]


@pytest.mark.parametrize(
    ("pairs", "error", "message"),
    [
        (b"2 1\nAnn 1 3\nAnn 1 Bo 1\nBo 1 2\nAnn 2 Bo 2\n", FileNotFoundError, "line 2 .*Ann_0003"),
        (b"2 1\nAnn 1 2\nAnn 1 Bo 1\nBo 1 2\nAnn x Bo 2\n", ValueError, "line 5 .*'Ann x Bo 2'"),
        (b"2 1\nAnn 1 2\n", ValueError, "2 folds of 1 genuine and 1 impostor pairs; got 1 lines"),
        (b"", ValueError, "line 1 of pairs.txt"),
        (b"Ann 1 2\n", ValueError, "line 1 of pairs.txt"),
    ],
)
def test_lfw_refuses_pairs_it_cannot_follow(tmp_path, pairs, error, message):
    with pytest.raises(error, match=message):
        LFW(_write(tmp_path, _lfw_files(pairs), "zip"))


def test_lfw_does_not_choose_between_two_of_a_file(tmp_path):
    files = _lfw_files()
    twice = {**files, "other/Bo_0002.jpg": _jpeg(3)}
    with pytest.raises(ValueError, match=r"must be there once.*lfw/Bo/Bo_0002.jpg and other/"):
        LFW(_write(tmp_path, twice, "zip"))
    unnamed = {**files, "lfw/Cy/Cy_0001.jpg": _jpeg(3), "other/Cy_0001.jpg": _jpeg(4)}
    assert len(LFW(_write(tmp_path, unnamed, "zip")).images) == 4
    with pytest.raises(ValueError, match=r"one pairs.txt; .* a/pairs.txt, pairs.txt"):
        LFW(_write(tmp_path, {**files, "a/pairs.txt": PAIRS}, "zip"))


def test_data_sets_that_are_not_there_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="folder or a zip file"):
        LFW(tmp_path / "none")
    (tmp_path / "text").write_text("x")
    with pytest.raises(ValueError, match="folder or a zip file"):
        CFP(tmp_path / "text")
    with pytest.raises(FileNotFoundError, match=r"needs a pairs\.txt"):
        LFW(tmp_path)


def _cfp_files(people=("001", "002", "003"), frontal=3, profile=2):
    return {
        f"{person}/{pose}/{n:02d}.jpg": _jpeg(n)
        for person in people
        for pose, count in [("frontal", frontal), ("profile", profile)]
        for n in range(1, count + 1)
    }


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_cfp_counts_are_those_of_all_pairs(tmp_path, kind):
    cfp = CFP(_write(tmp_path, _cfp_files(), kind))
    across = cfp.trials()
    assert (len(across), across.is_genuine.sum()) == (9 * 6, 3 * 3 * 2)
    assert set(cfp.poses[across.first]) == {"frontal"}
    assert set(cfp.poses[across.second]) == {"profile"}
    same = cfp.trials("frontal", "frontal")
    assert (len(same), same.is_genuine.sum()) == (9 * 8 // 2, 3 * 3)
    assert (same.first != same.second).all()
    for trials in (across, same):
        labels = cfp.subjects[trials.first] == cfp.subjects[trials.second]
        np.testing.assert_array_equal(trials.is_genuine, labels)
    assert len(cfp.template_rows("frontal", 2)) == 6


def test_cfp_takes_the_people_it_is_told(tmp_path):
    path = _write(tmp_path, _cfp_files(), "zip")
    assert set(CFP(path, people=range(2, 4)).subjects) == {"002", "003"}
    with pytest.raises(ValueError, match="no image of the people"):
        CFP(path, people=range(7, 9))
    with pytest.raises(
        ValueError, match=r"pose must be one of \['frontal', 'profile'\]; got 'back'"
    ):
        CFP(path).trials("back", "profile")


def test_a_pose_with_fewer_images_than_a_template_needs_is_refused(tmp_path):
    files = _cfp_files()
    del files["002/profile/02.jpg"]
    cfp = CFP(_write(tmp_path, files, "zip"))
    assert len(cfp.template_rows("profile", 1)) == 3
    with pytest.raises(ValueError, match=r"template of 2 needs .* profile images .*; 002 has 1"):
        cfp.template_rows("profile", 2)
    del files["002/profile/01.jpg"]
    (tmp_path / "again").mkdir()
    cfp = CFP(_write(tmp_path / "again", files, "zip"))
    with pytest.raises(ValueError, match="002 has 0"):
        cfp.template_rows("profile", 1)


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_an_image_that_is_there_twice_is_refused(tmp_path, kind):
    files = {f"{half}/{name}": data for half in "ab" for name, data in _cfp_files(("001",)).items()}
    with pytest.raises(ValueError, match=r"'a/001/frontal/01\.jpg' and 'b/001/frontal/01\.jpg'"):
        PoseFolder(_write(tmp_path, files, kind))


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_people_without_an_image_are_named(tmp_path, kind):
    path = _write(tmp_path, _cfp_files(), kind)
    if kind == "zip":
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr("004/", b"")
            archive.writestr("005/frontal/", b"")
            archive.writestr("005/", b"")
    else:
        (path / "004").mkdir()
        (path / "005" / "frontal").mkdir(parents=True)
    assert PoseFolder(path).without_image == ["004", "005"]
    assert PoseFolder(path, people=range(1, 5)).without_image == ["004"]
    assert set(PoseFolder(path).subjects) == {"001", "002", "003"}


def test_layouts_that_are_no_cfp_are_refused(tmp_path):
    (tmp_path / "flat").mkdir()
    (tmp_path / "flat" / "one.jpg").write_bytes(_jpeg())
    with pytest.raises(ValueError, match=r"subject/pose folders; got 'one\.jpg'"):
        CFP(tmp_path / "flat")
    named = _write(tmp_path, _cfp_files(("ann",)), "folder")
    with pytest.raises(ValueError, match="by number only"):
        CFP(named, people=range(1, 2))


def test_a_broken_image_is_named(tmp_path):
    path = _write(tmp_path, {"a/b/c.jpg": b"no image"}, "zip")
    images = LazyImages(ImageFiles(path), ["a/b/c.jpg", "a/b/d.jpg"])
    with pytest.raises(ValueError, match=r"'a/b/c\.jpg' is not"):
        images[0]
    with pytest.raises(FileNotFoundError, match=r"must hold 'a/b/d\.jpg'"):
        images[1]


_READ_IN_FORKS = """
import multiprocessing, sys
from sfpose.protocols import PoseFolder

images = PoseFolder(sys.argv[1]).images

def shade(row):
    return int(images[row][0, 0, 0])

own = shade(0)
with multiprocessing.get_context("fork").Pool(4) as pool:
    rows = range(len(images))
    theirs = pool.map_async(shade, rows, chunksize=1)
    print(*map(shade, rows))
    print(*theirs.get(60))
"""


def test_forked_workers_read_a_zip_as_their_parent_does(tmp_path):
    if "fork" not in multiprocessing.get_all_start_methods():
        pytest.skip("this system does not fork")
    path = _write(tmp_path, {f"ann/frontal/{n:02d}.png": _jpeg(4 * n) for n in range(60)}, "zip")
    # In a process of its own, which has no threads that a fork would leave behind.
    command = [sys.executable, "-c", _READ_IN_FORKS, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    shades = " ".join(str(4 * n) for n in range(60))
    assert (done.stdout.splitlines(), done.returncode) == ([shades] * 2, 0), done.stderr


def test_threads_and_pickles_read_a_zip(tmp_path):
    path = _write(tmp_path, {f"ann/frontal/{n:02d}.png": _jpeg(4 * n) for n in range(60)}, "zip")
    images = PoseFolder(path).images
    for source in (images, pickle.loads(pickle.dumps(images))):
        with ThreadPoolExecutor(4) as pool:
            shades = list(pool.map(lambda row: int(source[row][0, 0, 0]), range(60)))  # noqa: B023
        assert shades == [4 * n for n in range(60)]


def _damaged(data, kind):
    """The bytes of a zip file whose first entry cannot be read any more."""
    name = zipfile.ZipFile(io.BytesIO(data)).infolist()[0]
    directory = data.index(b"PK\x01\x02")
    start = 30 + len(name.filename) + name.header_offset
    changed = bytearray(data)
    if kind == "flipped byte":
        changed[start + name.compress_size // 2] ^= 0x55
    elif kind == "front cut off":
        del changed[:start]
    elif kind == "encrypted":
        changed[6] |= 1
        changed[directory + 8] |= 1
    elif kind == "other compression":
        changed[directory + 10] = 97
    elif kind == "longer than the file":
        changed[directory + 20 : directory + 28] = (2**27).to_bytes(4, "little") * 2
    return bytes(changed)


@pytest.mark.parametrize(
    ("kind", "compression"),
    [
        ("flipped byte", zipfile.ZIP_STORED),
        ("flipped byte", zipfile.ZIP_DEFLATED),
        ("front cut off", zipfile.ZIP_STORED),
        ("longer than the file", zipfile.ZIP_STORED),
        ("encrypted", zipfile.ZIP_STORED),
        ("other compression", zipfile.ZIP_DEFLATED),
    ],
)
def test_a_damaged_entry_is_named(tmp_path, capsys, kind, compression):
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in _cfp_files(frontal=5, profile=4).items():
            archive.writestr(name, data)
    path.write_bytes(_damaged(path.read_bytes(), kind))
    images = CFP(path).images
    with pytest.raises(ValueError, match=r"set\.zip' must be readable.*'001/frontal/01\.jpg'"):
        images[0]
    assert main(["evaluate", "cfp", str(path), "--no-progress"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "001/frontal/01.jpg" in error


def test_no_damage_of_a_zip_raises_anything_but_the_errors_that_are_promised(tmp_path):
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/b/c.jpg", _jpeg())
        archive.writestr("a/b/d.jpg", _jpeg(9))
    whole = path.read_bytes()
    flipped = [
        whole[:place] + bytes([whole[place] ^ bits]) + whole[place + 1 :]
        for place in range(len(whole))
        for bits in (1, 0xFF)
    ]
    messages = []
    for data in [*flipped, *(whole[:size] for size in range(len(whole)))]:
        path.write_bytes(data)
        try:
            files = ImageFiles(path)
            read = {files.read(name) for name in files.names}
        except (ValueError, FileNotFoundError) as error:
            messages.append(str(error))
        else:
            assert read <= {_jpeg(), _jpeg(9)}
    assert len(messages) > len(whole)
    assert all("set.zip" in message for message in messages)


_OF_A_MAC = [
    "__MACOSX/._001",
    "__MACOSX/001/frontal/._01.jpg",
    "__MACOSX/001/frontal/01.jpg",
    "001/frontal/._01.jpg",
    "._0.png",
]


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_what_a_mac_leaves_beside_images_is_no_image(tmp_path, kind):
    plain, left = _cfp_files(), dict.fromkeys(_OF_A_MAC, b"\x00\x05\x16\x07")
    path = _write(tmp_path, {**left, **plain}, kind)
    if kind == "zip":
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr("__MACOSX/", b"")
            archive.writestr("__MACOSX/001/", b"")
    files = ImageFiles(path)
    assert files.names == files.images() == sorted(plain)
    assert not any("__MACOSX" in folder for folder in files.folders)
    cfp = CFP(path)
    assert (len(cfp.subjects), cfp.without_image) == (15, [])
    assert all(image.shape == (12, 10, 3) for image in cfp.images)


def test_lfw_reads_past_what_a_mac_leaves(tmp_path):
    plain = _lfw_files()
    left = {f"__MACOSX/{name}": b"\x00\x05\x16\x07" for name in plain}
    left |= {f"zz/__MACOSX/{name}": b"\x00\x05\x16\x07" for name in plain}
    lfw = LFW(_write(tmp_path, {**left, **plain}, "zip"))
    assert [image[0, 0, 0] for image in lfw.images] == [0, 40, 80, 120]


def test_photos_of_a_folder_are_those_of_the_protocols(tmp_path):
    left = dict.fromkeys(_OF_A_MAC, b"\x00\x05\x16\x07")
    root = _write(tmp_path, {**_cfp_files(), **left, "001/notes.txt": b"", "9.WEBP": b""}, "folder")
    listed = [path.relative_to(root).as_posix() for path in find_photos([str(root)])]
    assert listed == ImageFiles(root).images() == sorted([*_cfp_files(), "9.WEBP"])
    # A file that is named is meant, and so is a folder.
    named = root / "._0.png"
    assert find_photos([str(named)]) == [named]
    assert len(find_photos([str(root / "__MACOSX")])) == 1


def test_whoever_has_no_name_is_not_paired():
    with pytest.raises(ValueError, match=r"subjects must name one person.*row 1 is missing"):
        all_pairs(["a", None, None], [0, 1, 2])


def test_pairs_need_two_sides():
    with pytest.raises(ValueError, match="both sides"):
        all_pairs(["a"], [0], [])
    for second in (None, [1]):
        with pytest.raises(ValueError, match="two rows must be selected"):
            all_pairs(["a", "b"], [1], second)


def test_no_row_is_compared_with_itself():
    """A distance of 0 would be a genuine comparison that nobody can err at."""
    trials = all_pairs(list("aab"), [0, 1], [0, 1, 2])
    pairs = list(zip(trials.first.tolist(), trials.second.tolist(), strict=True))
    assert pairs == [(0, 1), (0, 2), (1, 0), (1, 2)]
    assert trials.is_genuine.tolist() == [True, False, True, False]


def test_the_real_lfw_has_its_published_counts(shared_data):
    trials = LFW(shared_data / "lfw_pairs.zip").trials()
    assert (len(trials), int(trials.is_genuine.sum())) == (6000, 3000)
    assert np.bincount(trials.folds).tolist() == [600] * 10


def test_the_real_cfp_has_its_published_counts(shared_data):
    cfp = CFP(shared_data / "cfp_dev.zip", people=range(101, 251))
    trials = cfp.trials()
    assert (len(trials), int(trials.is_genuine.sum())) == (1500 * 600, 150 * 40)


def test_images_of_a_folder_come_in_the_order_of_their_numbers(tmp_path):
    """So that a template of images 1 to 5 is one, whether or not names begin with zeros."""
    names = ["1.png", "2.png", "10.png", "011.png", "12a.png", "12b.png", "a9.png", "a10.png"]
    for person in ("2", "10"):
        folder = tmp_path / "data" / person / "frontal"
        folder.mkdir(parents=True)
        for name in names:
            Image.new("RGB", (8, 8)).save(folder / name)
    folder = PoseFolder(tmp_path / "data")
    assert folder.images.names[:8] == [f"10/frontal/{name}" for name in names]
    assert folder.subjects.tolist() == ["10"] * 8 + ["2"] * 8
