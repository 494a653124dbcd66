"""Scores of weights, and cutting by them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from generality.measures.weight_importance import (
    activation_importance,
    dual_importance,
    hessian_importance,
    linear_layers,
    taylor_importance,
    taylor_term,
)
from generality.modules import hold_zeros
from generality.objectives import EWCAnchor
from generality.weights.prune import keep_masks, prune, sparsity_report

W = torch.tensor([[0.5, -0.2], [0.1, 0.8]])
X = torch.tensor([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]])


@pytest.fixture
def net() -> nn.Module:
    model = nn.Sequential()
    model.add_module("proj", nn.Linear(2, 2, bias=False))
    model.proj.weight.data = W.clone()
    return model


def test_hessian_scores_of_the_sheet(net):
    (scores,) = hessian_importance(net, [{"input": X}], targets="proj").values()
    expected = torch.tensor([[0.30607, 0.13427], [0.01224, 2.14827]])
    torch.testing.assert_close(scores, expected, atol=1e-5, rtol=1e-4)
    (plain,) = hessian_importance(net, [{"input": X}], targets="proj", conditional=False).values()
    expected = torch.tensor([[0.30607, 0.12116], [0.01224, 1.93860]])
    torch.testing.assert_close(plain, expected, atol=1e-5, rtol=1e-4)


def test_hessian_scores_do_not_depend_on_the_batches(net):
    whole = hessian_importance(net, [{"input": X}], targets="proj")["proj.weight"]
    parts = hessian_importance(net, [{"input": x[None]} for x in X], targets="proj")["proj.weight"]
    torch.testing.assert_close(whole, parts)


def test_inputs_that_are_always_zero(net):
    (scores,) = hessian_importance(net, [{"input": 0 * X}], targets="proj").values()
    torch.testing.assert_close(scores, W.square())


def test_wanda_by_hand(net):
    (scores,) = activation_importance(net, [{"input": X}], targets="proj").values()
    norms = torch.tensor([2.0, 5.0]).sqrt() / 3**0.5  # over the mean: the same order
    torch.testing.assert_close(scores, W.abs() * norms)


def test_taylor_terms_of_the_sheet():
    g = torch.tensor([[0.3, -0.1], [-0.2, 0.05]])
    expected = torch.tensor([[0.15001, 0.02000], [0.02000, 0.04000]])
    torch.testing.assert_close(taylor_term(g, W, 1000), expected, atol=1e-5, rtol=0)
    expected = torch.tensor([[0.27501, 0.01200], [0.01900, 0.55200]])
    torch.testing.assert_close(taylor_term(g, W, 1000, cubic=True), expected, atol=1e-5, rtol=0)


def test_taylor_scores_sum_over_batches_and_the_released_regulariser_is_inert(net):
    def loss(model, batch):
        return model(batch["input"]).square().sum()

    batches = [{"input": x[None]} for x in X]
    scores = taylor_importance(net, batches, loss, targets="proj")["proj.weight"]
    expected = sum(taylor_term(2 * (W @ x)[:, None] * x, W, 3) for x in X)
    torch.testing.assert_close(scores, expected)
    general = hessian_importance(net, [{"input": X}], targets="proj")
    held = taylor_importance(net, batches, loss, targets="proj", general=general)["proj.weight"]
    assert 0 < float(((held - scores) / scores).abs().max()) < 2e-3  # a 300th of that in the paper
    assert net.proj.weight.grad is None


def test_the_released_regulariser_s_increment_is_the_sheet_s(net):
    g = torch.tensor([[0.3, -0.1], [-0.2, 0.05]], dtype=torch.float64)
    net.double()
    general = {"proj.weight": torch.tensor([[0.30607, 0.13427], [0.01224, 2.14827]])}
    batches = [{"input": X}] * 1000

    def scores(**options):
        loss = lambda model, _: (model.proj.weight * g).sum()  # noqa: E731
        return taylor_importance(net, batches, loss, targets="proj", **options)["proj.weight"]

    grown = (scores(general=general) - scores()) / (1000 * net.proj.weight.abs())
    # λ 0.1, α 0.03, n 1000: 2 · 0.1 · 0.03² · G g² / 1000, of which the largest is the first
    assert grown.detach().max().item() == pytest.approx(4.96e-9, rel=1e-2)
    assert grown.detach().abs().argmax() == 0


def test_short_types_are_scored_and_summed_in_float32(net):
    def loss(model, batch):
        return model(batch["input"]).square().sum()

    batches = [{"input": X.bfloat16()}] * 600
    wide = taylor_importance(net, [{"input": X}] * 600, loss, targets="proj")["proj.weight"]
    narrow = taylor_importance(net.bfloat16(), batches, loss, targets="proj")["proj.weight"]
    assert narrow.dtype == torch.float32
    torch.testing.assert_close(narrow, wide, rtol=0.03, atol=0)  # sums of bfloat16 stall near 256
    small = nn.Sequential()
    small.add_module("proj", nn.Linear(2, 2, bias=False).half())
    small.proj.weight.data.copy_(W)
    tiny = [{"input": (1e-3 * X).half()}]  # the inverse Hessian is above 65,504
    (scores,) = hessian_importance(small, tiny, targets="proj").values()
    assert scores.min() > 0


def test_batches_go_to_the_model_s_device():
    class Elsewhere(nn.Module):  # as if the first parameter were on a GPU
        def __init__(self) -> None:
            super().__init__()
            self.far = nn.Parameter(torch.empty(1, device="meta"))
            self.proj = nn.Linear(2, 1)

        def forward(self, **batch):
            assert batch["input"].device.type == "meta"
            self.proj(torch.ones(3, 2))

    (scores,) = activation_importance(Elsewhere(), [{"input": X}], targets="proj").values()
    assert scores.shape == (1, 2)


def test_padding_does_not_count():
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=9, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2
    )
    model = LlamaForCausalLM(config)
    ids = torch.tensor([[1, 2, 3]])
    alone = activation_importance(model, [{"input_ids": ids}])
    padded = {
        "input_ids": torch.tensor([[1, 2, 3, 0, 0]]),
        "attention_mask": torch.tensor([[1, 1, 1, 0, 0]]),
    }
    for name, scores in activation_importance(model, [padded]).items():
        torch.testing.assert_close(scores, alone[name], atol=1e-5, rtol=1e-4)
    assert len(alone) == 7


@settings(max_examples=50, deadline=None)
@given(
    st.integers(1, 6), st.integers(1, 30), st.floats(0, 0.99), st.integers(0, 2**20),
    st.sampled_from(["matrix", "row", "block", "global"]),
)  # fmt: skip
def test_the_share_is_exact_and_the_best_stay(rows, columns, sparsity, seed, scope):
    drawn = torch.Generator().manual_seed(seed)
    scores = {n: torch.rand(rows, columns, generator=drawn) for n in ("a", "b")}
    masks = keep_masks(scores, sparsity, scope=scope, block=7)
    gone = sum(int((~m).sum()) for m in masks.values())
    counted = {
        "matrix": [rows * columns] * 2,
        "row": [columns] * rows * 2,
        "block": [rows * len(c) for c in torch.arange(columns).split(7)] * 2,
        "global": [2 * rows * columns],
    }[scope]
    assert gone == sum(round(sparsity * n) for n in counted)
    if scope == "matrix" and gone > 0:
        for name, mask in masks.items():
            if mask.any() and (~mask).any():
                assert scores[name][mask].min() >= scores[name][~mask].max()


def test_pruned_weights_and_report():
    weights = {"w": W, "norm": torch.ones(2)}
    pruned = prune(weights, {"w": W.abs()}, 0.5)
    assert pruned["w"].tolist() == [[0.5, 0.0], [0.0, pytest.approx(0.8)]]
    assert torch.equal(weights["w"], W)
    report = sparsity_report(pruned, {"w": W})
    assert (report.pruned, report.by_matrix) == (0.5, {"w": 0.5})
    assert report.whole == pytest.approx(2 / 6)
    with pytest.raises(ValueError, match=r"share in \[0, 1\)"):
        prune(weights, {"w": W}, 1.0)
    with pytest.raises(ValueError, match="no weights 'v'"):
        prune(weights, {"v": W}, 0.5)
    with pytest.raises(ValueError, match="scope is one of matrix"):
        prune(weights, {"w": W}, 0.5, scope="rows")
    with pytest.raises(ValueError, match="scores of 'w' have a NaN"):
        prune(weights, {"w": W.log()}, 0.5)
    with pytest.raises(ValueError, match="no matrix's"):
        prune(weights, {"w": W[0]}, 0.5)
    assert keep_masks({}, 0.5, scope="global") == {}


def test_cut_weights_stay_zero_in_training(net):
    net.load_state_dict(prune(net.state_dict(), {"proj.weight": W.abs()}, 0.5))
    weight = net.proj.weight
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.1, weight_decay=0.1)
    with hold_zeros(net, targets="proj"):
        for _ in range(3):
            optimizer.zero_grad()
            net(X).square().sum().backward()
            optimizer.step()
            assert torch.equal(net.proj.weight == 0, W.abs() < 0.3)
    assert net.proj.weight is weight
    assert torch.equal(weight == 0, W.abs() < 0.3)
    assert not torch.equal(weight[W.abs() > 0.3], W[W.abs() > 0.3])
    assert list(net.state_dict()) == ["proj.weight"]


def test_dual_scores():
    general, domain = {"w": torch.tensor([[4.0, 1.0, 2.0]])}, {"w": torch.tensor([[1e-3, 9e-3, 0]])}
    assert dual_importance(general, domain)["w"].tolist() == [[3.0, 2.0, 1.0]]
    scaled = dual_importance({"w": general["w"] * 1e6}, domain)
    assert torch.equal(scaled["w"], dual_importance(general, domain)["w"])
    with pytest.raises(ValueError, match="not 'min'"):
        dual_importance(general, domain, "min")
    with pytest.raises(ValueError, match="only one has scores of 'v'"):
        dual_importance(general, {"v": domain["w"]})
    largest = dual_importance(general, domain, "max")["w"]
    torch.testing.assert_close(largest, torch.tensor([[12 / 7, 2.7, 6 / 7]]))


def test_the_anchor_pulls_back():
    model = nn.Linear(2, 1, bias=False)
    model.weight.data = torch.tensor([[1.0, 2.0]])
    anchor = EWCAnchor({"weight": torch.tensor([[1.0, 3.0]])}, {"weight": torch.zeros(1, 2)}, 0.5)
    anchor(model).backward()
    assert model.weight.grad.tolist() == [[1.0, 6.0]]
    with pytest.raises(ValueError, match="no initial weights"):
        EWCAnchor({"weight": torch.ones(1, 2)}, {})


def test_layers_by_name(net):
    with pytest.raises(ValueError, match="this model has proj"):
        linear_layers(net)
    with pytest.raises(ValueError, match="at least one batch"):
        activation_importance(net, [], targets="proj")
