import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from generality.estimators import ClusterRoute, Global, Local, NearestAugment, SoftProbe
from generality.estimators.fine_tune_strategies import matched_epochs


@parametrize_with_checks([Global(), Local(), NearestAugment(), ClusterRoute(clusters=2)])
def test_without_sites_it_is_a_scikit_learn_classifier(estimator, check) -> None:
    check(estimator)


def hospitals(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Three sites; the rule of the third is the opposite one."""
    rng = np.random.default_rng(seed)
    sites = np.repeat(["A", "B", "C"], [120, 60, 40])
    X = rng.normal(size=(220, 5)) + np.where(sites == "C", 4, -4)[:, None] * np.eye(5)[4]
    y = (X[:, 0] * np.where(sites == "C", -1, 1) + 0.3 * rng.normal(size=220) > 0).astype(int)
    return X, y, sites


NET = MLPClassifier((8,), batch_size=16, max_iter=10, n_iter_no_change=10_000, random_state=0)


@pytest.mark.filterwarnings("ignore:Stochastic")
@pytest.mark.parametrize("model", [LogisticRegression(), NET])
@pytest.mark.parametrize(
    ("k", "same"), [(0, Local), (10_000, Global)], ids=["none-is-local", "all-is-global"]
)
def test_the_ends_of_augmentation(model, k, same) -> None:
    X, y, sites = hospitals()
    augmented = NearestAugment(model, k=k).fit(X, y, sites).predict_proba(X, sites)
    np.testing.assert_array_equal(augmented, same(model).fit(X, y, sites).predict_proba(X, sites))


@given(st.integers(0, 100), st.integers(0, 30))
@settings(max_examples=20, deadline=None)
def test_the_rows_added_are_the_most_similar_ones(seed, k) -> None:
    rng = np.random.default_rng(seed)
    X, sites = rng.normal(size=(40, 3)), np.repeat(["A", "B"], [10, 30])
    rows = NearestAugment(k=k).training_rows(X, sites, "A")
    assert set(range(10)) <= set(rows)
    assert len(rows) == 10 + k
    unit = X / np.linalg.norm(X, axis=1, keepdims=True)
    closest = (unit[10:] @ unit[:10].T).max(1)
    added = np.isin(np.arange(10, 40), rows)
    if 0 < k < 30:
        assert closest[added].min() >= closest[~added].max()
    random = NearestAugment(k=k, similarity="random").training_rows(X, sites, "A")
    assert len(random) == 10 + k


def test_only_a_model_of_its_own_reads_the_opposite_rule() -> None:
    X, y, sites = hospitals()
    other, truth, where = hospitals(1)
    at_c = where == "C"
    accuracy = {
        type(strategy).__name__: (strategy.fit(X, y, sites).predict(other, where) == truth)[at_c]
        for strategy in (Global(), Local(), NearestAugment(k=20), ClusterRoute(clusters=2))
    }
    assert accuracy["Global"].mean() < 0.5
    assert accuracy["Local"].mean() > 0.85
    assert accuracy["ClusterRoute"].mean() > 0.85, "C lies apart, so a cluster is as good as a site"


def test_unknown_and_one_class_sites_use_the_global_model() -> None:
    X, y, sites = hospitals()
    y = np.where(sites == "B", 1, y)
    local = Local().fit(X, y, sites)
    assert local.fell_back_ == ["B"]
    assert set(local.models_) == {"A", "C"}
    plain = Global().fit(X, y).predict_proba(X)
    for site in ("B", "D"):
        found = local.predict_proba(X, np.full(len(X), site))
        np.testing.assert_array_equal(found, plain)


@pytest.mark.filterwarnings("ignore:Stochastic")
def test_local_from_the_global_model_goes_on_from_its_weights() -> None:
    X, y, sites = hospitals()
    still = clone_with(NET, learning_rate_init=1e-12)
    local = Local(still, init="global").fit(X, y, sites)
    np.testing.assert_allclose(
        local.predict_proba(X, sites), Global(still).fit(X, y).predict_proba(X), atol=1e-6
    )
    assert local.models_["C"].warm_start
    with pytest.raises(ValueError, match="warm_start"):
        Local(SoftProbe(), init="global").fit(X, y, sites)
    with pytest.raises(ValueError, match="init is"):
        Local(init="other").fit(X, y, sites)


def clone_with(model, **options):
    return type(model)(**{**model.get_params(), **options})


@pytest.mark.filterwarnings("ignore:Stochastic")
@pytest.mark.parametrize(
    "model", [NET, SoftProbe(epochs=10, batch_size=16), make_pipeline(StandardScaler(), NET)]
)
def test_steps_are_matched(model) -> None:
    (epochs,) = matched_epochs(model, rows=40, of=220).values()
    assert epochs == round(10 * 14 / 3)
    if model is NET:
        X, y, sites = hospitals()
        local = Local(NET).fit(X, y, sites)
        assert local.models_["C"].t_ == 40 * 47
        assert local.models_["C"].n_iter_ * 3 == pytest.approx(local.global_.n_iter_ * 14, abs=3)
        assert Local(NET, match_steps=False).fit(X, y, sites).models_["C"].n_iter_ == 10


def test_estimators_without_epochs_are_left_alone() -> None:
    assert matched_epochs(LogisticRegression(), 10, 100) == {}
    assert matched_epochs(MLPClassifier(solver="lbfgs"), 10, 100) == {}


def test_gains_are_given_in_points_and_relative() -> None:
    """The abstract's +11.74 %, read as relative: 51.20 becomes 57.21, which is 6.01 points."""
    from generality.studies.measure.clinic_llm import strategy_rows

    # with 100 rows of each class an AUC is a count of pairs, of 10,000
    test = pd.DataFrame({"label": [0] * 100 + [1] * 100, "site": "west"})

    def scored(pairs: int) -> np.ndarray:
        above, rest = divmod(pairs, 100)  # positives above all negatives, and above some
        places = [100.0] * above + [rest - 0.5] + [-1.0] * (99 - above)
        return np.array([*np.arange(100.0), *places])

    scores = {"global": scored(5120), "local": scored(5721)}
    rows = {row["method"]: row for row in strategy_rows(scores, test, test, {})}
    assert rows["local"]["floor"] == pytest.approx(0.5120)
    assert rows["local"]["points"] == pytest.approx(6.01)
    assert rows["local"]["relative_percent"] == pytest.approx(11.74, abs=5e-3)


def test_what_does_not_fit_is_said() -> None:
    X, y, sites = hospitals()
    with pytest.raises(ValueError, match="one site for each"):
        Global().fit(X, y, sites[:5])
    with pytest.raises(ValueError, match="similarity"):
        NearestAugment(similarity="near").fit(X, y, sites)
    with pytest.raises(ValueError, match="at least 0"):
        NearestAugment(k=-1).fit(X, y, sites)
