"""SparseGPT and GPTQ: cut or rounded columns that the others make up for."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from generality.models import tiny_decoder
from generality.training.layer_by_layer import layer_by_layer, prune_sparsegpt, quantize_gptq
from generality.weights import gptq, prune, quantize_rtn, sparsegpt

W = torch.tensor([[0.5, -0.2], [0.1, 0.8]])
X = torch.tensor([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]])


def correlated(seed: int, rows: int = 8, columns: int = 32) -> tuple[Tensor, Tensor, Tensor]:
    """A matrix, inputs that depend on each other, and their second moments."""
    drawn = torch.Generator().manual_seed(seed)
    mixing = torch.randn(columns, columns, generator=drawn)
    x = torch.randn(400, columns, generator=drawn) @ mixing
    return torch.randn(rows, columns, generator=drawn), x, x.T @ x / len(x)


def error(changed: Tensor, weight: Tensor, x: Tensor) -> float:
    return float((x @ (changed - weight).T).square().mean())


def test_scores_of_d_pruner_s_first_step():
    same, scores = sparsegpt(W, X.T @ X / 3, 0.0)
    expected = torch.tensor([[0.30607, 0.13427], [0.01224, 2.14827]])
    torch.testing.assert_close(scores, expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(same, W)


def test_cutting_the_first_column_is_least_squares_on_the_second():
    moments = X.T @ X / 3
    hessian = 2 * moments + 0.01 * 2 * moments.diagonal().mean() * torch.eye(2)
    weight = torch.tensor([[0.1, 0.8]])
    (cut,), _ = sparsegpt(weight, moments, 0.5)
    assert cut[0] == 0
    assert cut[1].item() == pytest.approx(float(0.8 + 0.1 * hessian[0, 1] / hessian[1, 1]))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**20), st.sampled_from([8, 12, 32]))
def test_sparsegpt_cuts_its_share_of_every_block(seed, block):
    weight, _, moments = correlated(seed)
    cut, scores = sparsegpt(weight, moments, 0.5, block=block)
    for part in cut.split(block, 1):
        assert int((part == 0).sum()) == round(0.5 * part.numel())
    assert bool((scores >= 0).all())


@pytest.mark.parametrize("seed", range(3))
def test_making_up_for_it_pays(seed):
    weight, x, moments = correlated(seed)
    cut, scores = sparsegpt(weight, moments, 0.5, block=32)
    left = prune({"w": weight}, {"w": scores}, 0.5)["w"]
    assert error(cut, weight, x) < 0.9 * error(left, weight, x)
    for bits in (3, 4):
        nearest = quantize_rtn({"w": weight}, ["w"], bits=bits, group=16)["w"]
        assert error(gptq(weight, moments, bits=bits, group=16), weight, x) < 0.9 * error(
            nearest, weight, x
        )


def test_with_independent_inputs_gptq_is_rounding_to_nearest():
    weight, _, _ = correlated(0)
    rounded = gptq(weight, torch.eye(32), bits=3, group=16)
    torch.testing.assert_close(rounded, quantize_rtn({"w": weight}, ["w"], bits=3, group=16)["w"])
    for row in rounded:
        assert all(len(group.unique()) <= 8 for group in row.split(16))


@pytest.fixture(scope="module")
def decoder() -> tuple[nn.Module, list[dict[str, Tensor]]]:
    ids = torch.randint(3, 40, (4, 10), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1:, 7:] = 0
    return tiny_decoder("0.05M", vocabulary=40), [{"input_ids": ids, "attention_mask": mask}]


def test_every_layer_sees_what_the_changed_ones_before_it_give(decoder):
    model, batches = decoder
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    seen: list[Tensor] = []

    def zero(weight: Tensor, moments: Tensor) -> Tensor:
        seen.append(moments)
        return torch.zeros_like(weight)

    changed = layer_by_layer(model, batches, zero)
    assert len(seen) == 14
    first, second = seen[0], seen[7]  # the query's inputs of both blocks
    assert all(bool((changed[name] == 0).all()) for name in changed if "_proj" in name)
    # an empty first block leaves the embeddings, and both norms are ones: the same inputs
    torch.testing.assert_close(first, second)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    real = batches[0]["attention_mask"].bool()
    embedded = model.model.embed_tokens(batches[0]["input_ids"])[real]
    x = embedded * embedded.square().mean(-1, keepdim=True).add(1e-6).rsqrt()
    torch.testing.assert_close(first, x.T @ x / len(x), rtol=1e-4, atol=1e-4)


def test_whole_models(decoder):
    model, batches = decoder
    cut = prune_sparsegpt(model, batches, 0.5, block=16)
    rounded = quantize_gptq(model, batches, bits=2, group=16)
    for name, weight in model.state_dict().items():
        if "_proj" in name:
            assert float((cut[name] == 0).float().mean()) == pytest.approx(0.5, abs=0.01)
            assert len(rounded[name][0, :16].unique()) <= 4
        else:
            assert torch.equal(cut[name], weight)
            assert torch.equal(rounded[name], weight)
    with pytest.raises(ValueError, match="in one list of blocks"):
        layer_by_layer(nn.Sequential(nn.Linear(2, 2)), [], lambda w, _: w, targets="0")
