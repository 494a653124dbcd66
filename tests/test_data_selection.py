"""Choosing training data: sparse clusters, diverse subsets, overlap, synthesis, weak labels."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from generality.claims import metric_validity
from generality.measures import (
    GenerationRisk,
    OutcomeMetric,
    gap_table,
    generation_risk,
    vendi_score,
)
from generality.measures.outcome_metrics import CLASSIFICATION, GENERATION
from generality.selection import (
    DiverseSubset,
    MajorityAgreement,
    NGramIndex,
    SparseClusterFilter,
    SynthesisLoop,
    filter_weak_labels,
    ngram_overlap,
)
from generality.selection.sparse_cluster_filter import sparse_clusters, spherical_kmeans
from generality.selection.synthesis_loop import AcceptAtRandom


def clusters(
    counts: list[int], dim: int = 8, noise: float = 0.05
) -> tuple[torch.Tensor, np.ndarray]:
    g = torch.Generator().manual_seed(0)
    which = np.repeat(np.arange(len(counts)), counts)
    rows = torch.eye(dim)[which] + noise * torch.randn(len(which), dim, generator=g)
    order = torch.randperm(len(which), generator=g)
    return rows[order], which[order.numpy()]


# ------------------------------------------------------------------------- sparse clusters


def test_the_sparse_half_of_clusters_by_hand() -> None:
    assert np.flatnonzero(sparse_clusters([6, 3, 1, 2], 0.5)).tolist() == [2, 3]
    assert np.flatnonzero(sparse_clusters([2, 2, 2], 0.5)).tolist() == [0], "ties: the first"
    assert np.flatnonzero(sparse_clusters([5, 0, 4], 0.5)).tolist() == [1, 2], "empty ones besides"


def test_candidates_of_rare_kinds_pass() -> None:
    pool, _ = clusters([40, 30, 5, 3])
    sparse = SparseClusterFilter(k=4, keep=0.5).fit(pool)
    assert sparse.accept(torch.eye(8)[:4]).tolist() == [False, False, True, True]
    assert sparse.accept(2.5 * np.eye(8)[:4]).tolist() == [False, False, True, True], "any length"
    sparse.add(torch.eye(8)[[3] * 60])
    assert sparse.accept(torch.eye(8)[:4]).tolist() == [False, True, True, False]


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 60), st.integers(1, 12), st.integers(0, 1000))
def test_clusters_cover_the_pool_and_members_are_nearest(n: int, k: int, seed: int) -> None:
    pool = torch.randn(n, 5, generator=torch.Generator().manual_seed(seed))
    centres, members = spherical_kmeans(pool, k, seed=seed)
    assert len(centres) == min(k, n)
    torch.testing.assert_close(centres.norm(dim=1), torch.ones(len(centres)))
    closeness = torch.nn.functional.normalize(pool) @ centres.T
    mine = closeness[torch.arange(n), torch.as_tensor(members)]
    assert (mine >= closeness.max(1).values - 1e-6).all()


def test_a_mapped_pool_is_read_in_blocks(tmp_path) -> None:
    pool, _ = clusters([40, 30, 5, 3])
    np.save(tmp_path / "z.npy", pool.numpy())
    mapped = np.load(tmp_path / "z.npy", mmap_mode="r")
    for method in ("sparse", "k-center", "logdet"):
        one, two = (DiverseSubset(10, method, k=4).select(each) for each in (pool, mapped))
        assert one.tolist() == two.tolist()


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="keep"):
        SparseClusterFilter(keep=0)
    with pytest.raises(ValueError, match="empty pool"):
        SparseClusterFilter().fit(torch.empty(0, 3))
    with pytest.raises(ValueError, match="not finite"):
        SparseClusterFilter(k=1).fit(torch.tensor([[1.0, float("nan")]]))
    with pytest.raises(ValueError, match="call fit"):
        SparseClusterFilter().accept(torch.eye(2))
    assert SparseClusterFilter(k=2).fit([[1, 0], [0, 1]]).accept([[1.0, 0]]).tolist() == [True]
    with pytest.raises(ValueError, match="method"):
        DiverseSubset(3, "random")


# ------------------------------------------------------------------------- subsets


@pytest.mark.parametrize("method", ["sparse", "k-center", "logdet"])
def test_subsets_are_more_diverse_than_random_ones(method: str) -> None:
    pool, which = clusters([150, 30, 6, 6, 6], dim=12, noise=0.1)
    chosen = DiverseSubset(20, method, k=5).select(pool)
    assert len(set(chosen.tolist())) == 20
    assert set(which[chosen].tolist()) == {0, 1, 2, 3, 4}
    drawn = [np.random.default_rng(s).choice(len(pool), 20, replace=False) for s in range(10)]
    assert vendi_score(pool[chosen]) > max(vendi_score(pool[rows]) for rows in drawn)
    assert DiverseSubset(500, method).select(pool).tolist() == list(range(len(pool)))


def test_log_determinant_is_greedy_by_hand() -> None:
    g = torch.Generator().manual_seed(1)
    pool = torch.nn.functional.normalize(torch.randn(12, 4, generator=g))

    def volume(rows: list[int]) -> float:
        return float(torch.logdet(torch.eye(4) + pool[rows].T @ pool[rows]))

    found = DiverseSubset(5, "logdet").select(pool).tolist()
    for taken in range(1, 5):  # the first are all the same length
        rest = set(range(12)) - set(found[:taken])
        best = max(volume([*found[:taken], row]) for row in rest)
        assert volume(found[: taken + 1]) == pytest.approx(best, abs=1e-5)


# ------------------------------------------------------------------------- overlap


def test_overlap_of_ten_words() -> None:
    test = ["one two three four five six seven eight nine ten eleven"]
    ten = "So: Two, three four five six seven eight nine ten ELEVEN!"
    nine = "three four five six seven eight nine ten eleven twelve"
    assert ngram_overlap([ten, nine, ""], test).tolist() == [True, False, False]
    assert ngram_overlap([nine], test, n=9).tolist() == [True]
    assert NGramIndex(["What is 2 + 2?"]).hit("what is 2 + 2"), "short texts as a whole"
    assert NGramIndex(["巴黎是不是法国的城市"], n=8).hit("请问巴黎是不是法国的首都")


# ------------------------------------------------------------------------- synthesis


def test_majority_agreement() -> None:
    judge = MajorityAgreement(lambda r: r or None)
    assert judge({}, ["a", "b", "b"]) == "b"
    assert judge({}, ["a", "b", "c"]) is None
    assert judge({}, ["", "", "c"]) is None, "no answer agrees with nothing"
    assert judge({}, ["a", "b", "c", "a"]) is None, "only the first n count"
    with pytest.raises(ValueError, match="tau"):
        MajorityAgreement(str, n=2, tau=3)


class Directions:
    def features(self, ds):
        return torch.eye(4)[[int(record["prompt"][0]) for record in ds]]


def loop(accepting, **options) -> SynthesisLoop:
    def generate(shown, count, seed):
        rng = np.random.default_rng(seed)
        kinds = rng.choice(4, size=count, p=[0.7, 0.2, 0.07, 0.03])
        return [{"prompt": f"{kind} {rng.integers(10_000)}"} for kind in kinds]

    def solve(candidates, seed):
        rng = np.random.default_rng(seed)
        return [[str(rng.integers(2)) for _ in range(3)] for _ in candidates]

    return SynthesisLoop(
        generate,
        solve,
        MajorityAgreement(lambda r: r),
        Directions(),
        accepting,
        batch=60,
        **options,
    )


POOL = [
    {"prompt": f"{kind} start{i}", "response": "0"}
    for kind, n in enumerate((7, 2, 1))
    for i in range(n)
]


def test_the_loop_keeps_what_is_rare_and_says_what_it_did() -> None:
    sparse = loop(SparseClusterFilter(k=4, keep=0.5))
    rounds = list(sparse.run(POOL, 80))
    assert rounds[-1].pool == len(sparse.records) == 80
    assert rounds == sparse.log
    for done in rounds:
        assert done.generated >= done.agreed >= done.clean >= done.accepted >= done.added
    assert all(record["response"] in "01" for record in sparse.records)
    assert len({record["prompt"] for record in sparse.records}) == 80
    at_random = loop(AcceptAtRandom(0.5))
    last = list(at_random.run(POOL, 80))[-1]
    assert rounds[-1].vendi > last.vendi + 0.3
    again = loop(SparseClusterFilter(k=4, keep=0.5))
    assert list(again.run(POOL, 80)) == rounds


def test_the_loop_refuses_what_is_contaminated_and_stops_in_time() -> None:
    refuse_all = loop(AcceptAtRandom(1.0), decontaminator=lambda ds: np.ones(len(ds), bool))
    rounds = list(refuse_all.run(POOL, 50, rounds=2))
    assert [done.clean for done in rounds] == [0, 0]
    assert refuse_all.records == POOL
    with pytest.raises(ValueError, match="at least one"):
        next(refuse_all.run([], 5))


# ------------------------------------------------------------------------- does it predict?


def test_validity_of_a_metric_by_hand() -> None:
    outcome = np.array([0.5, 0.6, 0.55, 0.7, 0.65, 0.8, 0.72])
    found = metric_validity(np.array([1, 2, 3, 4, 5, 6, 7]), outcome)
    assert found.correlation == pytest.approx(1 - 6 * 6 / (7 * 48), abs=1e-9)
    assert found.low <= found.correlation <= found.high
    assert found.p < 0.05
    assert np.isnan(found.partial)


def test_a_confounder_explains_it_all() -> None:
    rng = np.random.default_rng(0)
    size = np.arange(40.0)
    metric, outcome = size + rng.normal(size=40), size + rng.normal(size=40)
    found = metric_validity(metric, outcome, partial=[size])
    assert found.correlation > 0.9
    assert found.p < 0.01
    assert found.partial_low < 0 < found.partial_high
    assert found.partial_p > 0.05
    with pytest.raises(ValueError, match="at least 5"):
        metric_validity(metric[:4], outcome[:4], partial=[size[:4]])


def test_noise_is_rarely_called_a_predictor() -> None:
    rng = np.random.default_rng(0)
    found = [metric_validity(*rng.normal(size=(2, 15))).p for _ in range(15)]
    assert sum(p <= 0.05 for p in found) <= 3


# ------------------------------------------------------------------------- outcomes


def test_toxicity_by_hand() -> None:
    scores = np.array([[0.1, 0.6, 0.2], [0.3, 0.4, 0.2], [0.05, 0.1, 0.9]])
    found = [metric.score(scores) for metric in GENERATION]
    assert found == pytest.approx([0.316667, 0.633333, 0.666667], abs=1e-6)


def test_classification_by_hand() -> None:
    y, guess = [1, 1, 1, *[0] * 7], [1, 0, 0, 0, 0, 0, 0, 0, 1, 0]
    found = [metric.score(guess, y) for metric in CLASSIFICATION]
    assert found == pytest.approx([0.70, 0.595238, 0.68], abs=1e-6)
    assert [m.score(np.eye(2)[guess], y) for m in CLASSIFICATION] == pytest.approx(found)


def test_lower_is_better_and_disagreement_is_said() -> None:
    mean = OutcomeMetric("risk", lambda scores, truth: scores, lower_is_better=True)
    [row] = gap_table(0.62, 0.48, 0.40, [mean])
    assert row.recovered == pytest.approx(0.636364, abs=1e-6)
    y = np.array([1, 1, *[0] * 8])
    weak = np.array([1, 1, 1, 1, 1, 0, 0, 0, 0, 0])
    with pytest.warns(UserWarning, match="helps by accuracy.* not by balanced accuracy"):
        table = gap_table(weak, np.zeros(10, int), y, references=y)
    assert table[0].recovered > 0 > table[1].recovered


def test_risk_of_generation() -> None:
    def generate(prompts, seed):
        return [f"{prompt} {seed}" if seed else "" for prompt in prompts]

    risk = generation_risk(
        generate, ["a", "b"], lambda texts: [float(t == "b 2") for t in texts], seeds=range(4)
    )
    assert isinstance(risk, GenerationRisk)
    assert (risk.mean, risk.expected_max, risk.probability, risk.empty) == (0.125, 0.5, 0.5, 0.25)
    assert risk.scores.shape == (2, 4)
    with pytest.raises(ValueError, match=r"in \[0, 1\]"):
        generation_risk(generate, ["a"], lambda texts: [3.0] * len(texts))
    with pytest.raises(ValueError, match="each of the 2 prompts"):
        generation_risk(lambda p, seed: p[:1], ["a", "b"], lambda texts: [0.5] * len(texts))


# ------------------------------------------------------------------------- weak labels


def test_balanced_filtering_keeps_the_smaller_class() -> None:
    sure = np.array([0.02, 0.03, 0.05, 0.1, 0.3, 0.35, 0.55, 0.6])
    both = np.stack([1 - sure, sure], 1)
    assert filter_weak_labels(both, top_frac=0.5).tolist() == [0, 1, 2, 7]
    assert filter_weak_labels(both, top_frac=0.5, per_class=False).tolist() == [0, 1, 2, 3]
    assert filter_weak_labels(both, tau=0.9).tolist() == [0, 1, 2, 3, 7]
    assert filter_weak_labels(both, tau=0.9, per_class=False).tolist() == [0, 1, 2, 3]
    for wrong in ({}, {"tau": 0.5, "top_frac": 0.5}, {"tau": 1.5}, {"top_frac": 0.0}):
        with pytest.raises(ValueError, match="tau"):
            filter_weak_labels(both, **wrong)
    with pytest.raises(ValueError, match="without NaN"):
        filter_weak_labels(np.full((2, 2), np.nan), top_frac=0.5)
    with pytest.raises(ValueError, match="not \\(2,\\)"):
        filter_weak_labels([0.3, 0.7], top_frac=0.5)
