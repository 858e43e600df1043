"""Distances over what strangers are at, against NumPy in float64."""

import json
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.base import clone

from sfpose import FaceEmbedder, TemplateVerifier
from sfpose._cohort import Cohort
from sfpose._kernels import reference
from sfpose.bundle import VerificationBundle
from sfpose.cli import main
from sfpose.decision import DescriptorForm
from sfpose.metrics import group_error_rates

WIDTH = 60


def _faces(people, images=4, width=WIDTH, seed=0, crowd=0.0):
    """Descriptors of people who resemble each other by ``crowd``, and whose they are."""
    rng = np.random.default_rng(seed)
    shared = np.random.default_rng(99).gamma(1.0, 1.0, width)
    centres = crowd * shared + (1 - crowd) * rng.gamma(1.0, 1.0, (people, width))
    subjects = np.repeat(np.arange(people), images)
    rows = rng.gamma(centres[subjects] * 6 + 0.1)
    return (rows / rows.sum(1, keepdims=True)).astype(np.float32), subjects


@pytest.fixture(scope="module")
def cohort():
    return _faces(300, 1, seed=1)[0]


@pytest.fixture(scope="module")
def fitted(cohort):
    return TemplateVerifier(target_fmr=0.01).fit(*_faces(40), cohort=cohort)


def _normalised(A, B, cohort):
    """All pairs of both: by sorting, one template at a time. 300 people: the nearest 30."""
    sides = []
    for rows in (A, B):
        near = np.sort(reference.chi2_matrix(rows, cohort), axis=1)[:, :30]
        sides.append((near.mean(1), near.std(1)))
    distances = reference.chi2_matrix(A, B)
    out = np.empty_like(distances)
    for i in range(len(A)):
        for j in range(len(B)):
            by_first = (distances[i, j] - sides[0][0][i]) / sides[0][1][i]
            by_second = (distances[i, j] - sides[1][0][j]) / sides[1][1][j]
            out[i, j] = (by_first + by_second) / 2
    return out


def test_all_ways_to_score_are_what_numpy_gives(fitted, cohort):
    rows, _ = _faces(12, seed=5)
    a, b = rows[:20], rows[20:40]
    expected = _normalised(a, b, cohort)
    np.testing.assert_allclose(fitted.score_matrix(a, b), expected, rtol=1e-4, atol=1e-4)
    pairs = fitted.score_pairs(a, b)
    np.testing.assert_allclose(pairs, np.diag(expected), rtol=1e-4, atol=1e-4)
    margins = fitted.decision_function(a, b)
    np.testing.assert_allclose(margins, fitted.threshold_ - pairs, rtol=1e-9)
    result = fitted.verify(a[0], b[0])
    assert result.distance == pytest.approx(expected[0, 0], abs=1e-4)
    assert result.match == (result.distance <= fitted.threshold_)
    mean = fitted.verify(a[:3], b[0]).distance
    expected = _normalised(a[:3].mean(0, keepdims=True), b[:1], cohort)[0, 0]
    assert mean == pytest.approx(expected, abs=1e-4)


def test_the_threshold_is_what_counting_all_pairs_gives(fitted, cohort):
    rows, subjects = _faces(40)
    first, second = np.triu_indices(len(rows), 1)
    genuine = subjects[first] == subjects[second]
    accepted = _normalised(rows, rows, cohort)[first, second] <= fitted.threshold_
    # float32 against float64: a distance on the threshold may fall to either side.
    found = fitted.calibration_
    assert found.achieved_fmr == pytest.approx(accepted[~genuine].mean(), abs=1.5 / 12_480)
    assert found.fnmr == pytest.approx((~accepted)[genuine].mean(), abs=1.5 / 240)
    assert found.achieved_fmr <= 0.01


def test_a_threshold_holds_for_people_whom_the_calibration_lacks(cohort):
    """Of 40 people none is of the crowd, of the cohort half is: what a cohort is for."""
    crowd, people = _faces(60, seed=7, crowd=0.3)
    others, subjects = _faces(60, seed=8)
    strangers = np.concatenate([cohort, _faces(300, 1, seed=9, crowd=0.3)[0]])
    rates = []
    for known in (None, strangers):
        verifier = TemplateVerifier(target_fmr=0.01).fit(*_faces(40), cohort=known)
        scores, genuine, groups = [], [], []
        for name, rows, own in (("crowd", crowd, people), ("others", others, subjects)):
            first, second = np.triu_indices(len(rows), 1)
            scores.append(verifier.score_matrix(rows, rows)[first, second])
            genuine.append(own[first] == own[second])
            groups.append(np.full(len(first), name))
        each = (np.concatenate(parts) for parts in (scores, genuine, groups))
        rates.append(group_error_rates(*each, verifier.threshold_))
    without, normalised = rates
    assert without.fmr[0] > 0.6
    assert normalised.fmr[0] < 0.1
    assert normalised.fmr[1] < without.fmr[1] < 0.025
    assert not normalised.fnmr.any()


@pytest.mark.filterwarnings("ignore:a threshold needs at least 10 people")
@pytest.mark.filterwarnings("ignore:distances must be smaller the more alike")
@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(-20, 20))
def test_scale_and_order_of_sides_do_not_matter(seed, exponent):
    """Distances grow with the descriptors, and so does what strangers are at."""
    rng = np.random.default_rng(seed)
    rows, strangers = rng.gamma(1.0, 1.0, (20, 30)), rng.gamma(1.0, 1.0, (100, 30))
    subjects = np.arange(20) % 4
    verifier = TemplateVerifier(0.3, groups=None).fit(rows, subjects, cohort=strangers)
    factor = 2.0**exponent
    other = TemplateVerifier(0.3, groups=None).fit(
        rows * factor, subjects, cohort=strangers * factor
    )
    found = verifier.score_matrix(rows, rows)
    assert np.isfinite(found).all()
    np.testing.assert_array_equal(found, found.T)
    np.testing.assert_allclose(other.score_matrix(rows * factor, rows * factor), found, rtol=1e-12)
    assert other.threshold_ == pytest.approx(verifier.threshold_, rel=1e-12)


@pytest.mark.filterwarnings("ignore:a threshold needs at least 10 people")
@pytest.mark.parametrize(
    "strangers",
    [np.tile(np.eye(WIDTH), (4, 1)), np.full((100, WIDTH), 1 / WIDTH)],
    ids=["all as far", "all the same"],
)
def test_strangers_who_tell_no_scale_give_finite_distances(strangers):
    rows = np.concatenate([_faces(5)[0], 0.999 * np.eye(WIDTH)[:2] + 0.001 / WIDTH])
    subjects = np.r_[np.repeat(np.arange(5), 4), 5, 5]
    verifier = TemplateVerifier(target_fmr=0.3).fit(rows, subjects, cohort=strangers)
    distances = verifier.score_matrix(rows, rows)
    assert np.isfinite(distances).all()
    # One hundredth of the mean counts as their deviation, or a single side would decide.
    assert distances.min() >= -100


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows[:99], "cohort must hold descriptors of at least 100 people; got 99"),
        (lambda rows: rows[:, :-1] / rows[:, :-1].sum(1, keepdims=True), "cohort must have 60"),
        (lambda rows: rows * 2, "cohort must sum to 1 in each row"),
        (lambda rows: np.where(rows > 0.05, np.nan, rows), "cohort must be finite"),
        (lambda rows: rows[0], r"cohort must have shape \(n, d\)"),
        (lambda rows: rows.astype(str), "cohort must be numbers"),
    ],
)
def test_a_cohort_that_makes_no_sense_is_refused_and_the_fit_stays(fitted, cohort, change, message):
    verifier = pickle.loads(pickle.dumps(fitted))
    with pytest.raises(ValueError, match=message):
        verifier.fit(*_faces(10), cohort=change(cohort))
    rows, _ = _faces(3, seed=3)
    assert verifier.threshold_ == fitted.threshold_
    np.testing.assert_array_equal(verifier.score_pairs(rows, rows), fitted.score_pairs(rows, rows))


def test_people_are_not_held_against_themselves(cohort):
    """As strangers of whom each is near to somebody, they would let in far more than stated."""
    rows, subjects = _faces(10)
    mixed = np.concatenate([cohort, rows[3:5].astype(np.float32)])
    with pytest.raises(ValueError, match=f"got 2 of {len(mixed)} among them"):
        TemplateVerifier(0.3).fit(rows, subjects, cohort=mixed)


def test_it_goes_with_a_pickle_and_not_with_a_clone_or_another_fit(fitted, cohort):
    rows, subjects = _faces(10, seed=3)
    raw = reference.chi2_pairs(rows[:-1], rows[1:])
    kept = pickle.loads(pickle.dumps(fitted)).score_pairs(rows[:-1], rows[1:])
    np.testing.assert_array_equal(kept, fitted.score_pairs(rows[:-1], rows[1:]))
    assert kept.mean() < 0 < raw.mean()
    np.testing.assert_allclose(clone(fitted).score_pairs(rows[:-1], rows[1:]), raw, rtol=1e-5)
    again = TemplateVerifier(0.2).fit(rows, subjects, cohort=cohort).fit(rows, subjects)
    np.testing.assert_allclose(again.score_pairs(rows[:-1], rows[1:]), raw, rtol=1e-5)


def test_threads_do_not_matter(fitted, cohort):
    rows, _ = _faces(80, seed=4)
    threads = pickle.loads(pickle.dumps(fitted)).set_params(n_jobs=3)
    np.testing.assert_array_equal(
        threads.score_matrix(rows, rows[:9]), fitted.score_matrix(rows, rows[:9])
    )


@pytest.fixture(scope="module")
def bundle():
    strangers, _ = _faces(150, 1, 256, seed=1)
    verifier = TemplateVerifier(target_fmr=0.01).fit(*_faces(40, width=256), cohort=strangers)
    return VerificationBundle(FaceEmbedder(), verifier)


@pytest.mark.parametrize("name", ["door", "door.zip"])
def test_a_bundle_keeps_it(bundle, tmp_path, name):
    again = VerificationBundle.load(bundle.save(tmp_path / name))
    rows, _ = _faces(5, width=256, seed=2)
    for template in (rows[0], rows[:3]):
        expected = bundle.verifier.verify(template, rows[3])
        assert again.verifier.verify(template, rows[3]) == expected
    assert again.verifier.calibrations_ == bundle.verifier.calibrations_
    assert VerificationBundle.load(again.save(tmp_path / f"2{name}")).verifier.threshold_ < 0


def test_its_thresholds_serve_no_distance_without_the_cohort(bundle, photos, tmp_path, capsys):
    path = bundle.save(tmp_path / "door")
    rows, _ = _faces(2, width=256)
    with pytest.raises(ValueError, match="by distances less those to its cohort"):
        TemplateVerifier(0.01, weights=path).verify(rows[0], rows[1])
    Image.fromarray(photos[0]).save(tmp_path / "a.png")
    photo = str(tmp_path / "a.png")
    assert main(["verify", photo, photo, "--weights", str(path), "--target-fmr", "0.01"]) != 0
    told = capsys.readouterr().err
    assert "by distances less those to its cohort" in told
    assert "calibrate" not in told
    assert main(["info", "--weights", str(path)]) == 0
    told = capsys.readouterr().out
    assert "calibrated on TemplateVerifier.fit on 40 people" in told
    assert "of distances normalised by the bundle's cohort" in told
    assert f"0.01: {bundle.verifier.threshold_:.4f}" in told


def test_a_changed_cohort_is_refused(bundle, tmp_path):
    path = bundle.save(tmp_path / "door")
    file, manifest = path / "cohort.safetensors", path / "manifest.json"
    original, stated = file.read_bytes(), json.loads(manifest.read_text())
    assert stated["bundle"]["version"] == 2
    file.write_bytes(original[:-1] + b"\x01")
    with pytest.raises(ValueError, match=r"cohort\.safetensors must have the sha256"):
        VerificationBundle.load(path)
    file.unlink()
    with pytest.raises(FileNotFoundError, match=r"must hold cohort\.safetensors"):
        VerificationBundle.load(path)
    file.write_bytes(original)
    for wrong, message in (
        ({"sha256": "0" * 64}, "must have the sha256"),
        ({"sha256": 1}, "must have the sha256"),
        ("yes", "must say .* of its cohort the file; got False and 'yes'"),
    ):
        stated["bundle"]["cohort"] = wrong
        manifest.write_text(json.dumps(stated))
        with pytest.raises(ValueError, match=message):
            VerificationBundle.load(path)
    stated["bundle"]["cohort"] = None
    manifest.write_text(json.dumps(stated))
    with pytest.raises(ValueError, match="must describe a bundle"):
        VerificationBundle.load(path)


def test_many_templates_are_each_held_against_the_twentieth_that_is_nearest():
    """More templates than one part takes, and more strangers than the fewest that count."""
    rng = np.random.default_rng(0)
    rows = rng.random((600, 8))
    strangers = rng.random((1000, 8)).astype(np.float32)
    found = Cohort(strangers, DescriptorForm(8, "none")).nearness(rows)
    near = np.sort(reference.chi2_matrix(rows, strangers), axis=1)[:, :50]
    np.testing.assert_allclose(found.mean, near.mean(axis=1), rtol=1e-5)
    np.testing.assert_allclose(found.deviation, near.std(axis=1), rtol=1e-4)
