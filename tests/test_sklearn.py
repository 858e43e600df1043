"""scikit-learn's own checks, and the estimators inside its tools."""

import pickle
import warnings
from importlib import import_module

import joblib
import numpy as np
import pytest
import sklearn
from sklearn import config_context
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV, GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MaxAbsScaler
from sklearn.utils.estimator_checks import check_estimator
from sklearn.utils.metadata_routing import get_routing_for_object
from sklearn.utils.validation import check_is_fitted

from sfpose import FaceAligner, FaceEmbedder, TemplateVerifier, build_templates
from sfpose._scoring import chi2_pairs
from sfpose.decision import Condition
from sfpose.metrics import LikelihoodRatioCalibrator

TABLE = "X is images; scikit-learn's table of numbers is refused with ValueError"
PAIRS = "predict and decision_function compare two arrays, as verification does"
MESSAGE = "the input is refused with ValueError, in other words than scikit-learn's"
DISTANCES = "X is one distance a comparison, y whether it is genuine; a table is refused"
POSITIVE = "descriptors are not negative, and the check draws negative ones"

_ON_FIT_DATA = [
    "check_fit_score_takes_y",
    "check_estimators_overwrite_params",
    "check_dont_overwrite_parameters",
    "check_estimators_fit_returns_self",
    "check_readonly_memmap_input",
    "check_n_features_in_after_fitting",
    "check_positive_only_tag_during_fit",
    "check_estimators_dtypes",
    "check_complex_data",
    "check_dtype_object",
    "check_estimators_empty_data_messages",
]

# Every check that gets as far as data. What is left is about parameters, tags and names.
_ON_DATA = [
    *_ON_FIT_DATA,
    "check_pipeline_consistency",
    "check_estimators_nan_inf",
    "check_estimators_pickle",
    "check_f_contiguous_array_estimator",
    "check_transformer_data_not_an_array",
    "check_transformer_general",
    "check_transformer_preserve_dtypes",
    "check_transformers_unfitted_stateless",
    "check_methods_sample_order_invariance",
    "check_methods_subset_invariance",
    "check_fit2d_1sample",
    "check_fit2d_1feature",
    "check_dict_unchanged",
    "check_fit_idempotent",
    "check_fit_check_is_fitted",
    "check_n_features_in",
    "check_fit2d_predict1d",
]

EXPECTED = {
    "FaceAligner": dict.fromkeys(_ON_DATA, TABLE),
    "FaceEmbedder": {
        **dict.fromkeys(_ON_DATA, TABLE),
        "check_requires_y_none": MESSAGE,
    },
    "LikelihoodRatioCalibrator": dict.fromkeys(
        [
            *_ON_FIT_DATA,
            "check_estimators_nan_inf",
            "check_estimator_sparse_tag",
            "check_estimator_sparse_array",
            "check_estimator_sparse_matrix",
            "check_f_contiguous_array_estimator",
            "check_transformer_data_not_an_array",
            "check_transformer_general",
            "check_methods_sample_order_invariance",
            "check_methods_subset_invariance",
            "check_fit2d_1sample",
            "check_fit2d_1feature",
            "check_dict_unchanged",
            "check_n_features_in",
            "check_fit2d_predict1d",
            "check_requires_y_none",
        ],
        DISTANCES,
    ),
    "TemplateVerifier": {
        "check_fit_score_takes_y": "the second argument of fit is called subjects",
        **dict.fromkeys(
            [
                "check_estimators_overwrite_params",
                "check_estimators_fit_returns_self",
                "check_readonly_memmap_input",
                "check_n_features_in_after_fitting",
                "check_positive_only_tag_during_fit",
                "check_pipeline_consistency",
                "check_estimators_pickle",
            ],
            POSITIVE,
        ),
        **dict.fromkeys(
            [
                "check_complex_data",
                "check_dtype_object",
                "check_estimators_empty_data_messages",
                "check_estimator_sparse_tag",
                "check_estimator_sparse_array",
                "check_estimator_sparse_matrix",
                "check_fit2d_1sample",
            ],
            MESSAGE,
        ),
        **dict.fromkeys(
            [
                "check_estimators_dtypes",
                "check_estimators_nan_inf",
                "check_f_contiguous_array_estimator",
                "check_methods_sample_order_invariance",
                "check_methods_subset_invariance",
                "check_dict_unchanged",
                "check_fit_idempotent",
                "check_fit2d_predict1d",
            ],
            PAIRS,
        ),
    },
}


class _AskedForTables:
    """Hides the tag that images are no tables, with which no check would run."""

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = True
        return tags


class _Aligner(_AskedForTables, FaceAligner):
    pass


class _Embedder(_AskedForTables, FaceEmbedder):
    pass


class _Calibrator(_AskedForTables, LikelihoodRatioCalibrator):
    pass


@pytest.mark.parametrize(
    ("estimator", "name", "count"),
    [
        (_Aligner(), "FaceAligner", 46),
        (_Embedder(), "FaceEmbedder", 47),
        (_Calibrator(), "LikelihoodRatioCalibrator", 48),
        (TemplateVerifier(), "TemplateVerifier", 40),
    ],
    ids=["FaceAligner", "FaceEmbedder", "LikelihoodRatioCalibrator", "TemplateVerifier"],
)
def test_scikit_learns_checks_fail_only_for_a_reason(estimator, name, count):
    if tuple(map(int, sklearn.__version__.split(".")[:2])) != (1, 9):
        pytest.skip("the number of checks is that of scikit-learn 1.9")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = check_estimator(estimator, on_fail=None, on_skip=None)
    failed = {r["check_name"]: r["exception"] for r in results if r["status"] == "failed"}
    assert set(failed) == set(EXPECTED[name])
    assert all(
        isinstance(error, (ValueError, AssertionError, TypeError, IndexError))
        for error in failed.values()
    )
    skipped = [r["check_name"] for r in results if r["status"] == "skipped"]
    assert skipped == ["check_array_api_input"]
    assert len(results) == count


def test_every_estimator_is_checked():
    """Public classes with get_params are in the list above."""
    homes = [import_module(name) for name in ("sfpose", "sfpose.metrics")]
    public = [(name, getattr(home, name)) for home in homes for name in home.__all__]
    assert {name for name, value in public if hasattr(value, "get_params")} == set(EXPECTED)


def test_tags_say_what_goes_in():
    for estimator in (FaceAligner(), FaceEmbedder()):
        tags = estimator.__sklearn_tags__()
        assert not tags.input_tags.two_d_array
        assert not tags.requires_fit
    assert FaceEmbedder(weights=None).__sklearn_tags__().requires_fit
    assert LikelihoodRatioCalibrator().__sklearn_tags__().input_tags.one_d_array


def _people(count=12, images=4, width=60, seed=0):
    rng = np.random.default_rng(seed)
    centres = rng.gamma(1.0, 1.0, (count, width))
    subjects = np.repeat(np.arange(count), images)
    return rng.gamma(centres[subjects] * 3 + 0.1), subjects


def _errors_at_threshold(verifier, descriptors, subjects):
    """Minus the sum of both error rates over all pairs, at the fitted threshold."""
    first, second = np.triu_indices(len(subjects), 1)
    genuine = subjects[first] == subjects[second]
    accepted = chi2_pairs(descriptors[first], descriptors[second]) <= verifier.threshold_
    return -(accepted[~genuine].mean() + (~accepted)[genuine].mean())


@pytest.mark.filterwarnings("ignore:a threshold needs at least 10 people; got 6")
@pytest.mark.parametrize("routing", [False, True])
def test_grid_search_over_a_verifier_with_folds_of_people(routing):
    descriptors, subjects = _people()
    folds = GroupKFold(2)
    with sklearn.config_context(enable_metadata_routing=routing):
        if routing:
            folds.set_split_request(groups=True)
        search = GridSearchCV(
            TemplateVerifier(groups=None),
            {"target_fmr": [0.5, 0.2]},
            scoring=_errors_at_threshold,
            cv=folds,
        )
        search.fit(descriptors, subjects, groups=subjects)
    expected = []
    for target in (0.5, 0.2):
        scores = []
        for train, test in GroupKFold(2).split(descriptors, subjects, subjects):
            assert not set(subjects[train]) & set(subjects[test])
            verifier = TemplateVerifier(target, groups=None).fit(
                descriptors[train], subjects[train]
            )
            scores.append(_errors_at_threshold(verifier, descriptors[test], subjects[test]))
        expected.append(np.mean(scores))
    np.testing.assert_allclose(search.cv_results_["mean_test_score"], expected)
    assert search.best_estimator_.calibration_.people == 12


@pytest.mark.parametrize("inside", ["alone", "pipeline"])
def test_poses_are_routed_to_the_verifier_and_cut_as_its_fold_is(inside):
    descriptors, subjects = _people(24, 6)
    poses = np.tile(["frontal", "profile", "profile"], 48)
    seen = []

    def keep(search, rows, people):
        verifier = search if inside == "alone" else search[-1]
        seen.append({name: c.impostor_pairs for name, c in verifier.calibrations_.items()})
        return 0.0

    with sklearn.config_context(enable_metadata_routing=True):
        verifier = TemplateVerifier(0.5, groups="pose").set_fit_request(poses=True)
        search = GridSearchCV(
            verifier if inside == "alone" else make_pipeline(MaxAbsScaler(), verifier),
            {},
            scoring=keep,
            cv=GroupKFold(2).set_split_request(groups=True),
            refit=False,
        )
        search.fit(descriptors, subjects, groups=subjects, poses=poses)
    expected = []
    for train, _ in GroupKFold(2).split(descriptors, subjects, subjects):
        people, shown = subjects[train], poses[train]
        first, second = np.triu_indices(len(train), 1)
        apart = people[first] != people[second]
        kinds = np.sort(np.stack([shown[first], shown[second]]), axis=0)[:, apart]
        pairs = {Condition(): int(apart.sum())}
        for kind in [("frontal", "frontal"), ("frontal", "profile"), ("profile", "profile")]:
            pairs[Condition(poses=kind)] = int(np.equal(kinds.T, kind).all(axis=1).sum())
        expected.append(pairs)
    assert seen == expected


def test_descriptors_and_subjects_are_no_metadata():
    """They are X and y: a request for them would give them twice."""
    assert set(get_routing_for_object(TemplateVerifier()).fit.requests) == {"poses", "cohort"}
    assert not get_routing_for_object(LikelihoodRatioCalibrator()).fit.requests
    with (
        sklearn.config_context(enable_metadata_routing=True),
        pytest.raises(TypeError, match=r"Unexpected args: \{'subjects'\}"),
    ):
        TemplateVerifier().set_fit_request(subjects=True)


def test_a_pipeline_from_photos_to_a_calibrated_verifier(photos):
    """A frozen embedder is not trained again; subjects reach the verifier as y."""
    rng = np.random.default_rng(0)
    images = [np.roll(photos[k % 3], 3 * k, axis=1) for k in range(8)]
    images += [
        np.clip(image + rng.integers(-30, 30, 3), 0, 255).astype(np.uint8) for image in images
    ]
    subjects = np.arange(16) % 4
    steps = make_pipeline(FrozenEstimator(FaceEmbedder()), TemplateVerifier(target_fmr=0.2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        steps.fit(images, subjects)
        alone = TemplateVerifier(target_fmr=0.2).fit(FaceEmbedder().transform(images), subjects)
    assert steps[-1].threshold_ == alone.threshold_
    changed = clone(steps).set_params(templateverifier__target_fmr=0.5)
    assert changed[-1].target_fmr == 0.5


def test_clones_repr_and_pickles_of_a_pipeline(photos):
    pipeline = make_pipeline(FaceAligner(policy="largest"), FaceEmbedder(align="done"))
    expected = pipeline.transform(photos)
    np.testing.assert_array_equal(clone(pipeline).transform(photos), expected)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(pipeline)).transform(photos), expected)
    page = pipeline._repr_html_()
    assert "FaceAligner" in page
    assert "FaceEmbedder" in page
    assert "policy=&#x27;largest&#x27;" in page or "largest" in repr(pipeline)


def test_pandas_output_goes_on_into_templates(photos):
    pandas = pytest.importorskip("pandas")
    embedder = FaceEmbedder().set_output(transform="pandas")
    frame = embedder.transform(photos)
    assert isinstance(frame, pandas.DataFrame)
    built = build_templates(frame, ["a", "a", "b"])
    np.testing.assert_allclose(built.templates[0], frame.to_numpy()[:2].mean(0), rtol=1e-6)
    assert TemplateVerifier().verify(frame.iloc[:2], frame.iloc[2]).distance >= 0


def test_loky_workers_answer_as_this_process_does(photos):
    embedder = FaceEmbedder()
    expected = embedder.transform(photos)
    work = (joblib.delayed(embedder.transform)([photo]) for photo in photos)
    rows = joblib.Parallel(n_jobs=2, backend="loky")(work)
    np.testing.assert_allclose(np.concatenate(rows), expected, rtol=1e-4, atol=1e-7)


def test_n_jobs_follows_the_parallel_config(photos):
    expected = FaceEmbedder(n_jobs=2).transform(photos)
    with joblib.parallel_config(n_jobs=2):
        np.testing.assert_allclose(FaceEmbedder().transform(photos), expected, rtol=1e-5, atol=1e-8)


def test_a_pipeline_from_photos_has_the_names_of_the_descriptors(photos):
    pipeline = make_pipeline(FaceAligner(), FaceEmbedder("small", align="done"))
    names = pipeline.get_feature_names_out()
    assert names[[0, -1]].tolist() == ["faceembedder0", "faceembedder255"]
    with config_context(transform_output="pandas"):
        assert pipeline.transform(photos).columns.tolist() == names.tolist()
        assert FaceAligner().transform(photos).ndim == 4


def test_a_verifier_decides_before_fit_and_scikit_learn_knows():
    check_is_fitted(TemplateVerifier())
    assert not TemplateVerifier().__sklearn_tags__().requires_fit
