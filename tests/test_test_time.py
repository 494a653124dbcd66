"""Test-time adapters: published numbers, memory that stays bounded, streams with bad rows."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.utils.estimator_checks import check_estimator
from torch import nn

from generality.estimators import (
    SHOT,
    T3A,
    AdaNPC,
    AdaNPCAdapter,
    AdaNPCBatchNorm,
    FeatureMemory,
    PseudoLabel,
    Tent,
    UnusableFeatures,
    as_head,
    evaluate_online,
    feature_memory,
    score_threshold,
    test_time,
)
from generality.estimators.adanpc import stratified_part
from generality.estimators.feature_memory import top_columns
from generality.measures import refit_ceiling
from generality.objectives import knn_nll

SHEET = [[1.0, 0.0], [0.8, 0.6], [0.0, 1.0], [-1.0, 0.0]]
LABELS = [0, 0, 1, 1]
QUERY = [[0.6, 0.8]]
HEAD = np.array([[2.0, 0.0, 0.3], [0.0, 1.0, -0.2]]), np.array([0.1, -0.1])


def sheet_memory(**options: object) -> FeatureMemory:
    memory = FeatureMemory(2, 2, **{"k": 3, **options})
    memory.add(SHEET, LABELS)
    memory.protect()
    return memory


def clusters(n: int, seed: int = 0, dim: int = 3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = rng.integers(2, size=n)
    X = rng.normal(size=(n, dim)).astype(np.float32)
    X[:, 0] += 4 * y
    X[:, 1] += 4 * (1 - y)
    return X, y


def adaptive_memory() -> FeatureMemory:
    memory = FeatureMemory(3, 2, k=5)
    memory.add(*clusters(40, seed=1))
    memory.protect()
    return memory


ADAPTERS: dict[str, Callable[[], test_time.TestTimeAdapter]] = {
    "adanpc": lambda: AdaNPCAdapter(adaptive_memory()),
    "adanpc-bn": lambda: AdaNPCBatchNorm(
        FeatureMemory(3, 2, k=5), *clusters(40, seed=1), learning_rate=0.1, steps=3
    ),
    "t3a": lambda: T3A(HEAD, supports=5),
    "tent": lambda: Tent(HEAD, learning_rate=0.1),
    "tent-prebn": lambda: Tent(HEAD, params="prebn", learning_rate=0.1),
    "pseudo-label": lambda: PseudoLabel(HEAD, learning_rate=0.1),
    "shot": lambda: SHOT(HEAD, learning_rate=0.1, steps=3),
}
every_adapter = pytest.mark.parametrize("make", ADAPTERS.values(), ids=ADAPTERS)


# ------------------------------------------------------------------------- numbers


@pytest.mark.parametrize(
    ("temperature", "expected"), [(0.1, [0.8358, 0.1642]), (0.5, [0.6719, 0.3281])]
)
def test_the_vote_matches_the_numbers_worked_by_hand(temperature, expected) -> None:
    scores = sheet_memory(temperature=temperature).scores(QUERY)
    assert scores[0].tolist() == pytest.approx(expected, abs=5e-5)


@pytest.mark.parametrize(("temperature", "confidence"), [(0.1, 0.6618), (0.5, 0.5851)])
def test_the_released_confidence_is_a_softmax_of_the_scores(temperature, confidence) -> None:
    for threshold, stored in ((confidence - 1e-4, 5), (confidence + 1e-4, 4)):
        memory = sheet_memory(temperature=temperature)
        AdaNPCAdapter(memory, threshold=threshold, released_behaviour=True).predict(QUERY)
        assert len(memory) == stored


def test_a_threshold_on_the_score_means_the_score() -> None:
    for threshold, stored in ((0.835, 5), (0.837, 4), (1.1, 4)):
        memory = sheet_memory()
        AdaNPCAdapter(memory, threshold=threshold).predict(QUERY)
        assert len(memory) == stored


def test_what_the_papers_thresholds_mean() -> None:
    for classes, most in ((2, 0.731), (7, 0.312), (65, 0.0407)):
        assert score_threshold(most + 1e-3, classes) > 1, "never"
        assert score_threshold(most - 1e-3, classes) < 1
    assert score_threshold(0.25, 7) == pytest.approx(math.log(2))
    assert score_threshold(0.75, 7) > 1
    assert score_threshold(1.1, 7) == math.inf
    assert score_threshold(0.0, 7) == score_threshold(1 / 7, 7) == 0


def test_queries_with_entries_in_the_ball_are_classified_by_all_of_them() -> None:
    memory = sheet_memory(k=1, radius=0.7)
    weights = np.exp(np.array([0.96, 0.80]) / 0.1)
    scores = memory.scores([*QUERY, [1.0, -5.0]])
    assert scores[0].tolist() == pytest.approx(weights / weights.sum(), abs=1e-5)
    assert scores[1].tolist() == [1.0, 0.0], "nothing in its ball: its nearest entry"


def test_the_loss_has_a_gradient_through_the_features_alone() -> None:
    memory = torch.tensor(SHEET, requires_grad=True)
    z = torch.tensor(QUERY, requires_grad=True)
    loss = knn_nll(z, torch.tensor([0]), memory, torch.tensor(LABELS), classes=2, k=3)
    loss.backward()
    assert loss.item() == pytest.approx(-math.log(0.8358 + 1e-5), abs=1e-4)
    assert memory.grad is None
    assert z.grad.abs().sum() > 0
    absent = knn_nll(z, torch.tensor([2]), memory, torch.tensor(LABELS), classes=3, k=3)
    assert absent.item() == pytest.approx(-math.log(1e-5), abs=1e-3), "finite"
    numeric = torch.autograd.gradcheck(
        lambda q: knn_nll(
            q, torch.tensor([0]), memory.detach().double(), torch.tensor(LABELS), classes=2, k=3
        ),
        torch.tensor(QUERY, dtype=torch.double, requires_grad=True),
    )
    assert numeric


def test_t3a_follows_the_published_algorithm_step_by_step() -> None:
    X = torch.from_numpy(clusters(30)[0])
    head = as_head(HEAD).requires_grad_(False)
    supports, labels = head.weight.clone(), head(head.weight).argmax(1)
    adapter = T3A(HEAD, supports=4)
    for start in (0, 10, 20):
        batch = X[start : start + 10]
        supports = torch.cat([supports, batch])
        labels = torch.cat([labels, head(batch).argmax(1)])
        p = head(supports).softmax(1)
        entropy = -(p * p.log()).sum(1)
        kept = [
            i
            for c in (0, 1)
            for i in sorted(np.flatnonzero(labels == c), key=lambda i: entropy[i])[:4]
        ]
        supports, labels = supports[kept], labels[kept]
        unit = supports / supports.norm(dim=1, keepdim=True)
        templates = torch.stack([unit[labels == c].sum(0) for c in (0, 1)])
        templates /= templates.norm(dim=1, keepdim=True)
        expected = (batch @ templates.T).softmax(1)
        torch.testing.assert_close(adapter.predict(batch), expected)


def test_tent_takes_the_step_of_adam_on_the_mean_entropy() -> None:
    X = torch.from_numpy(clusters(8)[0])
    head = as_head(HEAD)
    optimizer = torch.optim.Adam(head.parameters(), 0.1)
    p = head(X).softmax(1)
    (-(p * p.log()).sum(1).mean()).backward()
    optimizer.step()
    adapter = Tent(HEAD, learning_rate=0.1)
    torch.testing.assert_close(adapter.predict(X), p.detach(), msg="predicted before the step")
    torch.testing.assert_close(adapter.state_dict()["weight"], head.weight.detach())


def test_tent_on_batch_norms_uses_the_batch_and_leaves_the_rest() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))
    before = {name: p.clone() for name, p in model.named_parameters()}
    adapter = Tent(model, params="bn", learning_rate=0.1)
    X = torch.from_numpy(clusters(16)[0])
    with torch.no_grad():
        torch.testing.assert_close(adapter.predict(X, adapt=False), model.train()(X).softmax(1))
    adapter.predict(X)
    assert set(adapter.state_dict()) == {"1.weight", "1.bias"}
    assert not torch.equal(adapter.state_dict()["1.weight"], before["1.weight"])
    for name, p in adapter.model.named_parameters():
        if not name.startswith("1."):
            torch.testing.assert_close(p, before[name])


def test_a_norm_before_the_head_can_start_as_no_change_for_the_source() -> None:
    X = clusters(50)[0]
    plain = as_head(HEAD)(torch.from_numpy(X)).softmax(1).detach()
    adapter = Tent(HEAD, params="prebn", source=X)
    torch.testing.assert_close(adapter.predict(X, adapt=False), plain, atol=1e-4, rtol=1e-4)


def test_shot_spreads_predictions_where_tent_collapses_them() -> None:
    X = torch.from_numpy(clusters(64)[0]) + torch.tensor([3.0, 0.0, 0.0])
    tent, shot = Tent(HEAD, learning_rate=0.05), SHOT(HEAD, learning_rate=0.05)
    for _ in range(60):
        narrow, spread = tent.predict(X), shot.predict(X)
    assert spread.mean(0).min() > narrow.mean(0).min() + 0.1


# ------------------------------------------------------------------------- every adapter


@every_adapter
def test_predictions_are_distributions_that_only_adapting_changes(make) -> None:
    adapter = make()
    assert isinstance(adapter, test_time.TestTimeAdapter)
    X, _ = clusters(16)
    first = adapter.predict(X, adapt=False)
    torch.testing.assert_close(first.sum(1), torch.ones(16))
    torch.testing.assert_close(adapter.predict(X, adapt=False), first)
    adapter.predict(X + 1)
    assert not torch.equal(adapter.predict(X, adapt=False), first)
    adapter.reset()
    torch.testing.assert_close(adapter.predict(X, adapt=False), first)


@every_adapter
def test_a_bad_row_is_named_and_nothing_changes(make) -> None:
    adapter = make()
    X, _ = clusters(16)
    adapter.predict(X)
    before = adapter.state_dict()
    for value in (np.nan, np.inf):
        bad = X.copy()
        bad[11, 2] = value
        with pytest.raises(UnusableFeatures, match=r"Row 11 of the batch \(1 of 16 rows\)"):
            adapter.predict(bad)
    with pytest.raises((UnusableFeatures, RuntimeError)):
        adapter.predict(X[:, :2])
    after = adapter.state_dict()
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert torch.equal(tensor, after[name]), name
    adapter.predict(X)


@every_adapter
def test_a_state_goes_on_where_another_stopped(make) -> None:
    first, second = make(), make()
    X, _ = clusters(16)
    first.predict(X)
    second.load_state_dict(first.state_dict())
    torch.testing.assert_close(first.predict(X, adapt=False), second.predict(X, adapt=False))
    second.reset()
    torch.testing.assert_close(
        second.predict(X, adapt=False), make().predict(X, adapt=False)
    )  # the source, not the loaded state


def test_an_overflowing_sum_of_finite_features_is_no_bad_row() -> None:
    memory = sheet_memory()
    assert memory.scores([[3e38, 3e38], [3e38, 3e38]]).shape == (2, 2)


def test_heads_of_other_libraries_predict_alike() -> None:
    X, y = clusters(60)
    three = np.where(X[:, 2] > 1, 2, y)
    for labels in (y, three):
        model = LogisticRegression().fit(X, labels)
        logits = as_head(model)(torch.from_numpy(X)).detach()
        np.testing.assert_allclose(logits.softmax(1), model.predict_proba(X), atol=1e-5)
    with pytest.raises(ValueError, match="a head is"):
        as_head("linear")
    with pytest.raises(ValueError, match="shape"):
        as_head((np.eye(2), np.zeros(3)))
    with pytest.raises(ValueError, match="linear head"):
        T3A(nn.Sequential(nn.Linear(2, 2)))
    with pytest.raises(ValueError, match="no parameters"):
        Tent(HEAD, params="bn")


def test_online_scores_come_from_before_a_batch_is_learned() -> None:
    """A memory that starts with the wrong label must be wrong on the first batch it sees."""
    X = np.tile([[1.0, 0.0]], (8, 1)).astype(np.float32)
    memory = FeatureMemory(2, 2, k=1)
    memory.add([[1.0, 0.0], [0.0, 1.0]], [1, 0])
    memory.protect()
    score = evaluate_online(AdaNPCAdapter(memory), {"a": (X, np.zeros(8))}, batch_size=4)["a"]
    assert score.accuracy == score.first_quarter == score.last_quarter == 0
    assert sorted(score.order) == list(range(8))


def test_a_chain_remembers_and_a_reset_forgets() -> None:
    X, y = clusters(32)
    seen: dict[bool, list[int]] = {}
    for reset in (True, False):
        adapter = AdaNPCAdapter(adaptive_memory())
        evaluate_online(adapter, {"a": (X, y), "b": (X, y)}, reset_between=reset)
        seen[reset] = [len(adapter.memory)]
    assert seen == {True: [72], False: [104]}


# ------------------------------------------------------------------------- memory


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 12), st.integers(0, 6), st.lists(st.integers(0, 9), max_size=8), st.booleans()
)
def test_the_memory_keeps_the_protected_and_the_latest(capacity, protected, sizes, again) -> None:
    """Against the obvious implementation: a list of what came, cut to the room left."""
    protected = min(protected, capacity - 1)
    memory = FeatureMemory(2, 1000, capacity=capacity)
    memory.add(np.ones((protected, 2)), np.arange(protected))
    memory.protect()
    for _ in range(1 + again):
        streamed: list[int] = []
        for n in sizes:
            new = [protected + len(streamed) + i for i in range(n)]
            memory.add(np.ones((n, 2)), np.array(new, dtype=int))
            streamed += new
        expected = [*range(protected), *streamed[-(capacity - protected) :]]
        assert sorted(memory.labels.tolist()) == expected
        memory.reset()
        assert memory.labels.tolist() == list(range(protected))


def test_a_long_stream_never_exceeds_the_cap_in_entries_or_storage() -> None:
    memory = FeatureMemory(4, 2, k=5, capacity=300)
    X, y = clusters(100, dim=4)
    memory.add(X, y)
    memory.protect()
    adapter = AdaNPCAdapter(memory)
    for seed in range(20):
        adapter.predict(clusters(64, seed=seed, dim=4)[0])
        assert len(memory) <= 300
        assert memory._features.shape[0] <= 300
    torch.testing.assert_close(
        memory.features[:100], torch.nn.functional.normalize(torch.from_numpy(X), dim=1)
    )


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 20), st.integers(1, 4000), st.integers(0, 1000))
def test_the_fast_top_k_is_a_top_k(k: int, n: int, seed: int) -> None:
    values = torch.randn(3, n, generator=torch.Generator().manual_seed(seed)).round(decimals=1)
    found, columns = top_columns(values, min(k, n))
    torch.testing.assert_close(values.gather(1, columns), found)
    expected = values.topk(min(k, n)).values
    assert torch.equal(found.sort(descending=True).values, expected)
    assert all(len(set(row.tolist())) == len(row) for row in columns)


def test_the_order_of_entries_does_not_matter() -> None:
    X, y = clusters(50)
    order = np.random.default_rng(0).permutation(50)
    scores = []
    for rows in (np.arange(50), order):
        memory = FeatureMemory(3, 2, k=7)
        memory.add(X[rows], y[rows])
        scores.append(memory.scores(X[:5] * 3))  # nor does a query's length
    torch.testing.assert_close(scores[0], scores[1])


def test_what_does_not_fit_a_memory_is_refused() -> None:
    memory = FeatureMemory(2, 2, capacity=4)
    with pytest.raises(ValueError, match="empty"):
        memory.scores(QUERY)
    for labels, message in (([0], "as many labels"), ([0, 2], "0 … 1"), ([0, -1], "0 … 1")):
        with pytest.raises(ValueError, match=message):
            memory.add([[1.0, 0.0], [0.0, 1.0]], labels)
    with pytest.raises(UnusableFeatures, match="Row 1"):
        memory.add([[1.0, 0.0], [np.nan, 1.0]], [0, 1])
    assert len(memory) == 0
    memory.add(SHEET, LABELS)
    memory.protect()
    with pytest.raises(ValueError, match="larger capacity"):
        memory.add(QUERY, [0])
    with pytest.raises(ValueError, match="does not fit"):
        FeatureMemory(3, 2).load_state_dict(memory.state_dict())
    with pytest.raises(ValueError, match="must be empty"):
        AdaNPCBatchNorm(adaptive_memory(), *clusters(40))
    with pytest.raises(ValueError, match="exact search"):
        FeatureMemory(2, 2, index="approximate", radius=0.5)


def test_the_index_finds_nearly_all_and_follows_replacements(monkeypatch) -> None:
    pytest.importorskip("faiss")
    monkeypatch.setattr(feature_memory, "_INDEX_FROM", 1000)
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(20, 16))

    def draw(n: int) -> tuple[np.ndarray, np.ndarray]:
        which = rng.integers(20, size=n)
        return (centres[which] + 0.3 * rng.normal(size=(n, 16))).astype(np.float32), which % 4

    exact, fast = (
        FeatureMemory(16, 4, k=10, capacity=1500, index=index) for index in ("exact", "approximate")
    )
    queries = draw(64)[0]
    for step in range(5):
        X, y = draw(400)
        for memory in (exact, fast):
            memory.add(X, y)
        assert len(fast) == len(exact) == min(1500, 400 * (step + 1))
        true, found = exact.nearest(queries)[0], fast.nearest(queries)[0]
        assert (found >= true.amin(1, keepdim=True) - 1e-5).float().mean() > 0.9
        agree = exact.scores(queries).argmax(1) == fast.scores(queries).argmax(1)
        assert agree.float().mean() > 0.95
    assert fast._inverted.index.ntotal == 1500, "what was replaced is gone from the index too"


# ------------------------------------------------------------------------- AdaNPC


@pytest.mark.slow
def test_scikit_learn_approves() -> None:
    check_estimator(AdaNPC(k=10))


def test_the_stream_teaches_and_a_bad_row_loses_nothing() -> None:
    X, y = clusters(200)
    names = np.array(["cat", "dog"])
    model = AdaNPC(k=5).fit(X[:50], names[y[:50]])
    assert (model.predict_stream(X[50:150]) == names[y[50:150]]).mean() > 0.9
    assert len(model.memory_) == 150
    bad = X[150:].copy()
    bad[40] = np.nan
    for call in (model.predict_stream, model.predict, model.partial_fit):
        with pytest.raises(ValueError, match=r"Row 40 .* NaN"):
            call(bad)
    assert len(model.memory_) == 150, "not even the good batches before the bad row"
    model.partial_fit(X[150:], names[y[150:]])
    assert len(model.memory_) == 200
    assert len(model.reset().memory_) == 50
    with pytest.raises(ValueError, match="was not among the classes"):
        model.partial_fit(X[:1], ["cow"])
    with pytest.raises(ValueError, match="needs labels"):
        AdaNPC().partial_fit(X)


def test_labelled_rows_beyond_half_of_the_memory_are_drawn_in_proportion() -> None:
    X, y = clusters(400)
    y = (np.arange(400) % 4 == 0).astype(int)
    with pytest.warns(UserWarning, match="a random 50 of them"):
        model = AdaNPC(max_memory=100).fit(X, y)
    assert len(model.memory_) == 50
    assert abs(int(model.memory_.labels.sum()) - 12.5) <= 1
    model.predict_stream(X)
    assert len(model.memory_) == 100


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.integers(1, 60))
def test_a_stratified_part_keeps_every_share_within_one(labels: list[int], size: int) -> None:
    array = np.array(labels)
    kept = stratified_part(array, size, seed=0)
    assert len(kept) == min(size, len(array)) == len(set(kept.tolist()))
    for label in set(labels):
        share = (array == label).mean() * len(kept)
        assert abs((array[kept] == label).sum() - share) <= 1.5


def test_the_ceiling_sees_what_a_head_could_read_and_nothing_in_noise() -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(400) % 2
    noise = rng.normal(size=(400, 3))
    told = noise + 6 * labels[:, None]
    assert refit_ceiling(told, labels) > 0.99
    assert abs(refit_ceiling(noise, labels) - 0.5) < 0.1
    assert refit_ceiling(told * [1e4, 1, 1e-4], labels) > 0.99
    with pytest.raises(ValueError, match="two classes"):
        refit_ceiling(noise[:3], np.array([1, 1, 1]))
