"""RecordIO files that lie: refused with a reason, in little memory."""

import resource

import numpy as np
import pytest

pytest.importorskip("torch", reason="training needs the [train] extra")
pytest.importorskip("onnx", reason="training needs the [train] extra")

from test_training_recordio import MAGIC, faces, labelled, part, png, write

from sfpose.training.recordio import RecordFile, RecordImages

WRONG = [np.inf, -np.inf, np.nan, -1, 0.5, 2**24, 4e9, 3e38]


def _refused(path, message):
    with pytest.raises(ValueError, match=message):
        RecordImages(path)


@pytest.mark.parametrize("wrong", WRONG)
def test_labels_that_count_nothing_are_refused(tmp_path, wrong):
    path = tmp_path / "train.rec"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for key, labels in ((0, [6, wrong]), (0, [wrong, 9]), (8, [3, wrong]), (8, [wrong, 6])):
        write(path, {**faces(), key: labelled(labels)})
        _refused(path, rf"whole numbers in 0 \.\.\. 16777215; record {key} of .* has ")
    write(path, {1: labelled([3], png(1)[0]), 5: labelled([wrong], png(2)[0])})
    _refused(path, "whole numbers in .*; record 5 of ")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000


def test_a_range_beyond_all_records_costs_nothing(tmp_path):
    path = write(tmp_path / "train.rec", faces(_8=labelled([3, 2**24 - 1])))
    _refused(path, "record 8 .* must name images that are there; there is no record 9")
    path = write(tmp_path / "train.rec", faces(_8=labelled([2**23, 2**24 - 1])))
    _refused(path, "there is no record 8388608")


def test_people_of_near_numbers_keep_their_own_names(tmp_path):
    records = {key: labelled([1234566 + key], png(key)[0]) for key in (1, 2)}
    assert RecordImages(write(tmp_path / "a.rec", records)).people == ["1234567", "1234568"]


@pytest.mark.parametrize(
    "line", ["0\t-1", "0\t-9223372036854775808", "-1\t0", "0\t4611686018427387904"]
)
def test_places_outside_of_the_file_are_refused(tmp_path, line):
    path = write(tmp_path / "train.rec", faces())
    path.with_suffix(".idx").write_text(line)
    _refused(path, r"keys of 0 or more and offsets in 0 \.\.\. \d+; got key -?\d and offset ")


@pytest.mark.parametrize(
    "index", ["0\t99999999999999999999", b"\xff\xfe0\t0", "\u00b2\t0", "9" * 5000]
)
def test_an_index_that_is_none_is_refused(tmp_path, index):
    path = write(tmp_path / "train.rec", faces())
    path.with_suffix(".idx").write_bytes(index if isinstance(index, bytes) else index.encode())
    _refused(path, "must hold lines 'key<TAB>offset'")


@pytest.mark.parametrize("flag", range(1, 8))
def test_parts_in_an_order_that_no_writer_knows_are_refused(tmp_path, flag):
    path = tmp_path / "a.rec"
    path.with_suffix(".idx").write_text("1\t0\n")
    whole = labelled([3], png(1)[0])
    path.write_bytes(part(flag, whole))
    message = "ends? after|end of the file" if flag == 1 else f"of kind 0 or 1; got kind {flag}"
    for read in (RecordFile.read, RecordFile.read_header):
        with pytest.raises(ValueError, match=message):
            read(RecordFile(path), 1)
    if flag > 3 or flag == 1:
        path.write_bytes(part(1, whole[:40]) + part(flag, whole[40:]))
        with pytest.raises(ValueError, match=f"of kind 2 or 3; got kind {flag}"):
            RecordFile(path).read(1)


def test_a_length_beyond_the_file_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "a.rec"
    path.write_bytes(MAGIC + (2**29 - 1).to_bytes(4, "little") + bytes(60))
    path.with_suffix(".idx").write_text("1\t0\n")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    _refused(path, "must hold 536870911 bytes; the file ends after 60")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000
