"""Gradients of single examples, their projections, and how many directions they take."""

import functools
import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from generality.benchmarks.worlds import ChainPrograms, solution, world_tokenizer
from generality.measures import (
    CompressionRatio,
    DistinctN,
    EmbeddingVendi,
    GVendi,
    LabelEntropy,
    MeanPerplexity,
    NGramEntropy,
    ProjectedGradients,
    RademacherProjector,
    StreamingVendi,
    per_example_gradients,
    vendi_score,
)
from generality.measures.g_vendi import _batch, response_nll
from generality.models import tiny_decoder
from generality.models.prompt_response import encode_response

TOKENIZER = world_tokenizer()


def records(count: int, seed: int = 0) -> list[dict[str, str]]:
    styles = ("full", "states", "named", "terse")
    chains = ChainPrograms().sample(count, (1, 4), seed)
    return [
        {"prompt": chain.prompt, "response": solution(chain, styles[i % 4])}
        for i, chain in enumerate(chains)
    ]


def encoded(rows: list[dict[str, str]]) -> dict[str, torch.Tensor]:
    return _batch([encode_response(TOKENIZER, r["prompt"], r["response"]) for r in rows])


@functools.cache
def decoder() -> nn.Module:
    return tiny_decoder("0.05M", vocabulary=len(TOKENIZER))


def cross_entropy(model, batch):
    return nn.functional.cross_entropy(model(batch["x"]), batch["y"], reduction="none")


def small_network(biased: bool = True) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(7, 12, bias=biased), nn.Tanh(), nn.Linear(12, 3, bias=biased))


def data(n: int = 60, seed: int = 0) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    return {"x": torch.randn(n, 7, generator=g), "y": torch.randint(3, (n,), generator=g)}


# ------------------------------------------------------------------------- per example


def test_gradients_of_a_softmax_by_hand() -> None:
    model = nn.Linear(2, 2, bias=False)
    nn.init.zeros_(model.weight)
    x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    found = per_example_gradients(model, cross_entropy, {"x": x, "y": torch.tensor([0, 0, 1])})
    wanted = [[-0.5, 0, 0.5, 0], [0, -0.5, 0, 0.5], [0.5, 0.5, -0.5, -0.5]]
    torch.testing.assert_close(found, torch.tensor(wanted))
    shares = torch.linalg.eigvalsh(
        nn.functional.normalize(found) @ nn.functional.normalize(found).T
    )
    assert sorted((shares / 3).tolist())[1:] == pytest.approx([1 / 3, 2 / 3], abs=1e-6)
    assert vendi_score(found) == pytest.approx(1.889882, abs=1e-6)


def test_both_ways_and_a_backward_pass_agree() -> None:
    model, batch = small_network(), data(9)
    one = per_example_gradients(model, cross_entropy, batch)
    several = per_example_gradients(model, cross_entropy, batch, memory=4 * 4 * one.shape[1])
    torch.testing.assert_close(one, several)
    cross_entropy(model, batch).sum().backward()
    whole = torch.cat([p.grad.flatten() for p in model.parameters()])
    torch.testing.assert_close(one.sum(0), whole)


def test_parameters_are_chosen_by_name_and_left_alone() -> None:
    model, batch = small_network(), data(4)
    assert per_example_gradients(model, cross_entropy, batch, params=r"2\.weight").shape == (4, 36)
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    with pytest.raises(ValueError, match="no parameter's name"):
        per_example_gradients(model, cross_entropy, batch, params="lora_")


# ------------------------------------------------------------------------- projections


@pytest.mark.parametrize("biased", [True, False])
def test_sides_that_are_short_are_not_projected_so_only_the_fold_is_random(biased: bool) -> None:
    """With as many places as numbers and more, the fold's collisions are few and errors small."""
    model, batch = small_network(biased), data()
    exact = per_example_gradients(model, cross_entropy, batch)
    z = ProjectedGradients(model, cross_entropy, dim=200_000)(batch)
    torch.testing.assert_close(z @ z.T, exact @ exact.T, atol=0.02, rtol=0.02)
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


def test_inner_products_are_kept_on_average_over_seeds() -> None:
    model, batch = small_network(), data(12)
    exact = per_example_gradients(model, cross_entropy, batch)
    exact = exact @ exact.T
    found = []
    for seed in range(60):
        z = ProjectedGradients(model, cross_entropy, dim=64, side=5, seed=seed)(batch)
        found.append(z @ z.T)
    errors = torch.stack(found) - exact
    assert (errors.mean(0).abs() <= 4.5 * errors.std(0) / 60**0.5 + 1e-6).all()


def test_tokens_of_a_language_model_sum_to_its_gradient() -> None:
    """A tied table counts as the output layer, so the dense gradient here is of a copy of it."""
    model = tiny_decoder("0.05M", vocabulary=len(TOKENIZER))
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone())
    batch = encoded(records(6))
    exact = per_example_gradients(model, response_nll, batch, params="proj|lm_head")
    z = ProjectedGradients(model, response_nll, dim=50_000, side=512)(batch)
    torch.testing.assert_close(
        z @ z.T, exact @ exact.T, rtol=0.05, atol=0.02 * exact.norm() ** 2 / 6
    )


def test_layers_are_chosen_and_batches_checked() -> None:
    model, batch = small_network(), data(5)
    project = ProjectedGradients(model, cross_entropy, dim=8, layers="^2$")
    assert project(batch).shape == (5, 8)
    with pytest.raises(ValueError, match="no linear layer"):
        ProjectedGradients(model, cross_entropy, layers="attention")

    def flattened(model, batch):
        return model(batch["x"].repeat(2, 1)).sum(1)[:5]

    with pytest.raises(ValueError, match="10 rows for 5 examples"):
        ProjectedGradients(model, flattened)(batch)
    assert torch.is_grad_enabled()
    assert not model[0]._forward_hooks


def test_dense_projection_is_the_same_in_any_batch_and_nearly_keeps_the_score() -> None:
    rows = torch.randn(200, 50, generator=torch.Generator().manual_seed(0))
    project = RademacherProjector(1024, seed=0)
    torch.testing.assert_close(project(rows)[10:20], project(rows[10:20]))
    exact, found = vendi_score(rows), vendi_score(project(rows))
    assert exact == pytest.approx(44.3, abs=1.5)
    assert 0.96 * exact <= found <= 1.0 * exact, "a bias of 1 to 4 % downward"
    long = torch.randn(3, 9000, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(
        project(long[:, :50]), project(nn.functional.pad(long[:, :50], (0, 8950)))
    )


# ------------------------------------------------------------------------- scores

ROOT = math.sqrt(0.5)


@pytest.mark.parametrize(
    ("rows", "score"),
    [
        ([[1, 2], [2, 4], [0.5, 1]], 1.0),
        ([[1, 2], [-1, -2]], 1.0),
        (np.eye(3), 3.0),
        ([[1, 0], [1, 0], [0, 1]], 1.889882),
        ([[1, 0], [1, 1]], 1.516637),
    ],
)
def test_vendi_scores_by_hand(rows, score: float) -> None:
    assert vendi_score(rows) == pytest.approx(score, abs=1e-6)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 30), st.integers(1, 12), st.integers(0, 10_000))
def test_all_forms_agree_and_lie_between_their_bounds(n: int, dim: int, seed: int) -> None:
    rows = torch.randn(n, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    unit = nn.functional.normalize(rows)
    score = vendi_score(rows)
    assert vendi_score(unit @ unit.T, kind="gram") == pytest.approx(score, abs=1e-8)
    assert vendi_score(unit.T @ unit / n, kind="covariance") == pytest.approx(score, abs=1e-8)
    stream = StreamingVendi(dim)
    for part in rows.split(7):
        stream.update(part)
    assert stream.compute() == pytest.approx(score, abs=1e-8)
    assert 1 - 1e-9 <= score <= min(n, dim) + 1e-9
    orders = [vendi_score(rows, q=q) for q in (0, 0.5, 1, 2, math.inf)]
    assert all(a >= b - 1e-9 for a, b in itertools.pairwise(orders))


def test_what_has_no_direction_is_refused() -> None:
    with pytest.raises(ValueError, match="row 1 is all zeros"):
        vendi_score([[1.0, 0.0], [0.0, 0.0]])
    with pytest.raises(ValueError, match="finite"):
        vendi_score([[math.nan, 1.0]])
    with pytest.raises(ValueError, match="no direction in it"):
        vendi_score(np.zeros((2, 2)), kind="gram")
    with pytest.raises(ValueError, match="at least one"):
        StreamingVendi(3).compute()


def test_g_vendi_is_that_of_the_dense_gradients_within_its_sampling_error() -> None:
    ds = records(40)
    model = tiny_decoder("0.05M", vocabulary=len(TOKENIZER))
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone())
    metric = GVendi(model, TOKENIZER, dim=1024)
    exact = per_example_gradients(model, response_nll, encoded(ds), params="proj|lm_head")
    dense = [vendi_score(RademacherProjector(1024, seed=s)(exact)) for s in range(3)]
    found = metric.score(ds)
    assert found == pytest.approx(np.mean(dense), rel=0.05)
    z = metric.features(ds).double()
    values = torch.linalg.eigvalsh(z @ z.T / len(z)).clamp(min=1e-300)
    assert found == pytest.approx(float(torch.exp(-(values * values.log()).sum())), abs=1e-6)


def test_g_vendi_does_not_depend_on_batches_or_padding() -> None:
    ds = records(260)
    one, two = (
        GVendi(decoder(), TOKENIZER, dim=128, batch_tokens=tokens) for tokens in (400, 4096)
    )
    torch.testing.assert_close(one.features(ds), two.features(ds), atol=1e-4, rtol=1e-4)
    assert one.score(iter(ds)) == pytest.approx(two.score(ds), rel=1e-5)
    assert [len(part) for part in one.batches(ds)] == [256, 4]


def test_variety_raises_the_score_and_copies_do_not() -> None:
    metric = GVendi(decoder(), TOKENIZER, dim=256)
    various = records(40)
    assert metric.score(various) > 3 * metric.score(various[:2] * 20)
    with pytest.raises(ValueError, match="no prompt and no response"):
        metric.score([{"question": "a"}])
    assert metric.score(various * 2) == pytest.approx(metric.score(various), rel=1e-4)


def test_long_and_empty_examples_are_counted_and_have_no_direction() -> None:
    metric = GVendi(decoder(), TOKENIZER, dim=32, max_length=6)
    rows = metric.features(
        [{"prompt": "a b c d e f g", "response": "a"}, {"prompt": "a", "response": ""}]
    )
    assert metric.cut == 1
    assert rows[0].norm() == 0
    assert rows[1].norm() == pytest.approx(1), "the end of an empty response is a token too"


def test_a_linear_proxy_of_two_classes_tells_no_more_than_its_inputs() -> None:
    """Its gradients are ± the inputs, and the score does not see signs."""
    torch.manual_seed(0)
    proxy, batch = nn.Linear(7, 2, bias=False), data(50)
    batch["y"] %= 2
    gradients = per_example_gradients(proxy, cross_entropy, batch)
    assert vendi_score(gradients) == pytest.approx(vendi_score(batch["x"]), abs=1e-4)


# ------------------------------------------------------------------------- other numbers


def test_numbers_about_texts_by_hand() -> None:
    texts = ["a b a b", "a b"]
    assert NGramEntropy(2)(texts) == pytest.approx(-0.75 * math.log2(0.75) - 0.25 * math.log2(0.25))
    assert DistinctN(2)(texts) == 0.5
    assert NGramEntropy(5)(texts) == DistinctN(5)(texts) == 0.0
    assert CompressionRatio()(["word"] * 200) > CompressionRatio()(
        [str(i * 7919) for i in range(200)]
    )
    rows = [{"text": text, "label": i} for i, text in enumerate(texts)]
    assert LabelEntropy()(rows) == 1.0
    assert NGramEntropy(2)(rows) == NGramEntropy(2)(texts)
    assert EmbeddingVendi(lambda t: [[1.0, 0.0], [1.0, 1.0]])(texts) == pytest.approx(
        1.516637, abs=1e-6
    )


def test_perplexity_is_that_of_the_mean_loss_over_all_tokens() -> None:
    ds = records(5)
    batch = encoded(ds)
    with torch.no_grad():
        losses = response_nll(decoder(), batch)
    tokens = int((batch["labels"] >= 0).sum())
    found = MeanPerplexity(decoder(), TOKENIZER, batch_size=2)(ds)
    assert found == pytest.approx(math.exp(float(losses.sum()) / tokens), rel=1e-4)
