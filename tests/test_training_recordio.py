"""RecordIO, on files built byte by byte from its specification."""

import io

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torch", reason="training needs the [train] extra")
pytest.importorskip("onnx", reason="training needs the [train] extra")

from sfpose.training.paper import PaperStage
from sfpose.training.people import open_people
from sfpose.training.recordio import RecordFile, RecordImages

MAGIC = bytes.fromhex("0a23d7ce")


def part(flag, data):
    """Magic number, three bits of flag over 29 bits of length, data, filling to 4 bytes."""
    word = (flag << 29) | len(data)
    return MAGIC + word.to_bytes(4, "little") + data + bytes(-len(data) % 4)


def record(data):
    """A record as the writer splits it: at every magic number at a multiple of 4."""
    parts, begin = [], 0
    for place in range(0, len(data) - 3, 4):
        if data[place : place + 4] == MAGIC:
            parts.append(data[begin:place])
            begin = place + 4
    parts.append(data[begin:])
    if len(parts) == 1:
        return part(0, data)
    return b"".join(
        [part(1, parts[0]), *(part(2, piece) for piece in parts[1:-1]), part(3, parts[-1])]
    )


def labelled(labels, data=b"", *, flag=None, identifier=0):
    """Flag, label, id and id2 of IRHeader; several labels follow it."""
    several = len(labels) > 1 or flag is not None
    values = np.array(labels, dtype="<f4")
    header = (len(labels) if several else 0).to_bytes(4, "little")
    header += bytes(4) if several else values.tobytes()
    header += identifier.to_bytes(8, "little") + bytes(8)
    return header + (values.tobytes() if several else b"") + data


def png(seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue(), pixels


def write(path, records):
    """Write records {key: contents} and their index."""
    data, lines = b"", []
    for key, contents in records.items():
        lines.append(f"{key}\t{len(data)}\n")
        data += record(contents)
    path.write_bytes(data)
    path.with_suffix(".idx").write_text("".join(lines))
    return path


def faces(**changes):
    """Three people with two, no and three images, as MS1M lays them out."""
    records = {0: labelled([6, 9])}
    records |= {key: labelled([(0, 0, 2, 2, 2)[key - 1]], png(key)[0]) for key in range(1, 6)}
    records |= {6: labelled([1, 3]), 7: labelled([3, 3]), 8: labelled([3, 6])}
    return records | {int(key[1:]): value for key, value in changes.items()}


def test_a_record_written_out_by_hand_is_read(tmp_path):
    # Magic, length 29, flag 0, label 2.5, id 7, id2 0, "hello", three bytes of filling.
    data = "0a23d7ce 1d000000 00000000 00002040 0700000000000000 0000000000000000 68656c6c6f 000000"
    (tmp_path / "one.rec").write_bytes(bytes.fromhex(data))
    (tmp_path / "one.idx").write_text("3\t0\n")
    file = RecordFile(tmp_path / "one.rec")
    assert file.read(3)[24:] == b"hello"
    label, identifier = file.read_header(3)
    assert (label.tolist(), identifier) == ([2.5], 7)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"a",
        b"abcd",
        b"abcd" + MAGIC + b"efghi",
        MAGIC,
        MAGIC * 3,
        b"abcd" + MAGIC + b"efgh" + MAGIC + b"ij",
        b"ab" + MAGIC + b"cd",
    ],
)
def test_records_that_hold_the_magic_number_come_back_whole(tmp_path, data):
    path = write(tmp_path / "split.rec", {5: b"before", 1: data, 2: b"after"})
    file = RecordFile(path)
    assert [file.read(key) for key in (5, 1, 2)] == [b"before", data, b"after"]
    assert file.keys.tolist() == [1, 2, 5]


def test_headers_of_several_labels_and_of_split_records_are_read(tmp_path):
    split = labelled([1, 2, 3], b"", identifier=4) + MAGIC + b"rest"
    file = RecordFile(write(tmp_path / "h.rec", {0: labelled([9, 8], b"x"), 1: split}))
    assert [part.tolist() for part in file.read_header(0)[:1]] == [[9, 8]]
    label, identifier = file.read_header(1)
    assert (label.tolist(), identifier) == ([1, 2, 3], 4)


def test_people_come_from_the_ranges_of_the_header(tmp_path):
    write(tmp_path / "train.rec", faces())
    table = open_people(tmp_path)
    assert isinstance(table, RecordImages)
    assert table.aligned
    assert table.people == ["6", "7", "8"]
    assert table.labels.tolist() == [0, 0, 2, 2, 2]
    for row in range(5):
        np.testing.assert_array_equal(table.image(row), png(row + 1)[1])
    assert table.name(4) == "train.rec[5]"
    # Aligned faces are taken whole, others cropped.
    assert PaperStage(table).crop_share == 1.0
    assert PaperStage(table, share=0.9).crop_share == 0.9


def test_ranges_of_people_may_lie_in_any_order(tmp_path):
    records = faces(_6=labelled([4, 6]), _8=labelled([1, 4]))
    table = open_people(write(tmp_path / "train.rec", records))
    assert table.people == ["6", "7", "8"]
    assert table.labels.tolist() == [0, 0, 2, 2, 2]
    for row, key in enumerate((4, 5, 1, 2, 3)):
        np.testing.assert_array_equal(table.image(row), png(key)[1])
        assert table.name(row) == f"train.rec[{key}]"


def test_without_a_header_every_record_is_an_image(tmp_path):
    records = {
        4: labelled([10], png(4)[0]),
        7: labelled([3, 0.5], png(7)[0]),
        9: labelled([10], png(9)[0], flag=1),
    }
    table = open_people(write(tmp_path / "any.rec", records))
    assert table.people == ["3", "10"]
    assert table.labels.tolist() == [1, 0, 1]
    np.testing.assert_array_equal(table.image(1), png(7)[1])
    np.testing.assert_array_equal(table.image(2), png(9)[1])


@pytest.mark.parametrize(
    ("records", "message"),
    [
        (faces(_7=labelled([3])), "record 7 .* must give a person's first and last image; got 1"),
        (faces(_8=labelled([3, 11])), "record 8 .* must name images that are there; .* record 9"),
        (faces(_0=labelled([6, 12])), r"people's records 6 to 11; there is no record 9"),
        (faces(_0=labelled([6, 6])), "must name people; got none"),
        (faces(_8=labelled([2, 6])), "record 8 .* images of nobody else; record 6 names some"),
        ({1: b"short"}, "must hold a header of 24 bytes; got 5"),
        ({1: labelled([1, 2])[:-4]}, "must hold 2 labels; got 4 bytes"),
    ],
)
def test_files_whose_records_do_not_fit_are_refused(tmp_path, records, message):
    with pytest.raises(ValueError, match=message):
        RecordImages(write(tmp_path / "train.rec", records))


def test_damaged_files_are_refused(tmp_path):
    path = write(tmp_path / "train.rec", faces())
    table = RecordImages(path)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=r"end of the file|the file ends after"):
        [table.image(row) for row in range(5)]
    path.write_bytes(b"\0" * len(data))
    with pytest.raises(ValueError, match="magic number 0xced7230a; got 00000000"):
        table.image(0)
    with pytest.raises(ValueError, match="must hold record 77"):
        RecordFile(path).read(77)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ("1\t0\n1\t8\n", "must name each key once"),
        ("one\t0\n", "must hold lines 'key<TAB>offset'"),
        ("1\n2\n", r"got shape \(2, 1\)"),
    ],
)
def test_a_damaged_index_is_refused(tmp_path, index, message):
    path = write(tmp_path / "train.rec", faces())
    path.with_suffix(".idx").write_text(index)
    with pytest.raises(ValueError, match=message):
        RecordFile(path)


def test_a_missing_index_is_said(tmp_path):
    write(tmp_path / "train.rec", faces()).with_suffix(".idx").unlink()
    with pytest.raises(FileNotFoundError, match=r"there is no .*train\.idx"):
        open_people(tmp_path)
