"""DivDis, D-BAT, their two-stream training, the data they need and the choice among hypotheses."""

import copy
import math

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from generality.benchmarks import SpuriousMixture, spurious_2d, waterbirds_cc
from generality.errors import UserError
from generality.estimators import disambiguate, fit_dbat, fit_divdis
from generality.lab.train_streams import train_streams
from generality.measures import agreement_score, hypothesis_similarity
from generality.models import MultiHead, mlp
from generality.objectives import DBATLoss, DivDisLoss
from generality.objectives.dbat import agreement_loss
from generality.objectives.divdis import pairwise_mutual_information


def two_heads(seed: int = 0) -> MultiHead:
    body = nn.Sequential(nn.Linear(2, 16), nn.ReLU())
    return MultiHead(body, [nn.Linear(16, 2), nn.Linear(16, 2)])


# ------------------------------------------------------------------------- losses


def test_agreement_matches_the_published_numbers() -> None:
    binary = agreement_loss(
        torch.tensor([[0.7, 0.3], [0.6, 0.4]]), torch.tensor([[[0.1, 0.9], [0.8, 0.2]]])
    )
    assert binary.item() == pytest.approx(0.6182, abs=1e-4)
    several = torch.tensor([[0.2, 0.5, 0.3]]), torch.tensor([[[0.7, 0.2, 0.1]]])
    assert agreement_loss(*several).item() == pytest.approx(0.4780, abs=1e-4)
    by_new = agreement_loss(*several, "argmax_new").item()
    assert by_new == pytest.approx(-math.log(0.2 * 0.5 + 0.5 * 0.8), abs=1e-4)


def test_mutual_information_matches_the_published_number() -> None:
    heads = torch.tensor(
        [
            [[0.9, 0.1], [0.1, 0.9], [0.9, 0.1], [0.2, 0.8]],
            [[0.8, 0.2], [0.2, 0.8], [0.1, 0.9], [0.3, 0.7]],
        ]
    )
    assert pairwise_mutual_information(heads).item() == pytest.approx(0.013364, abs=1e-6)
    every_pair = torch.eye(2)[torch.tensor([[0, 0, 1, 1], [0, 1, 0, 1]])]
    assert pairwise_mutual_information(every_pair).item() == pytest.approx(0, abs=1e-6)
    three = torch.cat([heads, heads[:1]])
    pairs = [pairwise_mutual_information(three[[i, j]]) for i, j in ((0, 1), (0, 2), (1, 2))]
    assert pairwise_mutual_information(three).item() == pytest.approx(float(sum(pairs)) / 3)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 4), st.integers(2, 5))
def test_mutual_information_lies_between_0_and_ln_classes(seed: int, heads: int, k: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    beliefs = (3 * torch.randn(heads, 20, k, generator=generator)).softmax(-1)
    value = pairwise_mutual_information(beliefs).item()
    assert -1e-6 <= value <= math.log(k) + 1e-6
    shuffled = beliefs[:, torch.randperm(20, generator=generator)]
    assert pairwise_mutual_information(shuffled).item() == pytest.approx(value, abs=1e-5)


def test_the_prior_of_divdis_is_a_constant_and_its_term_is_a_kl() -> None:
    logits = torch.randn(2, 8, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    others = torch.randn(2, 9, 3, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(8) % 3
    value = DivDisLoss(0.0, 1.0)(logits, labels, others)
    fit = nn.functional.cross_entropy(logits.reshape(-1, 3), labels.repeat(2))
    prior, mean = logits.softmax(-1).mean((0, 1)), others.softmax(-1).mean(1)
    kl = (mean * (mean / prior).log()).sum(-1).mean()
    assert value.item() == pytest.approx((fit + kl).item(), abs=1e-5)
    (both,) = torch.autograd.grad(value, logits, retain_graph=True)
    (only_fit,) = torch.autograd.grad(fit, logits)
    torch.testing.assert_close(both, only_fit)


def test_a_single_head_has_none_to_differ_from() -> None:
    """The mean over no pairs would be NaN; a network without heads would be misread."""
    logits, labels = torch.zeros(1, 4, 2), torch.tensor([0, 1, 0, 1])
    for heads in (logits, logits[0]):
        with pytest.raises(ValueError, match="two heads or more"):
            DivDisLoss()(heads, labels, heads)
    with pytest.raises(ValueError, match="two heads or more"):
        pairwise_mutual_information(logits.softmax(-1))
    data = streams(1)
    with pytest.raises(ValueError, match="two heads or more"):
        fit_divdis(
            nn.Linear(2, 2), data["labelled"][0][0], data["labelled"][1][0], data["others"][0][0],
            steps=1,
        )  # fmt: skip


def test_certain_predictions_give_finite_gradients() -> None:
    sure = (torch.eye(2)[torch.tensor([[0, 1, 0, 1], [0, 1, 1, 0]])] * 200).requires_grad_()
    labels = torch.tensor([0, 1, 0, 1])
    value = DivDisLoss()(sure, labels, sure)
    earlier = sure[:1].detach().softmax(-1)
    value = value + DBATLoss()(sure[1], labels, sure[1], earlier)
    (gradient,) = torch.autograd.grad(value, sure)
    assert gradient.isfinite().all()


# ------------------------------------------------------------------------- training


def streams(count: int) -> dict[str, tuple[torch.Tensor, ...]]:
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(count, 40, 2, generator=generator)
    return {"labelled": (x, (x[..., 0] > 0).long()), "others": (torch.randn_like(x[:, :30]),)}


def both_streams(model, batch, progress):
    x, y = batch["labelled"]
    logits, others = model(x), model(batch["others"][0])
    return nn.functional.cross_entropy(logits, y) + 0.1 * others.square().mean() * (1 - progress)


@pytest.mark.parametrize(
    "options",
    [
        {"optimizer": "adamw", "weight_decay": 0.1, "learning_rate": [0.01, 0.02, 0.03]},
        {"optimizer": "adam", "weight_decay": 0.01, "learning_rate": 0.01},
        {"optimizer": "sgd", "momentum": 0.9, "weight_decay": 0.01, "schedule": "cosine",
         "learning_rate": 0.1},
    ],
)  # fmt: skip
def test_training_together_equals_training_alone(options: dict) -> None:
    data, sizes = streams(3), {"labelled": 16, "others": 64}
    make = lambda seed: nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 2))  # noqa: E731
    shared = {"steps": 25, "batch_size": sizes}
    together = train_streams(make, data, both_streams, seeds=[0, 1, 2], **shared, **options)
    for i in range(3):
        own = {name: tuple(t[i : i + 1] for t in tensors) for name, tensors in data.items()}
        rate = options["learning_rate"]
        alone_options = {**options, "learning_rate": rate[i] if isinstance(rate, list) else rate}
        alone = train_streams(make, own, both_streams, seeds=[i], **shared, **alone_options)
        for name, weights in alone.parameters.items():
            torch.testing.assert_close(together.parameters[name][i], weights[0], atol=1e-4, rtol=0)
        torch.testing.assert_close(together.losses[i], alone.losses[0], atol=1e-4, rtol=0)


def test_one_network_may_be_any_module_and_the_users_own_is_not_changed() -> None:
    module = nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
    before = copy.deepcopy(module.state_dict())
    trained = train_streams(
        module, streams(1), both_streams, seeds=[0], steps=5,
        batch_size={"labelled": 8, "others": 8},
    )  # fmt: skip
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, before[name])
    assert not torch.equal(trained.buffers["1.running_mean"][0], before["1.running_mean"])


def test_streams_that_do_not_fit_are_refused() -> None:
    data = streams(2)
    with pytest.raises(ValueError, match="stream 'labelled' of 3 replicas"):
        train_streams(nn.Linear(2, 2), data, both_streams, seeds=[0, 1, 2], steps=1,
                      batch_size={"labelled": 8, "others": 8})  # fmt: skip
    with pytest.raises(ValueError, match="how many examples of 'others'"):
        train_streams(nn.Linear(2, 2), data, both_streams, seeds=[0, 1], steps=1,
                      batch_size={"labelled": 8})  # fmt: skip


@pytest.mark.parametrize(("fit", "ratio"), [(fit_dbat, 0.0), (fit_divdis, 0.5)])
def test_the_second_cue_is_found_at_the_methods_own_mixture(fit, ratio: float) -> None:
    mixture = spurious_2d(ratio)
    train, others, test = mixture.training(500), mixture.unlabelled(1000), mixture.test(500)

    make = two_heads if fit is fit_divdis else (lambda seed: mlp(2, 16, 2))
    loss = DivDisLoss(1.0, 0.0) if fit is fit_divdis else DBATLoss(1.0)
    found = fit(
        make, train.inputs, train.labels, others.inputs, loss=loss, steps=400, learning_rate=0.01
    )
    accuracies = (found.predict_proba(test.inputs)[0].argmax(-1) == test.labels).mean(1)
    assert accuracies.max() > 0.85
    assert len(found.modules()) == (1 if fit is fit_divdis else 2)


def test_hypotheses_of_several_seeds_equal_those_of_each() -> None:
    parts = [spurious_2d(0.0) for _ in range(2)]
    train = [part.training(100, seed=i) for i, part in enumerate(parts)]
    others = [part.unlabelled(100, seed=i) for i, part in enumerate(parts)]
    test = parts[0].test(50).inputs
    data = [np.stack([each.inputs for each in train]), np.stack([each.labels for each in train]),
            np.stack([each.inputs for each in others])]  # fmt: skip
    make = lambda seed: nn.Linear(2, 2)  # noqa: E731
    both = fit_dbat(make, *data, seeds=[0, 1], steps=30, hypotheses=3).predict_proba(test)
    assert both.shape == (2, 3, 50, 2)
    for i in range(2):
        one = fit_dbat(make, *(part[i] for part in data), seeds=[i], steps=30, hypotheses=3)
        np.testing.assert_allclose(one.predict_proba(test)[0], both[i], atol=1e-4)
        own = one.predict_proba(test[None], own=True)
        np.testing.assert_allclose(own, one.predict_proba(test), atol=1e-6)


# ------------------------------------------------------------------------- choosing


def test_only_the_labels_asked_for_are_looked_at() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, 300)
    right = np.eye(2)[truth] * 0.8 + 0.1
    wrong = np.eye(2)[np.where(rng.random(300) < 0.7, truth, 1 - truth)] * 0.8 + 0.1
    asked: list[int] = []

    def ask(rows: np.ndarray) -> np.ndarray:
        asked.extend(rows)
        return truth[rows]

    answer = disambiguate([wrong, right], ask, budget=8)
    assert answer.chosen == 1
    assert len(asked) == 8
    assert (wrong.argmax(1) != right.argmax(1))[asked].all(), "asks where they differ"
    assert disambiguate([wrong, right], truth, strategy="oracle").accuracies[1] == 1
    drawn = disambiguate([wrong, right], truth, strategy="random", budget=8, seed=3)
    assert len(set(drawn.asked)) == 8
    with pytest.raises(ValueError, match="labels were asked for"):
        disambiguate([wrong, right], lambda rows: truth)


def test_similarity_and_agreement() -> None:
    np.testing.assert_array_equal(hypothesis_similarity([[0, 1], [1, 0]]), np.eye(2))
    said = {0: [0, 1, 1, 1], 1: [0, 1, 1, 0], 2: [0, 1, 0, 0]}
    score = agreement_score(lambda x, y, held_out, seed: said[seed], None, None, None, seeds=3)
    assert score == pytest.approx((0.75 + 0.5 + 0.75) / 3)


# ------------------------------------------------------------------------- data


@settings(max_examples=20, deadline=None)
@given(ratio=st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]), seed=st.integers(0, 50))
def test_cues_agree_as_often_as_asked(ratio: float, seed: int) -> None:
    mixture = spurious_2d(ratio)
    for sample, share in (
        (mixture.training(200, seed=seed), 1.0),
        (mixture.unlabelled(200, seed=seed), ratio),
        (mixture.test(200, seed=seed), 0.5),
    ):
        assert (sample.labels == sample.spurious).mean() == pytest.approx(share, abs=0.011)
        assert sample.labels.mean() == 0.5
        np.testing.assert_array_equal(sample.inputs[:, 0] < 0, sample.labels == 1)
        np.testing.assert_array_equal(sample.inputs[:, 1] < 0, sample.spurious == 1)
        assert (np.abs(sample.inputs[:, 1]) >= 1).all()


def test_no_example_is_in_two_parts() -> None:
    ids = (np.arange(80)[:, None], np.arange(80) % 2)
    mixture = SpuriousMixture(ids, ids, ratio=0.5)
    parts = [mixture.training(100), mixture.unlabelled(100), mixture.test(100)]
    seen = [set(part.inputs[:, column]) for part in parts for column in (0, 1)]
    assert [len(group) for group in seen] == [40, 40, 20, 20, 20, 20]
    for a, b in ((0, 2), (0, 4), (2, 4)):
        assert not seen[a] & seen[b]
    with pytest.raises(ValueError, match="cue 'spur' needs 4 examples of each class"):
        SpuriousMixture(ids, (ids[0], ids[1] * 0))


def test_waterbirds_are_completely_correlated(tmp_path) -> None:
    rows = [
        {"img_filename": f"{split}{y}{place}{i}.jpg", "y": y, "split": split, "place": place}
        for split in (0, 1, 2) for y in (0, 1) for place in (0, 1) for i in range(6)
    ]  # fmt: skip
    pd.DataFrame(rows).to_csv(tmp_path / "metadata.csv")
    training = waterbirds_cc(tmp_path, "training")
    assert len(training) == 12
    assert (training.label == training.spurious).all()
    assert training.path[0] == tmp_path / "0000.jpg"
    assert len(waterbirds_cc(tmp_path, "test")) == 24
    for ratio, n in ((0.0, 12), (0.25, 16), (0.5, 24), (1.0, 12)):
        others = waterbirds_cc(tmp_path, "unlabelled", ratio=ratio)
        assert len(others) == n
        assert (others.label == others.spurious).mean() == ratio
    with pytest.raises(UserError, match=r"There is no .*metadata\.csv"):
        waterbirds_cc(tmp_path / "elsewhere", "test")
