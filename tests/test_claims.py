import json
import math
import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from generality.claims import (
    Claim,
    Outcome,
    Row,
    Test,
    Verdict,
    equivalent,
    exponent_within,
    greater,
    holm,
    interacts,
    judge,
    less,
    monotone,
    paired,
    rank_correlates,
)

FLOOR = [0.70, 0.72, 0.71, 0.70, 0.73]
NAIVE = [0.77, 0.78, 0.79, 0.76, 0.80]
HARD = [0.76, 0.775, 0.79, 0.765, 0.79]


@pytest.fixture(autouse=True)
def _no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def table(floor=FLOOR, **methods) -> pd.DataFrame:
    return pd.DataFrame(
        Row(method=method, seed=seed, score=score, floor=floor[seed], ceiling=0.85)
        for method, scores in methods.items()
        for seed, score in enumerate(scores)
    )


def study(rng: np.random.Generator, seeds: int, sd: float = 1.0, **means: float) -> pd.DataFrame:
    """Methods that share each seed's luck and have some of their own."""
    shared = rng.normal(0, 1, seeds)
    return table(shared, **{m: shared + v + rng.normal(0, sd, seeds) for m, v in means.items()})


def verdict_of(test, rows: pd.DataFrame) -> str:
    return judge([Claim("", test)], rows)[0].verdict


ROWS = table(naive=NAIVE, hard=HARD)


# paired, greater, less


def test_paired_t_test_by_hand() -> None:
    # differences .07 .06 .08 .06 .07: mean .068, sd .0083666, se .00374166, t(4) 18.1738
    found = greater("naive", "floor")(ROWS)
    assert found.effect == pytest.approx(0.068)
    assert found.p == pytest.approx(2.6945e-05, rel=1e-3)
    assert (found.low, found.high) == pytest.approx((0.0576115, 0.0783885), abs=1e-6)
    assert (found.seeds, found.unit, found.note) == (5, "score", "")


def test_paired_t_test_is_scipys() -> None:
    found = paired("naive", ">", "hard")(ROWS)
    theirs = stats.ttest_rel(NAIVE, HARD, alternative="greater")
    interval = stats.ttest_rel(NAIVE, HARD).confidence_interval()
    assert found.p == pytest.approx(theirs.pvalue)
    assert found.p_opposite == pytest.approx(1 - theirs.pvalue)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))


@pytest.mark.parametrize(
    ("test", "expected"),
    [
        (greater("naive", "floor"), "holds"),
        (greater("floor", "naive"), "fails"),
        (less("naive", "ceiling"), "holds"),
        (greater("ceiling", "floor"), "holds"),
        (greater("naive", 0.75), "holds"),
        (greater(0.9, "naive"), "holds"),
        (less("naive", 0.75), "fails"),
        (greater("naive", "hard"), "inconclusive"),
        (greater("naive", "floor", margin=0.05), "holds"),
        (greater("naive", "floor", margin=0.2), "fails"),  # surely there, surely too small
        (equivalent("naive", "hard", margin=0.02), "holds"),
        (equivalent("naive", "floor", margin=0.02), "fails"),
        (equivalent("naive", "hard", margin=0.005), "inconclusive"),
    ],
)
def test_verdicts(test, expected: str) -> None:
    assert verdict_of(test, ROWS) == expected


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 10), st.integers(0, 10_000), st.floats(-2, 2))
def test_greater_and_less_mirror_each_other(seeds: int, seed: int, effect: float) -> None:
    rows = study(np.random.default_rng(seed), seeds, a=effect, b=0)
    up, down, back = (test(rows) for test in (greater("a", "b"), less("a", "b"), greater("b", "a")))
    assert (up.effect, up.low, up.high) == (down.effect, down.low, down.high)
    assert (up.effect, up.low, up.high) == pytest.approx((-back.effect, -back.high, -back.low))
    assert (up.p, up.p_opposite) == pytest.approx((back.p_opposite, back.p))
    assert (down.p, down.p_opposite) == pytest.approx((back.p, back.p_opposite))
    assert up.p + up.p_opposite == pytest.approx(1)
    assert up.low <= up.effect <= up.high
    assert (up.p_opposite <= 0.025) == (up.high <= 0)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.05, 2))
def test_fails_means_the_interval_is_below_the_margin(seed: int, margin: float) -> None:
    rows = study(np.random.default_rng(seed), 6, a=0.5, b=0)
    found = greater("a", "b", margin=margin)(rows)
    assert (verdict_of(greater("a", "b", margin=margin), rows) == "fails") == (found.high <= margin)


@pytest.mark.slow
def test_no_false_alarms_under_the_null() -> None:
    rng = np.random.default_rng(0)
    claims = [Claim("", greater("a", "b")), Claim("", less("a", "b")), Claim("", greater("c", "b"))]
    held = np.zeros(3)
    for _ in range(200):
        verdicts = judge(claims, study(rng, 5, a=0, b=0, c=0))
        held += [v.verdict == "holds" for v in verdicts]
    assert held.sum() / 200 < 0.07  # family-wise: Holm over the three
    assert held.sum() > 0


@pytest.mark.slow
def test_type_one_error_of_a_single_claim() -> None:
    rng = np.random.default_rng(1)
    rate = np.mean([greater("a", "b")(study(rng, 5, a=0, b=0)).p <= 0.05 for _ in range(500)])
    assert 0.025 < rate < 0.07


@pytest.mark.slow
def test_equivalence_is_rarely_claimed_at_the_margin_itself() -> None:
    rng = np.random.default_rng(2)
    test = equivalent("a", "b", margin=1.0)
    held = [test(study(rng, 5, sd=0.3, a=1.0, b=0)).p <= 0.05 for _ in range(300)]
    assert 0.02 < np.mean(held) < 0.07


def test_equivalence_is_two_one_sided_tests() -> None:
    found = equivalent("naive", "hard", margin=0.02)(ROWS)
    gains = np.subtract(NAIVE, HARD)
    sides = [
        stats.ttest_1samp(gains, bound, alternative=side).pvalue
        for bound, side in ((-0.02, "greater"), (0.02, "less"))
    ]
    assert found.p == pytest.approx(max(sides))


# pairing


def grid(*, lacking: tuple[str, str, int] | None = None) -> pd.DataFrame:
    """Two methods on an easy and a hard task; b is better by .01 on each."""
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        Row(method=method, task=task, seed=seed, score=score, agreement=rng.uniform())
        for seed in range(6)
        for task, level in (("easy", 0.9), ("hard", 0.5))
        for method, score in (("a", level + seed / 100), ("b", level + seed / 100 + 0.01))
        if (method, task, seed) != lacking
    ).assign(score=lambda t: t["score"] + rng.normal(0, 1e-4, len(t)))


def test_an_unpaired_cell_does_not_bias_the_comparison() -> None:
    found = greater("b", "a")(grid(lacking=("a", "hard", 5)))
    assert found.effect == pytest.approx(0.01, abs=1e-3)  # 0.04 − 0.02 if cells were pooled
    assert found.seeds == 6
    assert found.note == "1 of 12 cells lack an arm and are left out"


def test_seeds_are_the_replicates_not_rows() -> None:
    rows = grid()
    repeated = pd.concat([rows.assign(copy=i) for i in range(20)])
    assert greater("b", "a")(repeated).p == pytest.approx(greater("b", "a")(rows).p)


def test_measurements_and_settings_of_one_arm_are_not_paired_on() -> None:
    rows = grid().assign(alpha_max=lambda t: np.where(t["method"] == "b", 0.75, np.nan))
    assert greater("b", "a")(rows) == greater("b", "a")(grid().drop(columns="agreement"))


def test_another_column_can_name_the_sides() -> None:
    rows = grid().assign(epochs=lambda t: np.where(t["task"] == "easy", 10, 2))
    assert greater("easy", "hard", by="task")(rows).effect == pytest.approx(0.4, abs=1e-3)
    assert greater(10, 2, by="epochs")(rows).effect == pytest.approx(0.4, abs=1e-3)
    assert greater("b", "a", on="agreement")(rows).unit == "agreement"


@pytest.mark.parametrize("wanted", ["hard", ["hard"], lambda column: column == "hard"])
def test_where_takes_a_value_a_list_or_a_function(wanted) -> None:
    found = greater("a", 0.0, where={"task": wanted})(grid())
    assert found.effect == pytest.approx(0.525, abs=1e-3)
    assert found.seeds == 6


def test_nullable_and_categorical_columns_change_nothing() -> None:
    rows = grid()
    typed = rows.convert_dtypes().astype({"task": "category", "score": "Float64"})
    assert greater("b", "a")(typed) == greater("b", "a")(rows)
    assert interacts(("method", "b", "a"), ("task", "easy", "hard"))(typed).seeds == 6


def test_order_of_rows_and_columns_does_not_matter() -> None:
    rows = grid()
    shuffled = rows.sample(frac=1, random_state=0)[rows.columns[::-1]]
    assert greater("b", "a")(shuffled).p == pytest.approx(greater("b", "a")(rows).p)


# what is missing, too little or degenerate

SHAPES = [
    greater("x", "y"),
    greater("x", "floor"),
    less("x", 0.5),
    equivalent("x", "y", margin=0.1),
    monotone("size"),
    monotone("method", order=["x", "y"]),
    rank_correlates("size", "score"),
    exponent_within("size", "score", low=0, high=1),
    interacts(("method", "x", "y"), ("size", 1, 2)),
]


@pytest.mark.parametrize("test", SHAPES, ids=lambda test: test.description)
@pytest.mark.parametrize(
    "rows",
    [
        pd.DataFrame(),
        ROWS,
        ROWS.drop(columns="seed"),
        ROWS.assign(score=np.nan, size=1),
        ROWS.assign(method="x", size="large", score=None),
        ROWS[ROWS["seed"] < 0],
    ],
    ids=["empty", "no x", "no seed", "no scores", "no numbers", "no rows"],
)
def test_what_is_missing_is_named_not_raised(test, rows: pd.DataFrame) -> None:
    [verdict] = judge([Claim("", test)], rows)
    assert verdict.verdict == "inconclusive"
    assert verdict.note.startswith("missing: ")
    assert math.isnan(verdict.effect)


def test_declared_factors_keep_a_measurement_from_being_paired_on() -> None:
    rows = ROWS.assign(steps=[1, 2, 1, 1, 2, 2, 1, 2, 1, 2])
    claim = [Claim("", greater("hard", "naive"))]
    [guessed], [declared] = judge(claim, rows), judge(claim, rows, factors=["size"])
    assert (guessed.seeds, guessed.note) == (2, "6 of 8 cells lack an arm and are left out")
    assert declared == judge(claim, ROWS)[0]
    assert declared.seeds == 5


def test_declared_factors_are_paired_on() -> None:
    easy = ROWS.assign(task="easy")
    odd = ROWS[ROWS["method"] == "hard"].assign(task="odd", score=0.0)
    [verdict] = judge(
        [Claim("", greater("hard", "naive"))], pd.concat([easy, odd]), factors=["task"]
    )
    assert verdict.effect == pytest.approx(
        judge([Claim("", greater("hard", "naive"))], ROWS)[0].effect
    )
    assert verdict.note == "5 of 10 cells lack an arm and are left out"


def test_notes_name_the_missing_thing() -> None:
    assert greater("bootstrap", "naive")(ROWS).note == "missing: method 'bootstrap'"
    assert greater("naive", "hard", on="f1")(ROWS).note == "missing: column f1"
    assert greater("naive", 0, where={"seed": 9})(ROWS).note == "missing: rows where seed=9"
    assert greater("naive", "floor")(ROWS.assign(floor=None)).note == (
        "missing: floor of method 'naive'"
    )
    disjoint = ROWS[(ROWS["method"] == "naive") == (ROWS["seed"] < 2)]
    assert "can be paired" in greater("naive", "hard")(disjoint).note


@pytest.mark.parametrize(
    "test",
    [
        greater("a", "b"),
        equivalent("a", "b", margin=9),
        monotone("size", where={"method": "a"}),
        exponent_within("size", "score", low=-9, high=9),
        interacts(("method", "a", "b"), ("size", 1, 8)),
    ],
)
def test_one_seed_concludes_nothing(test) -> None:
    sizes = [1, 2, 4, 8]
    rows = pd.DataFrame(
        Row(method=m, size=size, score=size * k, seed=0)
        for m, k in (("a", 2.0), ("b", 1.0))
        for size in sizes
    )
    found = test(rows)
    assert (found.seeds, verdict_of(test, rows)) == (1, "inconclusive")
    assert math.isfinite(found.effect)
    assert "one seed" in found.note


@pytest.mark.parametrize(
    ("seeds", "gain", "expected"),
    [
        (4, 0.1, "inconclusive"),
        (5, 0.1, "holds"),
        (5, 0.0, "inconclusive"),
        (6, 0.0, "fails"),
        (6, -0.1, "fails"),
    ],
)
def test_no_variance_is_a_sign_test(seeds: int, gain: float, expected: str) -> None:
    base = np.random.default_rng(0).uniform(0.5, 0.9, seeds)
    rows = table(base, a=base + gain)
    found = greater("a", "floor")(rows)
    assert verdict_of(greater("a", "floor"), rows) == expected
    assert (found.p if gain > 0 else found.p_opposite) == 0.5**seeds
    assert (found.low, found.high) == pytest.approx((gain, gain))
    assert found.note == "the same on every seed, so a sign test"


def test_rounding_is_not_a_difference() -> None:
    scores = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    rows = table(scores, a=(scores * 3 + scores) / 4)
    assert greater("a", "floor")(rows).effect == 0
    assert verdict_of(equivalent("a", "floor", margin=0.001), rows) == "holds"


@pytest.mark.parametrize(
    "build",
    [
        lambda: paired("a", "=", "b"),
        lambda: greater("a", "b", margin=-1),
        lambda: equivalent("a", "b", margin=0),
        lambda: monotone("a", direction="up"),
        lambda: rank_correlates("a", "b", sign=0),
        lambda: exponent_within("a", "b", low=1, high=0),
        lambda: interacts(("a", 1, 2), ("b", 1, 2), sign=2),
    ],
)
def test_arguments_that_make_no_sense(build) -> None:
    with pytest.raises(ValueError, match="not"):
        build()


# trends, correlations, exponents, interactions


def ladder(slope: float, seeds: int = 5, levels: int = 4, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        Row(size=10**level, name="abcdefgh"[level], seed=s, score=slope * level + rng.normal())
        for s in range(seeds)
        for level in range(levels)
    )


@pytest.mark.parametrize("seed", range(3))
def test_monotone_is_pages_test(seed: int) -> None:
    rows = ladder(0.4, seed=seed)
    found = monotone("size")(rows)
    scores = rows.pivot_table(index="seed", columns="size", values="score").to_numpy()
    assert found.p == pytest.approx(stats.page_trend_test(scores).pvalue, abs=0.02)
    rhos = [stats.spearmanr(range(4), row).statistic for row in scores]
    assert found.effect == pytest.approx(np.mean(rhos))


def test_monotone_verdicts() -> None:
    rising = ladder(2.0)
    assert verdict_of(monotone("size"), rising) == "holds"
    assert verdict_of(monotone("name", order="abcd"), rising) == "holds"
    assert verdict_of(monotone("name", order="dcba"), rising) == "fails"
    assert verdict_of(monotone("size", direction="decreasing"), rising) == "fails"
    assert verdict_of(monotone("size"), ladder(0.0, seed=1)) == "inconclusive"
    assert "in order" in monotone("name")(rising).note
    assert monotone("name", order="abz")(rising).note == "missing: name 'z'"
    assert monotone("size")(rising).high <= 1


def test_monotone_ignores_levels_confounded_with_another_factor() -> None:
    rows = pd.DataFrame(  # flat in size within each task; the easy task lacks the small size
        Row(size=size, task=task, seed=s, score=level + 0.01 * ((s + size) % 3))
        for s in range(6)
        for size in (1, 2, 3)
        for task, level in (("easy", 0.9), ("hard", 0.5))
        if (size, task) != (1, "easy")
    )
    assert verdict_of(monotone("size"), rows) == "inconclusive"
    assert monotone("size")(rows).effect == pytest.approx(0, abs=0.3)


@pytest.mark.slow
def test_type_one_error_of_monotone() -> None:
    held = [monotone("size")(ladder(0, levels=3, seed=i)).p <= 0.05 for i in range(150)]
    assert 0 < np.mean(held) < 0.09


def pool(rho: float, n: int, seed: int = 0, seeds: int = 1) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    x, noise = rng.normal(size=(2, n))
    y = rho * x + math.sqrt(1 - rho**2) * noise
    return pd.DataFrame(
        Row(model=i, measure=x[i] + 0.001 * s, gap=y[i], seed=s)
        for i in range(n)
        for s in range(seeds)
    )


def test_rank_correlation_is_scipys() -> None:
    rows = pool(0.5, 30)
    found = rank_correlates("measure", "gap")(rows)
    theirs = stats.spearmanr(rows["measure"], rows["gap"], alternative="greater")
    assert found.effect == pytest.approx(theirs.statistic)
    assert found.p == pytest.approx(theirs.pvalue, abs=0.01)
    bootstrap = stats.bootstrap(
        (rows["measure"], rows["gap"]),
        lambda a, b: stats.spearmanr(a, b).statistic,
        paired=True,
        vectorized=False,
        method="percentile",
        n_resamples=999,
        rng=np.random.default_rng(0),
    ).confidence_interval
    assert (found.low, found.high) == pytest.approx((bootstrap.low, bootstrap.high), abs=0.06)


def test_rank_correlation_verdicts() -> None:
    strong = pool(0.95, 30)
    assert verdict_of(rank_correlates("measure", "gap"), strong) == "holds"
    assert verdict_of(rank_correlates("measure", "gap", sign=-1), strong) == "fails"
    assert verdict_of(rank_correlates("measure", "gap"), pool(0.0, 30)) == "inconclusive"
    assert verdict_of(rank_correlates("measure", "gap", minimum=0.9), pool(0.4, 60)) == "fails"


def test_the_unit_of_a_rank_correlation_is_not_the_row() -> None:
    many = pool(0.5, 12, seeds=10)
    found = rank_correlates("measure", "gap", unit="model")(many)
    assert found.p == rank_correlates("measure", "gap")(pool(0.5, 12)).p
    assert (found.note, found.seeds) == ("12 units", 10)
    assert "there are 3" in rank_correlates("measure", "gap")(pool(0.5, 3)).note


def power_law(exponent: float, seeds: int = 5, noise: float = 0.02) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        Row(tokens=n, loss=3 * n**exponent * math.exp(rng.normal(0, noise)), seed=s)
        for s in range(seeds)
        for n in (10, 100, 1000, 10_000)
    )


def test_exponent_of_a_power_law() -> None:
    rows = power_law(-0.34)
    found = exponent_within("tokens", "loss", low=-0.4, high=-0.3)(rows)
    slopes = [
        stats.linregress(np.log(one["tokens"]), np.log(one["loss"])).slope
        for _, one in rows.groupby("seed")
    ]
    assert found.effect == pytest.approx(np.mean(slopes))
    interval = stats.ttest_1samp(slopes, 0).confidence_interval()
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    exact = exponent_within("tokens", "loss", low=-0.4, high=-0.3)(power_law(-0.34, noise=0))
    assert exact.effect == pytest.approx(-0.34)


def test_exponent_verdicts() -> None:
    def verdict(low: float, high: float) -> str:
        return verdict_of(exponent_within("tokens", "loss", low=low, high=high), power_law(-0.34))

    assert verdict(-0.4, -0.3) == "holds"
    assert verdict(-0.6, -0.4) == verdict(-0.3, 0) == "fails"
    middle = exponent_within("tokens", "loss", low=-1, high=0)(power_law(-0.34)).effect
    assert verdict(middle, 0) == "inconclusive"
    rows = power_law(-0.34)
    rows.loc[0, "loss"] = -1.0
    note = exponent_within("tokens", "loss", low=-1, high=0)(rows).note
    assert note == "1 of 20 rows lack a positive tokens and loss and are left out"


def factorial(interaction: float) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        Row(
            method=method,
            epochs=epochs,
            task=task,
            seed=s,
            score=0.7
            + 0.1 * (task == "easy")
            + interaction * (method == "confidence" and epochs == 10)
            + rng.normal(0, 0.004),
        )
        for s in range(5)
        for task in ("easy", "hard")
        for method in ("naive", "confidence")
        for epochs in (2, 10)
    )


def test_interaction_is_a_difference_of_differences() -> None:
    test = interacts(("method", "confidence", "naive"), ("epochs", 10, 2))
    rows = factorial(0.05)
    means = rows.groupby(["seed", "epochs", "method"])["score"].mean().unstack(["epochs", "method"])
    by_hand = (means[10]["confidence"] - means[10]["naive"]) - (
        means[2]["confidence"] - means[2]["naive"]
    )
    found = test(rows)
    assert found.effect == pytest.approx(by_hand.mean())
    assert found.p == pytest.approx(stats.ttest_1samp(by_hand, 0, alternative="greater").pvalue)
    assert verdict_of(test, rows) == "holds"
    assert verdict_of(test, factorial(-0.05)) == "fails"
    assert verdict_of(test, factorial(0.0)) == "inconclusive"
    reverse = interacts(("method", "confidence", "naive"), ("epochs", 10, 2), sign=-1)
    assert verdict_of(reverse, factorial(-0.05)) == "holds"
    assert test(rows[rows["epochs"] == 2]).note == "missing: method 'confidence', epochs '10'"


# Holm, judge, Verdict


def test_holm_by_hand() -> None:
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm([0.6, 0.9]), [1, 1])
    np.testing.assert_array_equal(holm([math.nan, 0.02]), [math.nan, 0.02])
    assert holm([]).shape == (0,)


@given(st.lists(st.floats(0, 1), max_size=20))
def test_holm_keeps_the_order_and_lies_between_p_and_bonferroni(p: list[float]) -> None:
    adjusted = holm(p)
    assert (adjusted >= p).all()
    assert (adjusted <= np.minimum(1, len(p) * np.array(p)) + 1e-12).all()
    assert (np.diff(adjusted[np.argsort(p, kind="stable")]) >= 0).all()


def test_judge_corrects_over_the_claims_that_could_be_tested() -> None:
    claims = [
        Claim("a", greater("naive", "floor"), expected_at="smoke"),
        Claim("b", greater("naive", "hard")),
        Claim("c", greater("naive", "absent")),
    ]
    a, b, c = judge(claims, ROWS)
    assert a.p_holm == pytest.approx(2 * a.p)
    assert b.p_holm == pytest.approx(b.p)
    assert math.isnan(c.p_holm)
    assert (a.statement, a.expected_at, a.test) == ("a", "smoke", "score: naive > floor")
    assert judge(claims, ROWS.to_dict("records"))[0] == a
    assert judge([], ROWS) == []


def test_a_claim_that_only_holds_uncorrected_is_inconclusive() -> None:
    weak = Claim(
        "", Test("", lambda rows, factors: Outcome(effect=1, low=0, high=2, p=0.04, seeds=5))
    )
    assert [v.verdict for v in judge([weak], ROWS)] == ["holds"]
    assert [v.verdict for v in judge([weak, weak], ROWS)] == ["inconclusive"] * 2


def test_a_verdict_survives_json() -> None:
    for verdict in judge([Claim("a", greater("naive", "floor")), Claim("b", less("x", "y"))], ROWS):
        text = json.dumps(verdict.to_dict(), allow_nan=False)
        assert repr(Verdict.from_dict({**json.loads(text), "later": 1})) == repr(verdict)
