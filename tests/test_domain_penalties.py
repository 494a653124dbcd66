"""Domain penalties against hand-computed values, autograd, and plain per-sample loops."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.func import vmap

from generality.objectives import (
    ReverseGrad,
    coral,
    dann_alpha,
    domain_penalty,
    domain_risks,
    group_dro,
    mixup,
    mk_mmd,
    penalised,
)
from generality.objectives.domain_penalties import (
    fishr_penalty,
    gradient_variance,
    gradient_variances,
    vrex_penalty,
)

NAMES = ["irm", "irm_split", "vrex", "iga", "sd", "fishr", "clove", "coral", "mmd"]
COMPARING = ["vrex", "iga", "fishr", "coral", "mmd"]


def batch(domains=3, size=6, classes=4, width=5, seed=0, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    features = torch.randn(domains, size, width, generator=g, dtype=dtype)
    labels = torch.randint(classes, (domains, size), generator=g)
    head = nn.Linear(width, classes, dtype=dtype)
    with torch.no_grad():
        head.weight.copy_(torch.randn(classes, width, generator=g, dtype=dtype))
        head.bias.copy_(torch.randn(classes, generator=g, dtype=dtype))
    return features, labels, head


# ------------------------------------------------------------------ published and hand values


def test_irm_matches_the_hand_computed_number():
    binary, labels = torch.tensor([[[2.0], [-1.0]]]), torch.tensor([[1, 0]])
    assert domain_risks(binary, labels).item() == pytest.approx(0.220095, abs=1e-6)
    assert domain_penalty("irm")(binary, labels, binary).item() == pytest.approx(0.064350, abs=1e-6)
    two = torch.cat([torch.zeros_like(binary), binary], -1)
    assert domain_penalty("irm")(two, labels, two).item() == pytest.approx(0.064350, abs=1e-6)
    even, odd = -2 / (1 + math.exp(2)), -1 / (1 + math.e)
    split = domain_penalty("irm_split")(binary, labels, binary).item()
    assert split == pytest.approx(even * odd, abs=1e-6)


def test_vrex_and_the_normalised_total_match_the_hand_computed_numbers():
    risks = torch.tensor([0.4, 0.6])
    logits = -torch.log(torch.expm1(risks))[:, None, None]  # softplus(-z) = risk at label 1
    labels = torch.ones(2, 1, dtype=torch.long)
    torch.testing.assert_close(domain_risks(logits, labels), risks)
    penalty = vrex_penalty(logits, labels)
    assert penalty.item() == pytest.approx(0.02, abs=1e-6)
    assert vrex_penalty(logits, labels, ddof=0).item() == pytest.approx(0.01, abs=1e-6)
    assert penalised(risks, penalty, 10.0, normalise=True).item() == pytest.approx(0.12, abs=1e-6)
    assert penalised(risks, penalty, 10.0).item() == pytest.approx(1.2, abs=1e-6)
    small = penalised(risks, penalty, torch.tensor(0.5), normalise=True)
    assert small.item() == pytest.approx(1.01, abs=1e-6)


def test_sd_and_clove_match_hand_computed_numbers():
    logits = torch.tensor([[[1.0, -1.0]], [[0.0, 2.0]]])
    labels = torch.tensor([[0], [0]])
    assert domain_penalty("sd")(logits, labels, logits).item() == pytest.approx(1 + 2)
    right, wrong = 1 / (1 + math.exp(-2)), 1 / (1 + math.exp(-2))
    expected = (1 - right) ** 2 + wrong**2  # one example a domain: the kernel is 1
    assert domain_penalty("clove")(logits, labels, logits).item() == pytest.approx(expected)
    pair = torch.tensor([[[0.0, 2.0], [1.0, 0.0]]])
    r = torch.tensor([1 / (1 + math.exp(-2)), 1 / (1 + math.exp(-1))])
    gap = torch.tensor([1.0, 0.0]) - r
    kernel = math.exp(-float(r[0] - r[1]) / 0.4)
    by_hand = (gap[0] ** 2 + gap[1] ** 2 + 2 * gap[0] * gap[1] * kernel) / 4
    found = domain_penalty("clove")(pair, torch.tensor([[1, 1]]), pair)
    torch.testing.assert_close(found, by_hand)
    binary = (pair[..., 1:] - pair[..., :1],)
    torch.testing.assert_close(
        domain_penalty("clove")(*binary, torch.tensor([[1, 1]]), pair), by_hand
    )


def test_mk_mmd_matches_the_hand_computed_number():
    x = torch.tensor([[0.0, 0.0], [1.0, 0.0]])
    y = torch.tensor([[0.0, 1.0], [1.0, 1.0]])
    assert mk_mmd(x, y).item() == pytest.approx(3.5649, abs=1e-4)
    assert mk_mmd(x, x).item() == 0
    kernels = [sum(math.exp(-d / (2**i)) for i in range(5)) for d in (0, 1, 2)]
    own, between = kernels[1], (kernels[1] + kernels[2]) / 2
    unbiased = mk_mmd(x, y, bandwidth=4.0, biased=False).item()
    assert unbiased == pytest.approx(2 * own - 2 * between, abs=1e-5)
    assert mk_mmd(x, x + 100.0).item() <= 2 * 5


def test_the_reversal_follows_its_schedule():
    assert [round(dann_alpha(p), 4) for p in (0, 0.1, 0.5, 1)] == [0, 0.2449, 0.8483, 0.9866]
    x = torch.randn(3, 2, requires_grad=True)
    layer = ReverseGrad(5.0)
    (layer(x).square().sum()).backward()
    torch.testing.assert_close(x.grad, -10 * x.detach())
    each = vmap(torch.func.grad(lambda row: layer(row).square().sum()))(x.detach())
    torch.testing.assert_close(each, -10 * x.detach())


# ------------------------------------------------------------------ against autograd and loops


def test_closed_forms_equal_autograd():
    features, labels, head = batch()
    logits = head(features)
    scale = torch.ones(3, dtype=torch.float64, requires_grad=True)
    risks = [
        nn.functional.cross_entropy(logits[d] * scale[d], labels[d]) for d in range(len(logits))
    ]
    (by_scale,) = torch.autograd.grad(sum(risks), scale, retain_graph=True)
    irm = domain_penalty("irm")(logits, labels, features)
    torch.testing.assert_close(irm, by_scale.square().mean())

    gradients = [torch.autograd.grad(r, head.parameters(), retain_graph=True) for r in risks]
    stacked = [torch.stack(parts) for parts in zip(*gradients, strict=True)]
    iga = domain_penalty("iga")(logits, labels, features)
    torch.testing.assert_close(iga, gradient_variance(*stacked))


@pytest.mark.parametrize("classes", [4, 1])
def test_fishr_equals_gradients_of_each_sample(classes):
    features, labels, head = batch(classes=classes)
    labels = labels.clamp(max=1) if classes == 1 else labels
    each = []
    for d in range(3):
        samples = []
        for x, y in zip(features[d], labels[d], strict=True):
            if classes == 1:
                loss = nn.functional.binary_cross_entropy_with_logits(head(x)[0], y.double())
            else:
                loss = nn.functional.cross_entropy(head(x), y)
            parts = torch.autograd.grad(loss, [head.weight, head.bias])
            samples.append(torch.cat([parts[0], parts[1][:, None]], 1).flatten())
        each.append(torch.stack(samples))
    logits, variances = head(features), torch.stack([g.var(0, correction=0) for g in each])
    torch.testing.assert_close(gradient_variances(logits, labels, features), variances)
    expected = (variances - variances.mean(0)).square().sum()
    torch.testing.assert_close(fishr_penalty(logits, labels, features), expected)
    second = torch.stack([g.square().mean(0) for g in each])
    expected = (second - second.mean(0)).square().sum()
    found = fishr_penalty(logits, labels, features, centred=False)
    torch.testing.assert_close(found, expected)


def test_coral_and_mmd_equal_domainbeds_pairs():
    features, _, _ = batch()
    pairs = [(0, 1), (0, 2), (1, 2)]

    def domainbed_coral(x, y):
        def moments(z):
            centred = z - z.mean(0, keepdim=True)
            return z.mean(0, keepdim=True), centred.t() @ centred / (len(z) - 1)

        (mean_x, cova_x), (mean_y, cova_y) = moments(x), moments(y)
        return (mean_x - mean_y).pow(2).mean() + (cova_x - cova_y).pow(2).mean()

    def domainbed_mmd(x, y):
        def kernel(a, b):
            squared = torch.cdist(a, b).square()
            gammas = [0.001, 0.01, 0.1, 1, 10, 100, 1000]
            return sum(torch.exp(-gamma * squared) for gamma in gammas).mean()

        return kernel(x, x) + kernel(y, y) - 2 * kernel(x, y)

    for name, rule in (("coral", domainbed_coral), ("mmd", domainbed_mmd)):
        expected = sum(rule(features[i], features[j]) for i, j in pairs) / 3
        torch.testing.assert_close(domain_penalty(name)(None, None, features), expected)
    torch.testing.assert_close(
        coral(features[0], features[1]), domainbed_coral(features[0], features[1])
    )


def test_group_dro_grows_the_weight_of_the_worst_domain():
    risks = torch.tensor([0.2, 1.0, 0.5], requires_grad=True)
    weights = torch.full((3,), 1 / 3)
    loss, after = group_dro(risks, weights, 0.1)
    grown = torch.tensor([math.exp(0.02), math.exp(0.1), math.exp(0.05)])
    torch.testing.assert_close(after, grown / grown.sum())
    loss.backward()
    torch.testing.assert_close(risks.grad, after)  # no gradient through the weights


def test_mixup_is_the_mix_of_cross_entropies():
    features, labels, head = batch()
    one_hot = nn.functional.one_hot(labels, 4).double()
    order, shares = torch.tensor([2, 0, 1]), torch.tensor([0.9, 0.3, 0.6], dtype=torch.float64)
    inputs, targets = mixup(features, one_hot, order, shares)
    total = 0.0
    for d, (i, j) in enumerate([(2, 0), (0, 1), (1, 2)]):
        mixed = shares[d] * features[i] + (1 - shares[d]) * features[j]
        total += shares[d] * nn.functional.cross_entropy(head(mixed), labels[i])
        total += (1 - shares[d]) * nn.functional.cross_entropy(head(mixed), labels[j])
    torch.testing.assert_close(domain_risks(head(inputs), targets).sum(), total)


# ------------------------------------------------------------------ properties


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("classes", [3, 1])
def test_gradients_are_right_and_vmap_agrees(name, classes):
    features, labels, head = batch(classes=classes, size=4, width=3)
    labels = labels.clamp(max=1) if classes == 1 else labels
    penalty = domain_penalty(name)
    logits = head(features).detach()

    def call(logits, features):
        return penalty(logits, labels, features)

    inputs = (logits.requires_grad_(), features.clone().requires_grad_())
    if name != "iga":  # its mean gradient is a constant on purpose, which differences cannot see
        assert torch.autograd.gradcheck(call, inputs)
    many = torch.stack([logits.detach(), 2 * logits.detach()])
    both = vmap(penalty, in_dims=(0, None, None))(many, labels, features)
    torch.testing.assert_close(both[1], penalty(2 * logits.detach(), labels, features))


@settings(max_examples=20, deadline=None)
@given(st.sampled_from(COMPARING), st.integers(2, 4), st.integers(0, 1000))
def test_equal_domains_cost_nothing(name, domains, seed):
    features, labels, head = batch(domains=1, seed=seed)
    features, labels = features.expand(domains, -1, -1), labels.expand(domains, -1)
    value = domain_penalty(name)(head(features), labels, features)
    assert abs(value.item()) < 1e-10


@settings(max_examples=20, deadline=None)
@given(st.sampled_from(NAMES), st.integers(0, 1000))
def test_the_order_of_domains_does_not_matter_and_soft_labels_agree(name, seed):
    features, labels, head = batch(seed=seed)
    logits, order = head(features), torch.tensor([2, 0, 1])
    value = domain_penalty(name)(logits, labels, features)
    turned = domain_penalty(name)(logits[order], labels[order], features[order])
    torch.testing.assert_close(value, turned)
    soft = nn.functional.one_hot(labels, 4).double()
    torch.testing.assert_close(value, domain_penalty(name)(logits, soft, features))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.floats(-50, 50))
def test_mk_mmd_sees_only_distances(seed, shift):
    g = torch.Generator().manual_seed(seed)
    x, y = (torch.randn(n, 3, generator=g, dtype=torch.float64) for n in (4, 6))
    value = mk_mmd(x, y)
    assert value.item() >= -1e-12
    torch.testing.assert_close(value, mk_mmd(y, x))
    torch.testing.assert_close(value, mk_mmd(x + shift, y + shift))


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="there is no domain penalty 'irmm'"):
        domain_penalty("irmm")
    one = torch.zeros(1, 4, 2)
    for name in COMPARING:
        with pytest.raises(ValueError, match="at least two"):
            domain_penalty(name)(one, torch.zeros(1, 4).long(), one)
