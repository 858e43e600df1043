"""Labelled people on disk: readers, selection, streaming, and what they refuse."""

import io
import os
import time
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch", reason="training needs the [train] extra")
pytest.importorskip("onnx", reason="training needs the [train] extra")

from sfpose.training.distillation import normalise_images  # noqa: E402
from sfpose.training.people import (  # noqa: E402
    ListedImages,
    PeopleFolder,
    open_people,
)
from sfpose.training.selection import choose_people, hold_out  # noqa: E402
from sfpose.training.streaming import StreamedImages, workers_for  # noqa: E402


def picture(seed, height=40, width=48):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def write(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, format="PNG")


@pytest.fixture
def folder(tmp_path):
    """Ann with five images, Bo with three, Cy with one, Di with none."""
    for person, count in (("ann", 5), ("bo", 3), ("cy", 1)):
        for number in range(count):
            write(tmp_path / "people" / person / f"{number}.png", picture(number))
    (tmp_path / "people" / "di").mkdir()
    return tmp_path / "people"


@pytest.fixture
def vggface2(tmp_path):
    root = tmp_path / "vggface2"
    names = ["n000002/0001_01.jpg", "n000002/0002_01.jpg", "n000007/0001_02.jpg"]
    for number, name in enumerate(names):
        write(root / "train" / name, picture(number))
    (root / "train_list.txt").write_text("".join(f"{name}\n" for name in names))
    lines = ['"n000002/0001_01",10,5,20,30', '"n000002/0002_01",-4,-3,20,20']
    lines += ['"n000007/0001_02",30,30,40,40', '"n000009/0001_01",1,1,1,1']
    (root / "loose_bb_train.csv").write_text("\n".join(["NAME_ID,X,Y,W,H", *lines]) + "\n")
    return root


def test_a_folder_a_person_is_read_in_order(folder):
    table = open_people(folder)
    assert isinstance(table, PeopleFolder)
    assert table.people == ["ann", "bo", "cy", "di"]
    assert table.labels.tolist() == [0] * 5 + [1] * 3 + [2]
    assert table.name(6) == "bo/1.png"
    np.testing.assert_array_equal(table.image(6), picture(1))


def test_a_zip_of_folders_reads_as_the_folder(folder, tmp_path):
    import shutil

    archive = shutil.make_archive(str(tmp_path / "zipped"), "zip", folder)
    table = PeopleFolder(archive)
    assert table.people == ["ann", "bo", "cy", "di"]
    np.testing.assert_array_equal(table.image(6), picture(1))


def test_listed_images_are_cut_out_by_their_boxes(vggface2):
    table = open_people(vggface2)
    assert isinstance(table, ListedImages)
    assert table.people == ["n000002", "n000007"]
    assert table.labels.tolist() == [0, 0, 1]
    np.testing.assert_array_equal(table.image(0), picture(0)[5:35, 10:30])
    # A box that leaves the image is taken as far as it lies inside.
    np.testing.assert_array_equal(table.image(1), picture(1)[:17, :16])
    np.testing.assert_array_equal(table.image(2), picture(2)[30:, 30:])
    wider = open_people(vggface2, box_margin=0.2)
    np.testing.assert_array_equal(wider.image(0), picture(0)[2:38, 8:32])


def test_a_list_without_boxes_takes_images_whole(vggface2):
    (vggface2 / "loose_bb_train.csv").unlink()
    np.testing.assert_array_equal(open_people(vggface2).image(0), picture(0))


def test_lists_and_boxes_may_lie_where_vggface2_has_them(vggface2):
    for name, home in (("train_list.txt", "meta"), ("loose_bb_train.csv", "bb_landmark")):
        (vggface2 / home).mkdir()
        (vggface2 / name).rename(vggface2 / home / name)
    (vggface2 / "train" / "n000002").rename(vggface2 / "n000002")
    (vggface2 / "train" / "n000007").rename(vggface2 / "n000007")
    (vggface2 / "train").rmdir()
    table = open_people(vggface2)
    assert table.people == ["n000002", "n000007"]
    np.testing.assert_array_equal(table.image(0), picture(0)[5:35, 10:30])


@pytest.mark.parametrize(
    ("file", "text", "error", "message"),
    [
        (
            "train_list.txt",
            "n000002/0001_01.jpg\nn000002/0009_01.jpg\nn000002/0010_01.jpg\n",
            FileNotFoundError,
            r"2 of 3 are not, the first is 'n000002/0009_01\.jpg'",
        ),
        ("train_list.txt", "n000002/0001_01.jpg\n" * 2, ValueError, "name each image once"),
        (
            "train_list.txt",
            "0001_01.jpg\n",
            ValueError,
            r"lines 'person/image'; got '0001_01\.jpg'",
        ),
        (
            "loose_bb_train.csv",
            "NAME_ID,X,Y,W,H\nn000002/0001_01,1,2,3,4\n",
            ValueError,
            r"2 of 3 have none, the first is 'n000002/0002_01\.jpg'",
        ),
        ("loose_bb_train.csv", "name,x,y\n", ValueError, "the columns NAME_ID,X,Y,W,H"),
        (
            "loose_bb_train.csv",
            "NAME_ID,X,Y,W,H\nn000002/0001_01,1,2,three,4\n",
            ValueError,
            "four whole numbers a line; line 2 is 'n000002/0001_01,1,2,three,4'",
        ),
    ],
)
def test_lists_and_boxes_that_do_not_fit_are_refused(vggface2, file, text, error, message):
    (vggface2 / file).write_text(text)
    with pytest.raises(error, match=message):
        open_people(vggface2)


_HEAD = b"NAME_ID,X,Y,W,H\nn000002/0001_01,"


@pytest.mark.parametrize(
    ("file", "data", "message"),
    [
        (
            "loose_bb_train.csv",
            _HEAD + b"99999999999,0,8,8",
            "up to nine digits, four whole numbers a line; line 2 is",
        ),
        (
            "loose_bb_train.csv",
            _HEAD + b"9" * 5000 + b",0,8,8",
            "up to nine digits, four whole numbers a line; line 2 is",
        ),
        (
            "loose_bb_train.csv",
            _HEAD + "\u00b2,0,8,8".encode(),
            "up to nine digits, four whole numbers a line; line 2 is",
        ),
        ("loose_bb_train.csv", _HEAD + b"0,8,8", "four whole numbers a line"),
        ("loose_bb_train.csv", _HEAD + b'"' + b"1" * 200_000 + b'",0,8,8', "a table of commas"),
        ("loose_bb_train.csv", _HEAD + b"0,0,8,\xff", r"train\.csv' must be text in UTF-8; "),
        ("train_list.txt", b"n000002/\xff.jpg", r"list\.txt' must be text in UTF-8; "),
    ],
)
def test_lists_that_are_no_text_or_no_numbers_are_refused(vggface2, file, data, message):
    (vggface2 / file).write_bytes(data)
    with pytest.raises(ValueError, match=message) as refused:
        open_people(vggface2)
    assert refused.type is ValueError
    assert len(str(refused.value)) < 1000


def test_a_pipe_is_no_list(vggface2, tmp_path):
    if not hasattr(os, "mkfifo"):
        pytest.skip("no pipes in folders here")
    os.mkfifo(tmp_path / "list")
    for lists in ([tmp_path / "list"], [vggface2 / "train_list.txt", tmp_path / "list"]):
        with pytest.raises(ValueError, match=r"must be an ordinary file; .*list' is not"):
            ListedImages(vggface2 / "train", *lists)


@pytest.mark.parametrize("margin", [float("nan"), float("inf"), -1.0])
def test_margins_that_leave_no_box_are_refused(vggface2, margin):
    with pytest.raises(ValueError, match="margin must be a finite number above -1; got"):
        open_people(vggface2, box_margin=margin)


def test_a_box_beside_its_image_is_said_with_its_name(vggface2):
    boxes = vggface2 / "loose_bb_train.csv"
    boxes.write_text(boxes.read_text().replace("30,30,40,40", "60,60,9,9"))
    with pytest.raises(ValueError, match=r"box of 'n000007/0001_02\.jpg' must lie on the image"):
        open_people(vggface2).image(2)


def test_images_beside_the_folders_are_refused(folder):
    write(folder / "loose.png", picture(0))
    with pytest.raises(ValueError, match=r"in a folder a person; got 'loose\.png'"):
        PeopleFolder(folder)


def test_what_is_left_out_is_counted_and_logged(folder, caplog):
    chosen = choose_people(PeopleFolder(folder), min_images=2)
    assert chosen.people == ["ann", "bo"]
    assert chosen.rows.tolist() == list(range(8))
    assert chosen.labels.tolist() == [0] * 5 + [1] * 3
    assert chosen.left_out == {
        "people without images": 1,
        "people with fewer than 2 images": 1,
        "images of these": 1,
    }
    assert [record.message for record in caplog.records] == [
        "left out: 1 people without images",
        "left out: 1 people with fewer than 2 images",
        "left out: 1 images of these",
    ]


def test_classes_have_no_gap_where_the_first_people_are_left_out():
    table = SimpleNamespace(people=["a", "b", "c", "d"], labels=np.array([3, 0, 1, 1, 3, 2, 3]))
    chosen = choose_people(table, min_images=2)
    assert (chosen.people, chosen.rows.tolist()) == (["b", "d"], [0, 2, 3, 4, 6])
    assert chosen.labels.tolist() == [1, 0, 0, 1, 1]


@pytest.mark.parametrize(
    ("min_images", "message"),
    [
        (6, r"two people must have 6 images or more; of 4 people 0 do, .* images of one are 5"),
        (4, "of 4 people 1 do"),
        (0, "min_images must be at least 1; got 0"),
    ],
)
def test_a_filter_that_leaves_nobody_is_refused(folder, min_images, message):
    with pytest.raises(ValueError, match=message):
        choose_people(PeopleFolder(folder), min_images)


def test_a_share_of_each_persons_images_is_held_out():
    counts = {1: 0, 2: 1, 49: 1, 70: 1, 74: 1, 76: 2, 100: 2, 363: 7}
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), [*counts]))
    held_out = hold_out(labels, 0.02, seed=1)
    assert np.bincount(labels[held_out], minlength=8).tolist() == list(counts.values())
    np.testing.assert_array_equal(hold_out(labels, 0.02, seed=1), held_out)
    assert (hold_out(labels, 0.02, seed=2) != held_out).any()
    # However large the share, somebody is left to train on.
    assert (np.bincount(labels[~hold_out(labels, 0.99, 0)], minlength=8) >= 1).all()


@pytest.mark.parametrize(
    ("labels", "share", "message"),
    [([0, 1], 0.02, "nobody has two"), ([0, 0], 1.0, "must lie between 0 and 1; got 1.0")],
)
def test_a_hold_out_that_holds_nothing_out_is_refused(labels, share, message):
    with pytest.raises(ValueError, match=message):
        hold_out(np.array(labels), share, 0)


class Ramps:
    """Images whose red value is the column and whose green value is the row."""

    people = ("one", "two")
    aligned = False

    def __init__(self, count, bad=()):
        self.labels = np.arange(count) % 2
        self.decoded = []
        self._bad = set(bad)

    def __len__(self):
        return len(self.labels)

    def name(self, row):
        return f"ramp {row}"

    def image(self, row):
        self.decoded.append(row)
        if row in self._bad:
            raise ValueError("damaged")
        rows, columns = np.indices((256, 256))
        return np.stack([columns, rows, np.full_like(rows, row % 256)], 2).astype(np.uint8)


def _source(table, **settings):
    return StreamedImages(table, np.arange(len(table)), table.labels, **settings)


def _values(images):
    """Undo the standardisation: values 0 to 255."""
    zero, one = (normalise_images(torch.full((1, 3, 1, 1), float(value))) for value in (0, 1))
    return 255 * (images - zero) / (one - zero)


def test_training_crops_are_224_of_256_at_a_random_place():
    images, labels = _source(Ramps(200)).batch(0, 0, 200, 224)
    values = _values(images)
    across, down = values[:, 0], values[:, 1]
    rows = values[:, 2, 0, 0].round().long()
    torch.testing.assert_close(labels, rows % 2)
    # One pixel of the crop is one pixel of the image: nothing was scaled.
    torch.testing.assert_close(
        across[:, 0, -1] - across[:, 0, 0], torch.full((200,), 223.0), atol=1.1, rtol=0
    )
    for corner in (across[:, 0, 0], down[:, 0, 0]):
        assert -0.5 <= float(corner.min()) < 2
        assert 30 < float(corner.max()) <= 32.5
        assert float(corner.mean()) == pytest.approx(16, abs=2)
    assert np.corrcoef(across[:, 0, 0], down[:, 0, 0])[0, 1] < 0.25


def test_validation_crops_are_the_centre():
    values = _values(_source(Ramps(4), random=False).batch(0, 0, 4, 224)[0])
    torch.testing.assert_close(values[:, 0, 0], torch.arange(16, 240).repeat(4, 1).float())
    torch.testing.assert_close(values[:, 1, :, 5], torch.arange(16, 240).repeat(4, 1).float())


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_batches_are_the_same_for_any_number_of_workers_and_any_part(workers):
    whole = _source(Ramps(10)).batch(7, 4, 12, 32)
    with workers_for(workers) as pool:
        source = _source(Ramps(10), workers=pool)
        source.batch(7, 0, 4, 32)  # Begins to decode what comes next.
        for _ in range(2):
            parts = [source.batch(7, first, 3, 32) for first in (4, 7, 10, 13)]
            for mine, expected in zip(zip(*parts, strict=True), whole, strict=True):
                assert torch.equal(torch.cat(mine), expected)
    assert not torch.equal(_source(Ramps(10)).batch(8, 4, 12, 32)[0], whole[0])


def test_no_more_than_the_next_batch_of_a_million_is_decoded():
    table = Ramps(1_000_000)
    with workers_for(2) as pool:
        source = _source(table, workers=pool)
        for first in (0, 8, 16):
            began = time.monotonic()
            assert source.batch(0, first, 8, 32)[0].shape == (8, 3, 32, 32)
        assert time.monotonic() - began < 5
    assert 24 <= len(table.decoded) == len(set(table.decoded)) <= 32


def test_an_unreadable_image_stops_the_run_by_its_name():
    for workers in (0, 2):
        with workers_for(workers) as pool, pytest.raises(ValueError, match="'ramp 3' cannot be"):
            _source(Ramps(8, bad=[3]), workers=pool).batch(0, 0, 8, 32)


def test_an_unreadable_image_can_be_left_out_and_is_counted(caplog):
    whole = _source(Ramps(8)).batch(0, 0, 8, 32)
    kept = whole[0][:, 2, 0, 0] != whole[0][:, 2, 0, 0][_place_of(3)]
    for workers in (0, 2):
        with workers_for(workers) as pool:
            source = _source(Ramps(8, bad=[3]), workers=pool, on_unreadable="leave out")
            images, labels = source.batch(0, 0, 8, 32)
            source.batch(0, 8, 8, 32)
        assert torch.equal(images, whole[0][kept])
        assert torch.equal(labels, whole[1][kept])
        assert source.unreadable == {"ramp 3"}
    said = [record.message for record in caplog.records]
    assert said == ["left out: image 'ramp 3' cannot be read: damaged"] * 2


def _place_of(row):
    from sfpose.training.faces import pass_order

    return pass_order(8, 0, 0, 8).tolist().index(row)


def test_settings_that_mean_nothing_are_refused():
    with pytest.raises(ValueError, match="on_unreadable must be 'error' or 'leave out'"):
        _source(Ramps(2), on_unreadable="ignore")
    with pytest.raises(ValueError, match="workers must be 0 or more; got -1"), workers_for(-1):
        pass


def test_a_damaged_file_is_said_with_its_name(folder):
    (folder / "bo" / "1.png").write_bytes(b"no image")
    table = PeopleFolder(folder)
    buffer = io.BytesIO()
    Image.fromarray(picture(0)).save(buffer, format="JPEG")
    (folder / "ann" / "0.png").write_bytes(buffer.getvalue()[:-300])
    source = StreamedImages(table, np.arange(9), table.labels, on_unreadable="leave out")
    assert source.batch(0, 0, 9, 32)[0].shape == (7, 3, 32, 32)
    assert source.unreadable == {"ann/0.png", "bo/1.png"}


def test_parts_of_a_data_set_are_no_people(tmp_path):
    for name in ("train/ann/1.png", "Val/bo/2.png"):
        path = tmp_path / name
        path.parent.mkdir(parents=True)
        Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(path)
    with pytest.raises(ValueError, match=r"Val, train in .* are parts of a data set: give one"):
        PeopleFolder(tmp_path)
    assert PeopleFolder(tmp_path / "train").people == ["ann"]
