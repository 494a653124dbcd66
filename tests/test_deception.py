import math

import numpy as np
import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from generality.measures import (
    CELLS,
    conflict_tax,
    deception_score,
    knowledge_partition,
    random_push,
)
from generality.modules import PairwiseReward
from generality.objectives import (
    ConflictLoss,
    conflict_targets,
    dpo_loss,
    pairwise_reward_loss,
    simpo_loss,
    soft_cross_entropy,
)
from generality.selection import mix_objectives

DIFFERENCE = torch.tensor([1.2, -0.4])


def two_classes(difference: torch.Tensor) -> torch.Tensor:
    return torch.stack([torch.zeros_like(difference), difference], -1)


def test_reward_and_conflict_match_the_sheet() -> None:
    soft = torch.tensor([1.0, 0.0])
    base = pairwise_reward_loss(DIFFERENCE, soft)
    assert base.item() == pytest.approx(0.388149, abs=1e-6)
    targets = conflict_targets(torch.stack([1 - soft, soft], -1), torch.tensor([1, 1]))
    loss = ConflictLoss(alpha=0.5)
    assert loss(two_classes(DIFFERENCE), targets).item() == pytest.approx(0.516403, abs=1e-6)
    extra = ConflictLoss(alpha=1.0)(two_classes(DIFFERENCE), targets) - base
    assert extra.item() == pytest.approx(0.256508, abs=1e-6)


def test_policy_losses_match_the_sheet() -> None:
    one = [torch.tensor([value]) for value in (-30.0, -31.0, -34.0, -33.0)]
    assert dpo_loss(*one, beta=0.1).item() == pytest.approx(0.598139, abs=1e-6)
    simpo = simpo_loss(torch.tensor([-1.1]), torch.tensor([-1.5]), beta=2.0, gamma=1.0)
    assert simpo.item() == pytest.approx(0.798139, abs=1e-6)
    with pytest.raises(ValueError, match="beta"):
        simpo_loss(torch.zeros(1), torch.zeros(1), beta=0.0)


def test_without_conflict_it_is_the_base_loss_and_otherwise_it_pushes_errors_further() -> None:
    logits = two_classes(DIFFERENCE).requires_grad_()
    weak = torch.tensor([[0.2, 0.8], [0.6, 0.4]])
    targets = conflict_targets(weak, torch.tensor([1, 1]))
    plain = soft_cross_entropy(logits, weak)
    torch.testing.assert_close(ConflictLoss(alpha=0.0)(logits, targets), plain)
    (with_conflict,) = torch.autograd.grad(ConflictLoss(alpha=1.0)(logits, targets), logits)
    (without,) = torch.autograd.grad(plain, logits)
    torch.testing.assert_close(with_conflict[0], without[0])  # right: no reward
    assert with_conflict[1, 0] < without[1, 0]  # wrong: class 0 is pushed up
    with pytest.raises(ValueError, match="conflict_targets"):
        ConflictLoss()(logits, weak)
    with pytest.raises(ValueError, match="alpha"):
        ConflictLoss(alpha=-1)


def test_the_conflict_works_under_vmap() -> None:
    logits, weak = torch.randn(3, 16, 2), torch.randn(3, 16, 2).softmax(-1)
    targets = conflict_targets(weak, torch.randint(2, (3, 16)))
    loss = ConflictLoss()
    together = torch.func.vmap(lambda z, t: loss(z, t, 0.5))(logits, targets)
    alone = torch.stack([loss(z, t, 0.5) for z, t in zip(logits, targets, strict=True)])
    torch.testing.assert_close(together, alone)


def test_the_toy_of_the_sheet() -> None:
    right = np.ones(4, bool)
    report = deception_score(
        weak_correct=np.array([True, True, True, False]), strong_correct=right,
        no_conflict_correct=right, conflict_correct=~right, resamples=50,
    )  # fmt: skip
    assert report.ds == 0.25
    assert report.chance == 0.25
    assert report.lift == 1.0
    assert report.cells == dict(zip(CELLS, (0.75, 0.25, 0.0, 0.0), strict=True))
    assert (report.tax, report.gained, report.n, report.accuracy_lost) == (4, 0, 4, 1.0)
    spared = deception_score(
        weak_correct=right, strong_correct=right, no_conflict_correct=right,
        conflict_correct=right, resamples=10,
    )  # fmt: skip
    assert spared.tax == 0
    assert math.isnan(spared.ds)


def test_no_cases_are_refused() -> None:
    none = np.zeros(0, bool)
    with pytest.raises(ValueError, match="no cases"):
        deception_score(
            weak_correct=none, strong_correct=none, no_conflict_correct=none, conflict_correct=none
        )


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 3), st.integers(5, 40), st.integers(0, 1000))
def test_cells_partition_and_order_does_not_matter(seeds: int, n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    names = ("weak_correct", "strong_correct", "no_conflict_correct", "conflict_correct")
    masks = {name: rng.random((seeds, n)) < 0.6 for name in names}
    report = deception_score(**masks, resamples=20)
    parts = knowledge_partition(masks["weak_correct"], masks["strong_correct"])
    np.testing.assert_array_equal(np.sum(list(parts.values()), axis=0), 1)
    tax = conflict_tax(masks["no_conflict_correct"], masks["conflict_correct"])
    assert report.tax == tax.sum()
    if report.tax:
        assert sum(report.cells.values()) == pytest.approx(1)
        assert report.cells["known-unknown"] == pytest.approx(report.ds)
    order = rng.permutation(n)
    again = deception_score(**{k: m[:, order] for k, m in masks.items()}, resamples=20)
    assert again.ds == pytest.approx(report.ds, nan_ok=True)
    assert again.lift == pytest.approx(report.lift, nan_ok=True)


def test_the_interval_covers_a_tax_that_hits_at_random() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(60):
        weak, strong = rng.random(600) < 0.7, rng.random(600) < 0.8
        without = rng.random(600) < 0.75
        report = deception_score(
            weak_correct=weak, strong_correct=strong, no_conflict_correct=without,
            conflict_correct=without & (rng.random(600) < 0.8), resamples=200,
        )  # fmt: skip
        low, high = report.lift_interval
        covered += low <= 1 <= high
    assert covered >= 50


def test_a_pairwise_reward_learns_an_order_from_noisy_preferences() -> None:
    generator = torch.Generator().manual_seed(0)
    one, two = torch.randn(2, 400, 5, generator=generator)
    better = one[:, 0] > two[:, 0]
    told = better ^ (torch.rand(400, generator=generator) < 0.2)
    reward = PairwiseReward(torch.nn.Linear(5, 1))
    optimizer = torch.optim.Adam(reward.parameters(), lr=0.05)
    for _ in range(60):
        optimizer.zero_grad()
        pairwise_reward_loss(reward(one, two), told.float()).backward()
        optimizer.step()
    assert ((reward(one, two) > 0) == better).float().mean() > 0.93
    with pytest.raises(ValueError, match="one number"):
        PairwiseReward(torch.nn.Linear(5, 2))(one, two)


def test_objectives_are_mixed_in_the_ratio_asked_for() -> None:
    safe, helpful = (Dataset.from_dict({"text": [name] * 8}) for name in ("safe", "helpful"))
    mixed = mix_objectives(safe, helpful, ratio=0.5)
    assert mixed["text"][:].count("safe") == 8
    assert [int(text == "helpful") for text in mixed["text"]] == mixed["objective"][:]
    assert mixed["text"][:] != sorted(mixed["text"][:], reverse=True)
    with pytest.raises(ValueError, match="it has 8"):
        mix_objectives(safe, helpful, ratio=2.0)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 30), st.integers(0, 1000))
def test_a_random_push_costs_as_many_cases_as_it_should(tax: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, weights = rng.normal(size=(80, 5)), rng.normal(size=5)
    odds = x @ weights
    said = np.stack([1 / (1 + np.exp(odds)), 1 / (1 + np.exp(-odds))], -1)
    right = (odds > 0) == (odds + rng.normal(size=80) > 0)
    after = random_push(said, x, right, tax, seed=seed)
    lost = int((right & ~after).sum())
    direction = x @ np.random.default_rng(seed).standard_normal(5)
    assert lost == min(tax, int((right & (direction * odds < 0)).sum()))
    if lost:  # the same as pushing the weights that far
        length = max(-o / d for o, d, r, a in zip(odds, direction, right, after, strict=True)
                     if r and not a)  # fmt: skip
        pushed = ((odds + length * 1.000001 * direction > 0) == (odds > 0)) == right
        np.testing.assert_array_equal(after, pushed)


def test_noise_turns_an_exact_share_of_the_labels_round() -> None:
    from types import SimpleNamespace

    from generality.experiments.conflicted_students import ConflictedStudents

    taught = []
    ladder = SimpleNamespace(
        lab=SimpleNamespace(seeds=range), transfer=np.tile(np.arange(20), (2, 1)),
        train=lambda model, rows, labels, epochs: taught.append(labels) or labels,
    )  # fmt: skip
    labels = np.random.default_rng(0).dirichlet([1, 1], size=(2, 20))
    ConflictedStudents(ladder, "any", 1).noised(labels, 0.3)  # type: ignore[arg-type]
    moved = (taught[0] != labels).all(-1)
    assert moved.sum(1).tolist() == [6, 6]
    assert (moved[0] != moved[1]).any()
    np.testing.assert_array_equal(taught[0][moved], labels[moved][:, ::-1])
