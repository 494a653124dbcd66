"""Rich features: published numbers, which examples are in which group, and what heads learn."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from generality.benchmarks import colored_digits, inverse_colored_digits
from generality.estimators import (
    DiscoveryRound,
    agreement_rows,
    correctness_groups,
    discover,
    distill_multi_head,
    fit_group_dro,
    fit_penalised,
    hand_over,
    mean_head,
    predict_then_interpolate,
    split_by_correctness,
)
from generality.estimators.rich_features import own_logits
from generality.lab.full_batch import full_batch
from generality.lab.replicate import Replicas
from generality.models import Featurized, MultiHead
from generality.objectives import domain_penalty, domain_risks, penalised


def make(seed: int) -> Featurized:
    return Featurized(nn.Sequential(nn.Linear(2, 8), nn.ReLU()), nn.Linear(8, 1))


def two_cues() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The first cue is loud and right in .9 or .8, the second is quiet and right in .75.

    Exactly so, and independent of each other, the label and the domain.
    """
    labels, domains, tenth, quarter = np.indices((2, 2, 10, 4)).reshape(4, -1)
    loud, quiet = labels ^ (tenth < 1 + domains), labels ^ (quarter < 1)
    inputs = np.stack([3.0 * (2 * loud - 1), 2.0 * quiet - 1], 1).astype(np.float32)
    return inputs, labels, domains


def says(networks: Replicas, inputs: np.ndarray, cue: int) -> float:
    """How often a network says what one cue says."""
    logits = networks.logits(inputs)[0, :, 0]
    return float(((logits > 0).numpy() == (inputs[:, cue] > 0)).mean())


# ------------------------------------------------------------------------- published numbers


def test_penalised_objectives_match_the_published_numbers() -> None:
    risks = torch.tensor([0.4, 0.6])
    assert risks.var().item() == pytest.approx(0.02)
    assert penalised(risks, risks.var(), 10.0, normalise=True).item() == pytest.approx(0.12)
    logits, labels = torch.tensor([[[2.0], [-1.0]]]), torch.tensor([[1, 0]])
    assert domain_risks(logits, labels).item() == pytest.approx(0.220095, abs=1e-6)
    assert domain_penalty("irm")(logits, labels, logits).item() == pytest.approx(0.06435, abs=1e-6)


def test_a_rule_of_the_shape_is_right_alike_where_the_colour_is_right_and_wrong() -> None:
    rng = np.random.default_rng(0)
    shown = rng.integers(0, 10, 40_000)
    images = np.ones((len(shown), 1, 1), np.float32)
    for colouring, colour_right, shape_right in (
        (colored_digits, 0.85, 0.75),
        (inverse_colored_digits, 0.775, 0.9),
    ):
        flips = (0.1, 0.2) if colouring is colored_digits else (0.2, 0.25)
        # one digit a colouring, so that the images are dealt out like the digits
        data = colouring(images * shown[:, None, None] + images, shown, color_flips=flips)
        colour = data.inputs.sum((2, 3)).argmax(1) == data.labels
        shape = (data.inputs.sum((1, 2, 3)) - 1 < 5) == data.labels
        assert colour.mean() == pytest.approx(colour_right, abs=0.01)
        for rows in (slice(None), colour, ~colour):
            assert shape[rows].mean() == pytest.approx(shape_right, abs=0.015)


# ------------------------------------------------------------------------- groups


def test_groups_of_a_round_and_its_targets_match_the_published_example() -> None:
    labels, said = np.array([1, 1, 0, 0]), np.array([1, 0, 0, 1])
    groups = correctness_groups([said == labels])
    assert [np.flatnonzero(g).tolist() for g in groups.T] == [[0, 2], [1, 3]]
    assert correctness_groups([said == labels] * 3).shape == (4, 6)


def test_correctness_is_that_of_a_network_in_eval_mode() -> None:
    model = nn.Sequential(nn.Dropout(0.9), nn.Linear(2, 2, bias=False)).train()
    model[1].weight.data = torch.eye(2)
    inputs = np.array([[2.0, 1.0], [1.0, 2.0], [3.0, 0.0]], np.float32)
    assert split_by_correctness(model, inputs, [0, 1, 1]).tolist() == [True, True, False]
    assert model.training


def test_worst_group_training_has_the_gradient_of_the_largest_loss() -> None:
    inputs, labels, _ = [part[::4] for part in two_cues()]
    groups = np.stack([np.arange(40) < 30, np.arange(40) >= 20, np.zeros(40, bool)], 1)
    start = make(0)
    found = fit_group_dro(start, inputs, labels, groups, steps=3, learning_rate=0.1, l2=0.01)
    alone = copy.deepcopy(start)
    update = torch.optim.Adam(alone.parameters(), 0.1)
    x, y = torch.as_tensor(inputs), torch.as_tensor(labels).float()
    for _ in range(3):
        each = nn.functional.binary_cross_entropy_with_logits(alone(x)[:, 0], y, reduction="none")
        norm = torch.stack([p.square().sum() for p in alone.parameters()]).sum()
        loss = max(each[:30].mean(), each[20:].mean()) + 0.01 * norm
        update.zero_grad()
        loss.backward()
        update.step()
    for trained, wanted in zip(found.module(0).parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(trained, wanted, rtol=1e-4, atol=1e-5)


def test_seeds_train_together_as_they_train_alone() -> None:
    parts = [two_cues(), [part[::-1].copy() for part in two_cues()]]
    x, y, d = (np.stack(part) for part in zip(*parts, strict=True))
    groups = np.stack([d == 0, d == 1], -1)
    options = {"steps": 20, "learning_rate": 0.01, "step": "eg", "eta": 0.1}
    both = fit_group_dro(make, x, y, groups, seeds=[0, 1], **options)
    alone = fit_group_dro(make, *(part[1] for part in (x, y, groups)), seeds=[1], **options)
    torch.testing.assert_close(own_logits(both, x)[1], alone.logits(x[1])[0])


@pytest.mark.parametrize("step", ["max", "eg"])
def test_small_batches_serve_small_groups(step) -> None:
    inputs, labels, _ = two_cues()
    wrong = (inputs[:, 0] > 0) != labels
    groups = np.stack([wrong, ~wrong], 1)
    found = fit_group_dro(
        make, inputs, labels, groups, step=step, eta=0.1, steps=150, learning_rate=0.03,
        batch_size=64,
    )  # fmt: skip
    assert says(found, inputs, cue=1) > 0.9


def test_faults_are_named() -> None:
    inputs, labels, domains = [part[::8] for part in two_cues()]
    with pytest.raises(ValueError, match="all groups are empty"):
        fit_group_dro(make, inputs, labels, np.zeros((20, 2)))
    with pytest.raises(ValueError, match="'max' or 'eg'"):
        fit_group_dro(make, inputs, labels, np.ones((20, 1)), step="mean")
    with pytest.raises(ValueError, match="do not fit"):
        discover(make, inputs[:10], labels)
    with pytest.raises(ValueError, match="fresh network"):
        discover(make(0), inputs, labels)
    with pytest.raises(ValueError, match="Featurized"):
        fit_penalised(nn.Linear(2, 1), inputs, labels, domains, steps=1)
    with pytest.raises(ValueError, match="domains are"):
        fit_penalised(make(0), inputs, labels, domains[:10], steps=1)
    with pytest.raises(ValueError, match="linear"):
        mean_head([nn.ReLU()])


def test_inputs_that_would_teach_nothing_are_refused() -> None:
    """Labels of −1 and 1 would be read as 0 and 1 by no loss; NaN would spread in silence."""
    inputs, labels, domains = [part[::8] for part in two_cues()]
    broken = inputs.copy()
    broken[3, 1] = np.nan
    for x, y, message in (
        (inputs, 2 * labels - 1, "class ids from 0"),
        (inputs[:0], labels[:0], "one example at least"),
        (broken, labels, "NaN or infinite"),
    ):
        with pytest.raises(ValueError, match=message):
            discover(make, x, y, steps=1)
        with pytest.raises(ValueError, match=message):
            fit_penalised(make, x, y, domains[: len(y)], steps=1)


def test_every_round_and_every_head_starts_from_weights_of_its_own() -> None:
    """A network that went on from an earlier round would keep that round's feature."""
    inputs, labels, _ = [part[::8] for part in two_cues()]
    asked: list[int] = []

    def noted(seed: int) -> Featurized:
        asked.append(seed)
        return make(seed)

    discover(noted, inputs, labels, rounds=3, first_steps=1, steps=1, seeds=[0, 1])
    assert len(set(asked)) == 6


# ------------------------------------------------------------------------- the whole way


def test_the_second_round_finds_the_cue_that_the_first_leaves() -> None:
    inputs, labels, domains = two_cues()
    rounds = discover(make, inputs, labels, first_steps=60, steps=200, learning_rate=0.03, l2=0.0)
    assert says(rounds[0].networks, inputs, cue=0) > 0.95
    assert says(rounds[1].networks, inputs, cue=1) > 0.95
    heads = distill_multi_head(make, rounds, inputs, steps=200, learning_rate=0.03, l2=0.0)
    logits = heads.logits(inputs)[0, :, :, 0]
    for head, earlier in zip(logits, rounds, strict=True):
        assert ((head > 0).numpy() == earlier.predictions[0]).mean() > 0.95
    [rich] = hand_over(heads)
    x = torch.as_tensor(inputs)
    torch.testing.assert_close(rich(x)[:, 0], logits.mean(0))
    frozen = {"weight": 1e4, "frozen": True, "steps": 300, "learning_rate": 0.03}
    final = fit_penalised(rich, inputs, labels, domains, **frozen)
    assert says(final, inputs, cue=1) > says(final, inputs, cue=0)
    torch.testing.assert_close(final.module(0).featurizer(x), rich.featurizer(x))


def test_heads_learn_what_rounds_said_and_not_the_labels() -> None:
    inputs, labels, _ = two_cues()
    opposite = 1 - labels[None]
    said = DiscoveryRound(Replicas(make(0), {}, {}, torch.zeros(1, 1)), opposite, opposite < 0)
    heads = distill_multi_head(make, [said, said], inputs, steps=150, learning_rate=0.03)
    assert isinstance(heads.module(0), MultiHead)
    assert ((heads.logits(inputs)[0, 0, :, 0] > 0).numpy() == labels).mean() < 0.3


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 60), st.integers(1, 4), st.integers(0, 1000))
def test_half_of_the_draws_are_where_rounds_disagree(n: int, rounds: int, seed: int) -> None:
    correct = np.random.default_rng(seed).random((rounds, n)) < 0.5
    rows = agreement_rows(correct, seed)
    alike = correct.all(0) | ~correct.any(0)
    assert len(rows) == n
    expected = n if alike.all() else 0 if not alike.any() else n // 2
    assert int(alike[rows].sum()) == expected


def test_what_transfers_between_domains_is_given_up() -> None:
    inputs, labels, domains = two_cues()
    found = predict_then_interpolate(
        make, inputs, labels, domains, first_steps=60, steps=200, learning_rate=0.03, l2=0.0
    )
    assert says(found, inputs, cue=1) > 0.9


def test_domains_may_have_names_and_are_two_or_more() -> None:
    inputs, labels, domains = [part[::8] for part in two_cues()]
    options = {"first_steps": 3, "steps": 3, "learning_rate": 0.03}
    named = predict_then_interpolate(
        make, inputs, labels, np.array(["north", "south"])[domains], **options
    )
    numbered = predict_then_interpolate(make, inputs, labels, domains, **options)
    torch.testing.assert_close(named.logits(inputs), numbered.logits(inputs))
    with pytest.raises(ValueError, match="two domains or more"):
        predict_then_interpolate(make, inputs, labels, np.zeros(20, int), **options)
    with pytest.raises(ValueError, match="domains are"):
        predict_then_interpolate(make, inputs, labels, domains[:10], **options)
    with pytest.raises(ValueError, match="number them"):
        discover(make, inputs, np.array(["a", "b"])[labels], steps=1)


@pytest.mark.parametrize("penalty", [None, "irm", "vrex", "iga", "sd", "fishr", "clove"])
def test_every_penalty_trains_head_and_network(penalty) -> None:
    inputs, labels, domains = [part[::3] for part in two_cues()]
    for frozen in (True, False):
        found = fit_penalised(
            make, inputs, labels, domains, penalty=penalty, weight=[1.0, 100.0], frozen=frozen,
            seeds=[0, 0], steps=4, learning_rate=0.01,
        )  # fmt: skip
        first, second = found.module(0), found.module(1)
        assert isinstance(first, Featurized)
        assert bool(found.losses.isfinite().all())
        assert torch.equal(first.head.weight, second.head.weight) == (penalty is None)


def test_a_lone_network_may_keep_batch_statistics() -> None:
    def with_norm(seed: int) -> nn.Module:
        return nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 3))

    def loss(network, examples, memory):
        return nn.functional.cross_entropy(network(examples[0]), examples[1]), memory

    inputs, labels, _ = two_cues()
    tensors = torch.as_tensor(inputs)[None] + 5, torch.as_tensor(labels)[None]
    found = full_batch(with_norm, tensors, loss, seeds=[0], steps=5, batch_size=20)
    assert bool((found.module(0)[1].running_mean != 0).any())
