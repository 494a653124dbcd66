import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from generality.benchmarks import holdout
from generality.errors import UserError
from generality.measures import GroupAudit, auc_interval, delong, failure_drivers
from generality.measures.group_table import METRICS

Y, SCORE = np.array([0, 0, 1, 1]), np.array([0.1, 0.4, 0.35, 0.8])


def test_the_area_and_delongs_variance() -> None:
    """By hand: V10 = (.5, 1) and V01 = (1, .5), each of variance .125, over 2 examples each."""
    assert delong(Y, SCORE) == (0.75, 0.125)
    audit = GroupAudit(np.tile(Y, 2), np.tile(SCORE, 2), pd.DataFrame({"copy": list("aaaabbbb")}))
    assert audit.table()["value"].tolist() == [0.75] * 3


def test_a_score_that_separates_groups_is_flagged() -> None:
    """Both groups are ranked perfectly, the whole is not: .75 beside 1.0 and 1.0."""
    y, score = np.array([0, 1, 0, 1]), np.array([0.1, 0.2, 0.8, 0.9])
    groups = pd.DataFrame({"group": list("AABB"), "other": list("ABAB")})
    audit = GroupAudit(y, score, groups[["group"]], min_n=2)
    assert audit.table()["value"].tolist() == [0.75, 1.0, 1.0]
    assert audit.simpson() == ["group"]
    even = GroupAudit(np.tile(Y, 2), np.tile(SCORE, 2), pd.DataFrame({"copy": list("aaaabbbb")}))
    assert even.simpson() == []


@given(st.integers(0, 10_000), st.integers(2, 30), st.integers(2, 30))
@settings(max_examples=30, deadline=None)
def test_the_area_is_scikit_learns_whatever_ties(seed, m, n) -> None:
    rng = np.random.default_rng(seed)
    y, score = np.repeat([1, 0], [m, n]), rng.integers(6, size=m + n).astype(float)
    auc, variance = delong(y, score)
    assert METRICS["average_precision"](y, score) == pytest.approx(
        average_precision_score(y, score)
    )
    assert auc == pytest.approx(roc_auc_score(y, score))
    assert variance >= 0
    low, high = auc_interval(y, score)
    assert 0 <= low <= auc + 1e-12
    assert auc - 1e-12 <= high <= 1
    mirrored = auc_interval(y, -score)
    assert mirrored == (pytest.approx(1 - high), pytest.approx(1 - low))


def test_the_interval_covers() -> None:
    """The true area of N(1, 1) against N(0, 1) is Φ(1/√2) = .7602."""
    rng = np.random.default_rng(0)
    y = np.repeat([1, 0], [40, 60])
    hits = 0
    for _ in range(400):
        low, high = auc_interval(y, rng.normal(size=100) + y)
        hits += low <= 0.7602 <= high
    assert 0.92 <= hits / 400 <= 0.98


def audited(**options) -> GroupAudit:
    rng = np.random.default_rng(0)
    site = np.repeat(["large", "middle", "tiny"], [600, 300, 20])
    y = rng.integers(2, size=920)
    strength = pd.Series(site).map({"large": 2.0, "middle": 0.3, "tiny": -2.0}).to_numpy()
    score = 1 / (1 + np.exp(-strength * (2 * y - 1) - rng.normal(size=920)))
    metadata = pd.DataFrame({"site": site, "age": rng.uniform(20, 90, size=920)})
    return GroupAudit(y, score, metadata, **options)


def test_small_groups_are_shown_and_never_the_worst() -> None:
    audit = audited()
    table = audit.table().set_index("group")
    assert table.loc["tiny", "small"]
    assert table.loc["tiny", "value"] < table.loc["middle", "value"]
    assert np.isnan(table.loc["tiny", "p"])
    assert audit.worst()["group"] == "middle"
    assert table.loc["middle", "p_holm"] < 0.001
    assert table.loc["middle", "p_holm"] >= table.loc["middle", "p"]
    assert table.loc["middle", "gap_to_best"] == pytest.approx(
        table.loc["middle", "value"] - table.loc["large", "value"]
    )
    assert (audit.table().query("feature == 'age'")["p_holm"] > 0.05).all()
    with pytest.raises(ValueError, match="no group"):
        audited(min_n=5000).worst()


def test_bins_and_crossed_groups() -> None:
    table = audited(bins={"age": [20, 60, 90]}, intersections=[("site", "age")]).table()
    assert table["feature"].value_counts().to_dict() == {
        "all": 1, "site": 3, "age": 2, "site × age": 6,
    }  # fmt: skip
    assert table.query("feature == 'site × age'")["n"].sum() == 920


@pytest.mark.parametrize("metric", ["accuracy", "brier", "average_precision"])
def test_other_metrics_by_bootstrap(metric) -> None:
    audit = audited(metric=metric, resamples=50)
    table = audit.table()
    assert (table["low"] <= table["value"] + 1e-9).all()
    assert (table["value"] <= table["high"] + 1e-9).all()
    assert audit.worst("site")["group"] == "middle"
    again = audited(metric=metric, resamples=50).table()
    pd.testing.assert_frame_equal(again, table)


def test_a_group_of_one_class_has_no_area() -> None:
    table = GroupAudit([0, 1, 1, 1], SCORE, pd.DataFrame({"g": list("aabb")})).table()
    assert np.isnan(table.set_index("group").loc["b", ["value", "low", "high"]].astype(float)).all()
    assert table.set_index("group").loc["b", "brier"] == pytest.approx((0.65**2 + 0.2**2) / 2)
    missing = pd.DataFrame({"g": ["a", None, "a", "a"]})
    assert set(GroupAudit(Y, SCORE, missing).table()["group"]) == {"all", "a", "missing"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y": [0, 1, 2, 1]}, "labels 0 and 1"),
        ({"score": [0.1, np.nan, 0.2, 0.3]}, "finite"),
        ({"metadata": pd.DataFrame({"g": [1]})}, "same examples"),
        ({"metric": "auroc"}, "metric is"),
        ({"bins": {"h": 2}}, "no column h"),
    ],
)
def test_what_cannot_be_audited(change, message) -> None:
    given = {"y": Y, "score": SCORE, "metadata": pd.DataFrame({"g": list("aabb")})}
    with pytest.raises(ValueError, match=message):
        GroupAudit(**{**given, **change})


# ------------------------------------------------------------------------- drivers


def failures() -> tuple[np.ndarray, pd.DataFrame]:
    rng = np.random.default_rng(0)
    age = rng.uniform(20, 90, size=800)
    illnesses = age / 10 + rng.normal(scale=0.3, size=800)
    ward = rng.choice(["A", "B", "C"], size=800)
    wrong = rng.random(800) < np.where(illnesses > 6, 0.6, 0.1)
    return wrong, pd.DataFrame({"age": age, "illnesses": illnesses, "ward": ward})


@pytest.mark.parametrize("model", ["gbdt", "logistic"])
def test_drivers_are_found_and_what_goes_together_is_judged_together(model) -> None:
    wrong, metadata = failures()
    alone = failure_drivers(wrong, metadata, model=model, repeats=1).set_index("driver")
    together = failure_drivers(
        wrong, metadata, model=model, repeats=1, grouped={"frailty": ["age", "illnesses"]}
    ).set_index("driver")
    assert together.loc["frailty", "importance"] > alone.loc["age", "importance"]
    assert together.loc["frailty", "p_holm"] < 0.05
    assert together.loc["ward", "importance"] < together.loc["frailty", "importance"] / 10
    assert together.attrs["skill"] > 0.7


def test_a_loss_is_explained_too_and_nothing_by_noise() -> None:
    wrong, metadata = failures()
    rng = np.random.default_rng(1)
    found = failure_drivers(metadata["age"] + rng.normal(size=800), metadata, repeats=1)
    assert found["driver"][0] == "age"
    none = failure_drivers(rng.integers(2, size=800), metadata, repeats=1)
    assert (none["p_holm"] > 0.05).all()
    with pytest.raises(ValueError, match="at least 10 errors"):
        failure_drivers(np.arange(800) < 3, metadata)
    with pytest.raises(ValueError, match="at most once"):
        failure_drivers(wrong, metadata, grouped={"a": ["age"], "b": ["age"]})


def test_what_is_missing_and_when_it_was_are_drivers_too() -> None:
    rng = np.random.default_rng(0)
    known = rng.random(600) > 0.3
    late = rng.integers(0, 700, size=600)
    wrong = rng.random(600) < 0.05 + 0.4 * ~known + 0.4 * (late > 500)
    metadata = pd.DataFrame(
        {
            "age": np.where(known, rng.uniform(20, 90, size=600), np.nan),
            "day": pd.Timestamp("2015-01-01") + pd.to_timedelta(late, unit="D"),
            "ward": pd.Categorical(rng.choice(["A", "B"], size=600)),
            "kin": rng.choice(["yes", None], size=600),
            "visits": pd.array(rng.choice([1, 2, None], size=600), dtype="Int64"),
        }
    )
    for model in ("gbdt", "logistic"):
        found = failure_drivers(wrong, metadata, model=model, repeats=1)
        assert set(found["driver"][:2]) == {"age", "day"}
        assert found["importance"][1] > 0.05
        assert found["importance"][1] > 2 * found["importance"][2]
    for errors, table in ((wrong, metadata[[]]), (np.full(600, np.nan), metadata)):
        with pytest.raises(ValueError, match="at least one column"):
            failure_drivers(errors, table)


# ------------------------------------------------------------------------- holding out


@given(st.lists(st.integers(0, 9), min_size=2, max_size=40), st.floats(0.05, 0.9))
@settings(max_examples=40, deadline=None)
def test_what_is_later_is_tested_on(times, share) -> None:
    try:
        train, test = holdout(times, by="time", share=share)
    except UserError:
        assert sorted(times)[-max(1, round(share * len(times)))] == min(times)
        return
    assert sorted([*train, *test]) == list(range(len(times)))
    assert max(np.array(times)[train]) < min(np.array(times)[test])
    assert len(test) >= round(share * len(times))


def test_sites_dates_and_patients() -> None:
    sites = ["A", "B", "C", "B", "A"]
    assert holdout(sites, by="site", held=["B", "C"])[0].tolist() == [0, 4]
    days = ["2015-02-01", "2016-01-01", "2014-05-05", "2016-07-01", "2013-01-01"]
    train, test = holdout(days, by="time", held="2016-01-01", groups=["p", "p", "q", "r", "s"])
    assert (train.tolist(), test.tolist()) == ([2, 4], [1, 3])
    with pytest.raises(UserError, match="nothing to test"):
        holdout(sites, by="site", held="D")
    with pytest.raises(UserError, match="nothing to train on"):
        holdout(days, by="time", held="2000")
    for wrong in ({"by": "time"}, {"by": "site", "share": 0.5}, {"by": "time", "share": 1.0}):
        with pytest.raises(ValueError, match=r"held and share|is for"):
            holdout(days, **wrong)
