"""D-Pruner's scores and what they are compared with, on one model."""

from __future__ import annotations

import pytest
import torch

from generality.lab import TrainConfig
from generality.measures import dual_importance, taylor_importance
from generality.models import tiny_decoder
from generality.objectives import EWCAnchor
from generality.training.domain_pruning import DomainPruning
from generality.training.token_batches import mean_loss, text_loss, token_batches

STRONG = 1e4  # a spring that lets nothing go far


def pruning(strength: float = 0.1, epochs: int = 4) -> DomainPruning:
    drawn = torch.Generator().manual_seed(0)
    general = torch.randint(3, 40, (8, 9), generator=drawn).tolist()
    domain = torch.randint(30, 40, (8, 9), generator=drawn).tolist()
    tuning = TrainConfig(epochs, 4, learning_rate=1e-3, optimizer="adamw")
    model = tiny_decoder("0.05M", vocabulary=40)
    return DomainPruning(model, general, domain, tuning, strength=strength, batch_size=4)


@pytest.fixture(scope="module")
def task() -> DomainPruning:
    return pruning()


def test_the_released_regulariser_is_inert_and_its_cubic_term_is_not(task):
    plain, released = task.domain_scores("plain"), task.domain_scores("released")
    cubic = task.domain_scores("released", cubic=True)
    assert 0 < task.released_share() < 1e-5
    for name, scores in plain.items():
        assert float((released[name] - scores).abs().max()) < 1e-4 * float(scores.mean())
        assert float((cubic[name] - scores).abs().max()) > 0.1 * float(scores.mean())


def test_the_anchor_holds_and_its_gradient_is_in_the_scores():
    task = pruning(strength=STRONG)
    start = dict(task.model.named_parameters())
    key = "model.layers.0.mlp.up_proj.weight"
    moved = {
        name: float((model.get_parameter(key) - start[key]).detach().norm())
        for name, model in (("plain", task._plain), ("anchored", task._held))
    }
    assert 0 < moved["anchored"] < 0.5 * moved["plain"]
    anchor = EWCAnchor(task.general_scores, start, STRONG)
    by_hand = taylor_importance(
        task._held, token_batches(task.domain, 1),
        lambda model, batch: mean_loss(model, batch) + anchor(model),
    )  # fmt: skip
    torch.testing.assert_close(task.domain_scores("anchored")[key], by_hand[key])


def test_ways_differ_and_the_model_stays(task):
    before = {name: tensor.clone() for name, tensor in task.model.state_dict().items()}
    ways = {
        "magnitude": task.magnitude(),
        "random": task.random(),
        "wanda": task.wanda("general"),
        "wanda-domain": task.wanda("domain"),
        "general": task.general_scores,
        "dual": task.dual_scores(),
    }
    name = "model.layers.1.self_attn.q_proj.weight"
    cut = {way: task.pruned(scores, 0.5)[name] == 0 for way, scores in ways.items()}
    cut["sparsegpt"] = task.sparsegpt(0.5, "both")[name] == 0
    assert all(int(zeros.sum()) == zeros.numel() // 2 for zeros in cut.values())
    pairs = [(a, b) for a in cut for b in cut if a < b]
    assert not any(torch.equal(cut[a], cut[b]) for a, b in pairs)
    joined = dual_importance(task.general_scores, task.domain_scores("anchored"))
    assert torch.equal(ways["dual"][name], joined[name])
    assert all(torch.equal(tensor, before[n]) for n, tensor in task.model.state_dict().items())


def test_taylor_scores_foresee_what_a_cut_costs():
    """On a trained model the sum of scores of one cut weight is about the loss it costs."""
    task = pruning(epochs=1)
    model, name = task._plain, "model.layers.0.mlp.down_proj.weight"
    scores = task.domain_scores("plain")[name] / len(task.domain)  # mean over texts
    batches = token_batches(task.domain, 1)
    start = text_loss(model, batches)
    weight = model.get_parameter(name)
    order = scores.flatten().argsort()
    costs = []
    for chosen in (order[: len(order) // 2], order[len(order) // 2 :]):
        kept = weight.detach().clone()
        with torch.no_grad():
            weight.view(-1)[chosen] = 0
            costs.append(abs(text_loss(model, batches) - start))
            weight.copy_(kept)
    assert costs[0] < costs[1]
