"""Rows of error tables with and without folds, and what tells a run by its teacher."""

from dataclasses import replace

import numpy as np
import pytest

from sfpose.evaluation import format_table, row_from_distances
from sfpose.metrics import k_fold_accuracy, people_interval
from sfpose.protocols import Trials, all_pairs


def _trials(folds=None):
    """Six hundred pairs of ninety people, half of them of one person."""
    first = np.arange(600)
    people = first % 90
    genuine = first % 2 == 0
    others = np.where(genuine, people, (people + 1) % 90)
    return Trials(first, first + 600, genuine, people, others, folds)


def test_accuracy_is_in_percent_and_stands_with_its_rows_alone():
    trials = _trials(np.arange(600) // 60)
    rng = np.random.default_rng(0)
    distances = rng.normal(np.where(trials.is_genuine, 1.0, 3.0))
    with_folds = row_from_distances("pairs", trials, distances, draws=5)
    without = row_from_distances("all", _trials(), distances, draws=5)
    head, *lines = format_table([without, with_folds]).splitlines()
    assert head.endswith("accuracy %")
    mean = 100 * with_folds.accuracy
    error = 100 * with_folds.accuracy_standard_error
    assert error > 0.1
    assert lines[1].endswith(f"  {mean:.2f} +- {error:.2f}")
    assert "+-" not in lines[0]
    assert "accuracy" not in format_table([without])


def test_folds_refuse_whom_nobody_could_acquire():
    """A lost image is no distance of 0: a genuine pair of it is an error."""
    trials = _trials(np.arange(600) // 60)
    distances = np.where(trials.is_genuine, 1.0, 3.0)
    lost = np.arange(600) % 14 == 0  # genuine pairs alone
    row = row_from_distances("pairs", trials, np.where(lost, np.nan, distances), draws=5)
    far = k_fold_accuracy(np.where(lost, 1e6, distances), trials.is_genuine, trials.folds)
    assert row.accuracy == pytest.approx(far.mean)
    assert row.accuracy == pytest.approx(1 - lost.mean())


def test_a_row_as_plain_values_has_each_under_its_name():
    trials = _trials(np.arange(600) // 60)
    distances = np.random.default_rng(0).normal(np.where(trials.is_genuine, 1.0, 3.0))
    row = row_from_distances("pairs", trials, distances, draws=5)
    told = row.to_dict()
    folds = k_fold_accuracy(distances, trials.is_genuine, trials.folds)
    assert (told["name"], told["people"], told["genuine"]) == ("pairs", row.people, 300)
    assert (told["accuracy"], told["accuracy_standard_error"]) == (folds.mean, folds.standard_error)
    assert told["eer_interval"] == [row.eer_interval.low, row.eer_interval.high]
    assert told["eer_interval"][0] < told["eer"] < told["eer_interval"][1]


def test_an_interval_resamples_the_people_of_either_side():
    trials = all_pairs(np.repeat(np.arange(20), 4), range(80))
    distances = np.random.default_rng(0).normal(np.where(trials.is_genuine, 1.0, 3.0))
    row = row_from_distances("all", trials, distances, draws=40)
    sides = trials.first_people, trials.second_people
    of_both, of_one = (
        people_interval(distances, trials.is_genuine, *people, draws=40)
        for people in (sides, sides[:1] * 2)
    )
    assert row.eer_interval == of_both
    assert of_both != of_one


def test_people_of_few_impostor_comparisons_are_those_of_either_side():
    """Six people meet themselves, and one of them two others."""
    first, second = np.array([0, 1, 2, 3, 4, 5, 0, 0]), np.array([0, 1, 2, 3, 4, 5, 1, 2])
    trials = Trials(np.arange(8), np.arange(8) + 8, first == second, first, second)
    row = row_from_distances("few", trials, 1.0 + (first != second), draws=3)
    assert row.people == 3
    assert row.interval_in_percent() == f"below {100 * (1 - 0.05 ** (1 / 3)):.1f}"


def test_both_kinds_of_lost_comparisons_are_counted():
    trials = all_pairs(np.repeat(np.arange(12), 3), range(36))
    distances = 3.0 - 2 * trials.is_genuine + np.linspace(0, 0.1, len(trials))
    lost = (trials.first == 0) | (trials.second == 0)
    row = row_from_distances("lost", trials, np.where(lost, np.nan, distances), draws=5)
    assert (row.rates.failed_genuine, row.rates.failed_impostor) == (2, 33)
    assert "35 comparisons with an image that could not be acquired" in format_table([row])


def test_what_a_teacher_says_of_mirror_images_tells_runs_apart(noise_faces):
    pytest.importorskip("torch", reason="training needs the [train] extra")
    from sfpose.training.checkpoints import taught_facts

    facts = taught_facts(noise_faces, None, None)
    for name in ("embeddings", "mirror_embeddings"):
        other = replace(noise_faces, **{name: getattr(noise_faces, name) + 1})
        changed = taught_facts(other, None, None)
        assert [key for key in facts if facts[key] != changed[key]] == ["what the teacher says"]
