"""Names of people, as they come: what NumPy would make of them must not be who they are."""

import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfpose import TemplateVerifier, build_templates
from sfpose._checks import as_labels, check_labels, joined_labels
from sfpose.metrics import (
    PoseErrorDisplay,
    cumulative_match_curve,
    identification_rate_at_fpir,
    people_rate_interval,
)
from sfpose.protocols import VGGFace2Pose, all_pairs
from sfpose.studies import PoseStudies

NAN = float("nan")
MISSING = {
    "a list": ["ann", NAN, NAN, "bo"],
    "with None": ["ann", None, "cy", "bo"],
    "pandas' NA": ["ann", pd.NA, "cy", "bo"],
    "numbers": [1, NAN, 3, 4],
    "a series": pd.Series(["ann", NAN, NAN, "bo"]),
    "objects": np.array(["ann", NAN, NAN, "bo"], object),
    "masked": np.ma.array(["ann", "bo", "bo", "cy"], mask=[0, 1, 0, 0]),
}
if hasattr(np.dtypes, "StringDType"):
    MISSING["NumPy's texts"] = np.array(
        ["ann", NAN, "cy", "bo"], np.dtypes.StringDType(na_object=NAN)
    )
ROWS = np.eye(4)
USES = {
    "templates": lambda names: build_templates(ROWS, names),
    "trials": lambda names: all_pairs(names, [0, 1, 2]),
    "fit": lambda names: TemplateVerifier(0.1).fit(ROWS, names),
    "studies": lambda names: PoseStudies(ROWS, names, ["F"] * 4),
    "the protocol": lambda names: VGGFace2Pose(names, ["F"] * 4),
    "an interval": lambda names: people_rate_interval([0, 1, 0, 1], names, list("abcd")),
    "probes": lambda names: cumulative_match_curve(ROWS, names, ["ann", "bo", "cy", "di"]),
    "a gallery": lambda names: identification_rate_at_fpir(ROWS, ["x"] * 4, names, 0.1),
    "poses": lambda names: PoseErrorDisplay.from_scores([1, 2, 3, 4], [1, 0, 1, 0], names, "abcd"),
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("kind", MISSING)
def test_a_missing_name_is_nobody(use, kind):
    with pytest.raises(ValueError, match="that of row 1 is missing"):
        USES[use](MISSING[kind])


@pytest.mark.parametrize("use", ["templates", "trials", "fit", "studies", "the protocol"])
def test_numbers_among_names_are_nobody_elses(use):
    with pytest.raises(ValueError, match="all by text or all by numbers; got int, str"):
        USES[use]([1, "1", 2, "2"])


def test_people_of_both_sides_are_of_one_kind():
    days = np.array(["2026-01-01", "2026-01-02"], "datetime64[D]")
    for first in ([1, 2], days):
        with pytest.raises(ValueError, match="all by text or all by numbers"):
            people_rate_interval([0, 1], first, ["1", "2"])


def test_large_numbers_are_different_people():
    wide, narrow = np.array([2**63 + 1, 2**63 + 5], np.uint64), np.array([1, 2])
    assert len(np.unique(joined_labels(wide, narrow))) == 4
    names, codes = check_labels([2**63 + 1, 2**63 + 5, -1], 3, "names")
    assert (names.tolist(), codes.tolist()) == ([-1, 2**63 + 1, 2**63 + 5], [1, 2, 0])


def test_a_text_that_ends_in_zeros_is_another():
    assert check_labels(["a", "a\0"], 2, "names")[1].tolist() == [0, 1]


@given(
    st.one_of(
        st.lists(st.integers(), min_size=1),
        st.lists(st.text(), min_size=1),
        st.lists(st.floats(allow_nan=False), min_size=1),
        st.lists(st.binary(), min_size=1),
    )
)
def test_labels_are_what_was_given(values):
    labels = as_labels(values, "names")
    assert labels.tolist() == values
    names, codes = check_labels(values, len(values), "names")
    assert names.tolist() == sorted(set(values))
    assert names[codes].tolist() == values


def test_lists_keep_the_kinds_that_numpy_gives_them():
    assert as_labels(["ann", "bo"], "names").dtype.kind == "U"
    assert as_labels([1, 2], "names").dtype.kind == "i"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert as_labels(("a", "b"), "names").dtype.kind == "U"


def test_a_ragged_list_is_told_with_the_rule():
    with pytest.raises(ValueError, match="groups must name one for each descriptor; got a list"):
        build_templates(ROWS, [["a"], ["b", "c"], "d", "e"])


@pytest.mark.parametrize(
    "rows", [[True, False, True, True], [0.9, 1.9], [0, -1, 3], [0, 4], [[0, 1]]]
)
@pytest.mark.parametrize("side", ["first", "second"])
def test_what_is_no_row_number_is_refused(rows, side):
    sides = {"first": [0, 1], "second": [2, 3], side: rows}
    with pytest.raises(ValueError, match=f"^{side} must "):
        all_pairs(list("aabb"), **sides)
