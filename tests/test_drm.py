"""DRM: the mixtures' published numbers, who learns from what, and refitting to a stream."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from generality.estimators import (
    DiscriminatorSelector,
    DomainHeads,
    EntropySelector,
    PrototypeSelector,
    PseudoLabelRefit,
    UnusableFeatures,
    adaptivity_gap,
)
from generality.models import MultiHead, combine_heads, entropy_weights
from generality.objectives import drm_loss
from generality.objectives.domain_penalties import coral_penalty
from generality.objectives.drm_algorithm import DRMAlgorithm

TWO = torch.tensor([[[0.9, 0.1]], [[0.6, 0.4]]]).log()
THREE = torch.cat([TWO, torch.tensor([[[0.5, 0.5]]]).log()])


def domain_heads(seed: int = 0, domains: int = 2) -> DomainHeads:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return DomainHeads(nn.Linear(5, 4), dim=4, classes=3, domains=domains)


def inputs(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# ------------------------------------------------------------------------- mixtures


@pytest.mark.parametrize(
    ("gamma", "weights", "mixture"),
    [(1.0, [0.6743, 0.3257], [0.8023, 0.1977]), (0.5, [0.5900, 0.4100], [0.7770, 0.2230])],
)
def test_mixtures_match_the_numbers_worked_by_hand(gamma, weights, mixture) -> None:
    assert entropy_weights(TWO, gamma)[0].tolist() == pytest.approx(weights, abs=5e-5)
    found = combine_heads(TWO, "entropy", gamma)[0].tolist()
    assert found == pytest.approx(mixture, abs=5e-5)


def test_the_released_mixture_weighs_the_global_head_and_leaves_it_out() -> None:
    assert entropy_weights(THREE)[0].tolist() == pytest.approx([0.5123, 0.2474, 0.2403], abs=5e-5)
    full, released = (
        combine_heads(THREE, "entropy", last_votes=votes)[0].tolist() for votes in (True, False)
    )
    assert full == pytest.approx([0.7297, 0.2703], abs=5e-5)
    assert released == pytest.approx([0.6095, 0.1502], abs=5e-5)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 5), st.integers(2, 5), st.floats(0, 8), st.integers(0, 1000))
def test_mixtures_are_distributions_whatever_the_order_of_heads(heads, classes, gamma, seed):
    logits = 30 * inputs(heads, 7, classes, seed=seed)  # some entropies underflow to 0
    order = torch.randperm(heads, generator=torch.Generator().manual_seed(seed))
    for rule in ("uniform", "entropy", "argmin_entropy"):
        mixture = combine_heads(logits, rule, gamma)
        torch.testing.assert_close(mixture.sum(-1), torch.ones(7))
        if rule != "argmin_entropy":  # ties go to the first
            again = combine_heads(logits[order], rule, gamma)
            torch.testing.assert_close(mixture, again, atol=1e-4, rtol=1e-4)


def test_a_class_ruled_out_by_a_mask_leaves_the_others_as_they_were() -> None:
    masked = torch.cat([inputs(3, 6, 4), torch.full((3, 6, 1), -torch.inf)], -1)
    for rule in ("uniform", "entropy", "argmin_entropy"):
        found = combine_heads(masked, rule)
        torch.testing.assert_close(found[:, :4], combine_heads(masked[..., :4], rule))
        assert (found[:, 4] == 0).all()


def test_rules_meet_at_their_ends() -> None:
    logits = inputs(3, 6, 4)
    torch.testing.assert_close(
        combine_heads(logits, "entropy", gamma=0), combine_heads(logits, "uniform")
    )
    torch.testing.assert_close(
        combine_heads(logits, "entropy", gamma=400), combine_heads(logits, "argmin_entropy")
    )
    torch.testing.assert_close(
        combine_heads(logits, "weights", weights=torch.tensor([0.0, 2.0, 0.0])),
        logits[1].softmax(-1),
    )
    for rule, message in (("weights", "needs weights"), ("loudest", "rule is")):
        with pytest.raises(ValueError, match=message):
            combine_heads(logits, rule)
    with pytest.raises(ValueError, match="gamma"):
        entropy_weights(logits, -1)
    with pytest.raises(ValueError, match="at least one head"):
        MultiHead(None, [])


def test_each_example_is_weighed_by_itself() -> None:
    """The released code picks one head for a batch; here a batch's company changes nothing."""
    logits = inputs(3, 6, 4)
    together = combine_heads(logits, "argmin_entropy")
    alone = torch.cat([combine_heads(logits[:, i : i + 1], "argmin_entropy") for i in range(6)])
    torch.testing.assert_close(together, alone)


# ------------------------------------------------------------------------- training


def test_one_domain_is_plain_training_of_two_averaged_heads() -> None:
    model = domain_heads(domains=1)
    x, y = inputs(1, 8, 5), torch.arange(8).remainder(3)[None]
    own, shared = (nn.functional.cross_entropy(logits, y[0]) for logits in model(x[0]))
    torch.testing.assert_close(model.loss(x, y), (own + shared) / 2)


def test_a_head_learns_from_its_own_domain_and_features_from_all() -> None:
    model = domain_heads()
    x, y = inputs(2, 8, 5), torch.arange(16).remainder(3).view(2, 8)
    expected = torch.stack(
        [
            nn.functional.cross_entropy(logits, y[domain])
            for domain in (0, 1)
            for logits in (model(x[domain])[domain], model(x[domain])[2])
        ]
    ).mean()
    loss = model.loss(x, y)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    before = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    x[1] += 1  # another second domain
    model.loss(x, y).backward()
    changed = [
        not torch.allclose(p.grad, old) for p, old in zip(model.parameters(), before, strict=True)
    ]
    names = [name for name, _ in model.named_parameters()]
    touched = dict(zip(names, changed, strict=True))
    assert not touched["heads.0.weight"]
    assert touched["heads.1.weight"]
    assert touched["heads.2.weight"]
    assert touched["body.weight"]


def test_batches_of_another_number_of_domains_are_refused() -> None:
    model = domain_heads()
    for domains in (1, 3):
        with pytest.raises(ValueError, match="2 domains, batch"):
            model.loss(inputs(domains, 8, 5), torch.zeros(domains, 8, dtype=torch.long))


def test_domains_count_alike_and_an_absent_one_not_at_all() -> None:
    logits, targets = inputs(3, 5, 4), torch.eye(4)[[0, 1, 2, 3, 0]]
    first = torch.tensor([[1.0, 0.0]])
    second = torch.tensor([[0.0, 1.0]])
    mixed = torch.cat([first.expand(4, 2), second])
    parts = [
        drm_loss(logits[:, rows], targets[rows], mixed[rows]) for rows in (slice(0, 4), slice(4, 5))
    ]
    torch.testing.assert_close(drm_loss(logits, targets, mixed), torch.stack(parts).mean())
    with pytest.raises(ValueError, match="as many heads"):
        drm_loss(logits[:1], targets, mixed)


def test_the_loss_works_under_vmap() -> None:
    logits, targets = inputs(2, 3, 6, 4), torch.eye(4)[torch.arange(6) % 4]
    domains = torch.eye(2)[torch.arange(6) % 2]
    together = torch.func.vmap(lambda z: drm_loss(z, targets, domains))(logits)
    alone = torch.stack([drm_loss(z, targets, domains) for z in logits])
    torch.testing.assert_close(together, alone)


# ------------------------------------------------------------------------- choosing a head


@pytest.mark.parametrize(
    "make",
    [
        lambda z, d: EntropySelector(2.0),
        lambda z, d: DiscriminatorSelector(z, d),
        lambda z, d: DiscriminatorSelector(z, d, hard=True),
        lambda z, d: PrototypeSelector(z, d),
        lambda z, d: PrototypeSelector(z, d, metric="cosine"),
        lambda z, d: PrototypeSelector(z, d, metric="cosine", hard=True),
    ],
)
def test_selectors_weigh_heads_and_know_their_domains(make) -> None:
    centres = torch.tensor([[6.0, 0.0, 0.0], [0.0, 6.0, 0.0]])
    domains = torch.arange(80) % 2
    z = centres[domains] + inputs(80, 3)
    logits = inputs(3, 80, 4)
    selector = make(z, domains)
    weights = selector.weights(z, logits)
    torch.testing.assert_close(weights.sum(1), torch.ones(80))
    assert weights.min() >= 0
    if not isinstance(selector, EntropySelector):
        assert (weights.argmax(1) == domains).float().mean() > 0.95
        assert (weights[:, 2] == 0).all(), "the global head is nobody's domain"
        with pytest.raises(ValueError, match="only 1 heads"):
            selector.weights(z, logits[:1])
    if getattr(selector, "hard", False):
        assert set(weights.unique().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize("make", [DiscriminatorSelector, PrototypeSelector])
@pytest.mark.parametrize(
    "domains", [[0, 2, 0, 2], [1, 2, 1, 2], ["a", "b", "a", "b"], [0, 1, 0]], ids=str
)
def test_a_domain_that_no_head_could_be_told_by_is_refused(make, domains) -> None:
    """An id left out would make a mean of no rows, or give one domain's weight to another."""
    with pytest.raises(ValueError, match="4 ids, 0 … K−1 in the order of the heads"):
        make(inputs(4, 3), np.array(domains))


def test_the_gap_is_what_the_choice_costs() -> None:
    assert adaptivity_gap([0.5, 0.75], 0.5) == 0.25
    assert adaptivity_gap([0.5], 0.6) == pytest.approx(-0.1)


# ------------------------------------------------------------------------- DRM-T


@pytest.mark.parametrize("labels_from", ["own", "last", "uniform", "drm"])
def test_refitting_takes_one_step_of_adam_on_all_heads(labels_from) -> None:
    model, x = domain_heads(), 3 * inputs(12, 5)
    adapter = PseudoLabelRefit(model, labels_from=labels_from, threshold=0.5, learning_rate=0.1)
    optimizer = torch.optim.Adam(model.heads.parameters(), 0.1)
    logits = model(x)
    chances = {
        "own": logits.softmax(-1),
        "last": logits[-1].softmax(-1).expand_as(logits),
        "uniform": combine_heads(logits, "uniform").expand_as(logits),
        "drm": combine_heads(logits, "entropy").expand_as(logits),
    }[labels_from].detach()
    sure, labels = chances.amax(-1) >= 0.5, chances.argmax(-1)
    assert 0 < sure.float().mean() < 1
    loss = sum(
        nn.functional.cross_entropy(logits[i][sure[i]], labels[i][sure[i]]) for i in range(3)
    )
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    mixture = combine_heads(logits, "entropy").detach()
    torch.testing.assert_close(adapter.predict(x), mixture, msg="from before the step")
    for name, tensor in adapter.state_dict().items():
        torch.testing.assert_close(tensor, model.heads.state_dict()[name])


def test_refitting_can_move_the_body_and_goes_back() -> None:
    model, x = domain_heads(), 3 * inputs(12, 5)
    for scope in ("heads", "all"):
        adapter = PseudoLabelRefit(model, scope=scope, threshold=0.3, steps=3, learning_rate=0.1)
        first = adapter.predict(x, adapt=False)
        adapter.predict(x)
        moved = not torch.equal(adapter.model.body.weight, model.body.weight)
        assert moved == (scope == "all")
        assert not torch.allclose(adapter.predict(x, adapt=False), first)
        with pytest.raises(UnusableFeatures, match="Row 0"):
            adapter.predict(np.full((2, 5), np.nan))
        adapter.reset()
        torch.testing.assert_close(adapter.predict(x, adapt=False), first)


def test_the_released_confidence_of_a_mixture_cannot_exceed_its_cap() -> None:
    """Softmax of three probabilities is at most e / (e + 2) = 0.576."""
    model, x = domain_heads(), 100 * inputs(12, 5)
    for threshold, moves in ((0.3, True), (0.58, False)):
        adapter = PseudoLabelRefit(
            model, threshold=threshold, released_behaviour=True, learning_rate=0.1
        )
        before = adapter.state_dict()
        adapter.predict(x)
        same = all(torch.equal(before[name], t) for name, t in adapter.state_dict().items())
        assert same != moves


def test_bad_options_are_refused() -> None:
    for options in ({"labels_from": "mine"}, {"scope": "body"}, {"steps": 0}):
        with pytest.raises(ValueError):  # noqa: PT011 - three sentences
            PseudoLabelRefit(domain_heads(), **options)
    with pytest.raises(ValueError, match="metric"):
        PrototypeSelector(inputs(4, 2), torch.tensor([0, 0, 1, 1]), metric="l1")


# ------------------------------------------------------------------------- one wide head


@pytest.mark.parametrize("bias", [True, False])
def test_a_wide_head_is_taken_apart_and_copied(bias: bool) -> None:
    body, wide, x = nn.Linear(5, 4), nn.Linear(4, 6, bias=bias), inputs(7, 5)
    apart = MultiHead.from_wide_head(body, wide, classes=2)
    together = wide(body(x)).reshape(7, 3, 2).movedim(1, 0)
    torch.testing.assert_close(apart(x), together)
    with torch.no_grad():
        wide.weight.zero_()
    assert not apart.heads[0].weight.eq(0).any()
    with pytest.raises(ValueError, match="no multiple"):
        MultiHead.from_wide_head(body, wide, classes=4)


def test_coral_is_added_to_the_heads_loss_by_its_weight() -> None:
    logits, features = inputs(2, 6, 9), inputs(2, 6, 4, seed=1)
    targets = torch.eye(9)[torch.arange(12).reshape(2, 6) % 3]
    plain, with_coral = (
        DRMAlgorithm(name="DRM", coral_weight=weight)
        .loss(logits, targets, features, {}, {}, torch.tensor(0.0))[0]
        .item()
        for weight in (0.0, 0.5)
    )
    assert with_coral == pytest.approx(plain + 0.5 * coral_penalty(None, None, features).item())
