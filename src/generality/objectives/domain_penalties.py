"""Penalties on how differently a model treats its training domains.

All have one signature, `penalty(logits, labels, features)`, and return a scalar that can be
differentiated and works under `torch.func.vmap`:

- logits (domains, batch, classes); one column means the logit of a binary problem;
- labels (domains, batch), class ids, or (domains, batch, classes), soft targets;
- features (domains, batch, features), what the linear head reads; only Fishr, IGA, CORAL and MMD
  look at them.

`domain_penalty(name)` finds one by name, `domain_risks` is each domain's mean loss and `penalised`
adds the two up. Whether a penalty is a sum or a mean over domains is its paper's choice, stated in
its docstring, because the weights papers quote depend on it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from generality.objectives.mk_mmd import squared_distances

Logits = Float[Tensor, "domains batch classes"]
Labels = Int[Tensor, "domains batch"] | Float[Tensor, "domains batch classes"]
Features = Float[Tensor, "domains batch features"]
Penalty = Callable[[Tensor, Tensor, Tensor], Tensor]

_MMD_GAMMAS = (0.001, 0.01, 0.1, 1.0, 10.0, 100.0, 1000.0)  # DomainBed's


def domain_penalty(name: str) -> Penalty:
    """The penalty of this name.

    "irm" (IRMv1), "irm_split" (its estimate from two halves of the batch), "vrex", "iga", "sd",
    "fishr", "clove", "coral" or "mmd".

    Raises:
        ValueError: for any other name.

    >>> logits = torch.tensor([[[0.0, 2.0], [0.0, -1.0]]])
    >>> round(domain_penalty("irm")(logits, torch.tensor([[1, 0]]), logits).item(), 6)
    0.06435
    """
    if name not in _PENALTIES:
        raise ValueError(f"there is no domain penalty '{name}'; there are {', '.join(_PENALTIES)}")
    return _PENALTIES[name]


def soft_labels(labels: Labels, logits: Logits) -> Float[Tensor, "domains batch classes"]:
    """Class ids as one-hot rows (one column for binary logits); soft targets as they are."""
    if labels.ndim == logits.ndim:
        return labels.to(logits.dtype)
    classes = logits.shape[-1]
    if classes == 1:
        return labels[..., None].to(logits.dtype)
    ids = torch.arange(classes, device=logits.device)
    return (labels[..., None] == ids).to(logits.dtype)


def domain_risks(logits: Logits, labels: Labels) -> Float[Tensor, " domains"]:
    """Mean cross-entropy of each domain, in nats.

    >>> domain_risks(torch.zeros(2, 3, 2), torch.tensor([[0, 1, 1], [0, 0, 0]]))
    tensor([0.6931, 0.6931])
    """
    targets = soft_labels(labels, logits)
    if logits.shape[-1] == 1:
        loss = torch.nn.functional.softplus(logits) - targets * logits
        return loss.squeeze(-1).mean(-1)
    # Classes first: few numbers side by side would be too few for a vector instruction.
    beliefs = logits.movedim(-1, 0).log_softmax(0)
    return -(targets.movedim(-1, 0) * beliefs).sum(0).mean(-1)


def penalised(
    risks: Float[Tensor, " domains"],
    penalty: Float[Tensor, ""],
    weight: float | Float[Tensor, ""],
    *,
    normalise: bool = False,
) -> Float[Tensor, ""]:
    """Sum of the risks and weight·penalty; `normalise` divides all of it by weight where that is
    above 1, which keeps the size of a step and, with Adam, little else changes but weight decay.

    Source: the code of Zhang et al. 2022 (arXiv 2203.15516), after Arjovsky et al. 2019.

    >>> risks = torch.tensor([0.4, 0.6])
    >>> round(penalised(risks, risks.var(), 10.0, normalise=True).item(), 4)
    0.12
    """
    total = risks.sum() + weight * penalty
    if not normalise:
        return total
    return total / torch.as_tensor(weight, dtype=total.dtype, device=total.device).clamp(min=1)


def irm_penalty(
    logits: Logits, labels: Labels, features: Features | None = None
) -> Float[Tensor, ""]:
    """IRMv1: mean over domains of (d risk(s·logits) / d s at s = 1)².

    Source: Arjovsky et al. 2019 (arXiv 1907.02893), equation IRMv1; the derivative is written out,
    mean of Σ_k (p_k − y_k) z_k.
    """
    return _scale_gradients(logits, labels).mean(-1).square().mean()


def irm_split_penalty(
    logits: Logits, labels: Labels, features: Features | None = None
) -> Float[Tensor, ""]:
    """IRMv1 with the square as a product of the even and the odd examples' derivatives.

    Unbiased, and therefore sometimes negative. Source: DomainBed's `IRM` (arXiv 2007.01434) and
    appendix D of the paper. The batch has at least two examples.
    """
    each = _scale_gradients(logits, labels)
    return (each[..., ::2].mean(-1) * each[..., 1::2].mean(-1)).mean()


def vrex_penalty(
    logits: Logits, labels: Labels, features: Features | None = None, *, ddof: int = 1
) -> Float[Tensor, ""]:
    """V-REx: variance of the domains' risks, unbiased; `ddof=0` as DomainBed has it.

    Source: Krueger et al. 2021 (arXiv 2003.00688), equation 8.
    """
    _at_least_two(logits)
    return domain_risks(logits, labels).var(0, correction=ddof)


def iga_penalty(logits: Logits, labels: Labels, features: Features) -> Float[Tensor, ""]:
    """IGA: sum over domains of ‖g_e − mean g‖², no gradient through the mean.

    g_e is the gradient of the domain's risk with respect to the linear head's weight and bias, in
    closed form. The paper takes all parameters; the same where only the head is trained, and with
    `gradient_variance` on gradients of your own.

    Source: Koyama and Yamaguchi 2020 (arXiv 2008.01883), equation 8.
    """
    _at_least_two(logits)
    inputs = _with_one(features)
    gradients = torch.einsum("dbk,dbf->dkf", _residuals(logits, labels), inputs)
    return gradient_variance(gradients / logits.shape[1])


def gradient_variance(*gradients: Float[Tensor, "domains ..."]) -> Float[Tensor, ""]:
    """Sum over domains of the squared distance to the mean gradient, no gradient through it.

    >>> gradient_variance(torch.tensor([[1.0, 0.0], [3.0, 0.0]]))
    tensor(2.)
    """
    return torch.stack(
        [(g - g.mean(0, keepdim=True).detach()).square().sum() for g in gradients]
    ).sum()


def sd_penalty(
    logits: Logits, labels: Labels | None = None, features: Features | None = None
) -> Float[Tensor, ""]:
    """Spectral decoupling: sum over domains of the mean squared logit.

    Source: Pezeshki et al. 2021 (arXiv 2011.09468), equation 17 (DomainBed: the mean over domains).
    """
    return logits.square().mean((1, 2)).sum()


def fishr_penalty(
    logits: Logits, labels: Labels, features: Features, *, centred: bool = True
) -> Float[Tensor, ""]:
    """Fishr: sum over domains of ‖v_e − mean v‖².

    v_e is the variance over the domain's examples of each entry of the linear head's gradient,
    weight and bias (`centred=False`: the second moment, as the code of Rich Feature Construction
    has it); see `gradient_variances`.

    Source: Rame et al. 2022 (arXiv 2109.02934), equation 4 (DomainBed: the mean over domains and
    entries, of moving averages).
    """
    _at_least_two(logits)
    variances = gradient_variances(logits, labels, features, centred=centred)
    return (variances - variances.mean(0)).square().sum()


def gradient_variances(
    logits: Logits, labels: Labels, features: Features, *, centred: bool = True
) -> Float[Tensor, "domains entries"]:
    """Biased variance over each domain's examples of the linear head's gradient, entry by entry.

    An example's gradient is (p − y) ⊗ (features, 1), so no gradient is ever formed per example.
    The entries are classes x (features + 1).
    """
    inputs, residuals, batch = _with_one(features), _residuals(logits, labels), logits.shape[1]
    moment = torch.einsum("dbk,dbf->dkf", residuals.square(), inputs.square()) / batch
    if centred:
        moment = moment - (torch.einsum("dbk,dbf->dkf", residuals, inputs) / batch).square()
    return moment.flatten(1)


def clove_penalty(
    logits: Logits, labels: Labels, features: Features | None = None, *, width: float = 0.4
) -> Float[Tensor, ""]:
    """CLOvE: sum over domains of the kernel calibration error MMCE, with a Laplacian kernel.

    With confidence r = max p and correctness c, mean over pairs of
    (c_i − r_i)(c_j − r_j) exp(−|r_i − r_j| / width). Without the square root of the MMCE paper,
    whose slope is infinite at zero; c has no gradient.

    Source: Wald et al. 2021 (arXiv 2102.10395), section 4; Kumar et al. 2018 for MMCE.
    """
    targets = soft_labels(labels, logits)
    if logits.shape[-1] == 1:
        logits = torch.cat([torch.zeros_like(logits), logits], -1)
        targets = torch.cat([1 - targets, targets], -1)
    confidence, chosen = logits.softmax(-1).max(-1)
    gap = targets.gather(-1, chosen[..., None]).squeeze(-1) - confidence
    kernel = (-(confidence[:, :, None] - confidence[:, None]).abs() / width).exp()
    return torch.einsum("di,dij,dj->d", gap, kernel, gap).sum() / logits.shape[1] ** 2


def coral_penalty(
    logits: Logits | None, labels: Labels | None, features: Features
) -> Float[Tensor, ""]:
    """CORAL as in DomainBed: `coral` of the features, averaged over pairs of domains.

    Source: Sun and Saenko 2016 (arXiv 1607.01719), with DomainBed's difference of means.
    """
    _at_least_two(features)
    means = features.mean(1)
    centred = features - means[:, None]
    covariances = centred.mT @ centred / (features.shape[1] - 1)
    # The mean squared difference of pairs is twice the unbiased variance over domains.
    return 2 * (_spread(means) + _spread(covariances)) / (len(features) - 1)


def coral(x: Float[Tensor, "n features"], y: Float[Tensor, "m features"]) -> Float[Tensor, ""]:
    """Mean squared difference of two samples' means, plus that of their covariances.

    >>> x = torch.tensor([[0.0, 0.0], [2.0, 0.0]])
    >>> coral(x, x + 1), coral(x, 2 * x)
    (tensor(1.), tensor(9.5000))
    """
    means = (x.mean(0) - y.mean(0)).square().mean()
    return means + (x.mT.cov() - y.mT.cov()).square().mean()


def mmd_penalty(
    logits: Logits | None, labels: Labels | None, features: Features
) -> Float[Tensor, ""]:
    """MMD as in DomainBed: squared distance of mean embeddings, averaged over pairs of domains.

    The kernel is the sum of exp(−γ‖a − b‖²) over γ = 0.001, 0.01, …, 1000; biased estimate.

    Source: Li et al. 2018 (MMD-AAE), as simplified in DomainBed (arXiv 2007.01434).
    """
    _at_least_two(features)
    domains, batch = features.shape[:2]
    squared = squared_distances(features.flatten(0, 1))
    i, j = torch.triu_indices(domains * batch, domains * batch, 1, device=features.device)
    gammas = squared.new_tensor(_MMD_GAMMAS)[:, None]
    # Beyond e^-60 a kernel is nothing, but numbers that underflow are a hundred times slower.
    kernels = (-gammas * squared[i, j]).clamp(min=-60).exp().sum(0)
    same = (i // batch == j // batch).to(kernels.dtype)
    # All pairs of domains: own means less mean between them. A point with itself is 1 per kernel.
    pairs = domains * (domains - 1) / 2 * batch**2
    own = len(_MMD_GAMMAS) * domains * batch * (domains - 1)
    return (2 * ((domains * same - 1) * kernels).sum() + own) / pairs


def group_dro(
    risks: Float[Tensor, " domains"], weights: Float[Tensor, " domains"], eta: float | Tensor
) -> tuple[Float[Tensor, ""], Float[Tensor, " domains"]]:
    """GroupDRO: the domains' risks, weighted, and the weights of the next step.

    Weights are multiplied by exp(eta·risk) and made to sum to 1 before they are used; no gradient
    through them. Start with 1 / domains each.

    Source: Sagawa et al. 2020 (arXiv 1911.08731), algorithm 1.

    >>> loss, weights = group_dro(torch.tensor([1.0, 2.0]), torch.tensor([0.5, 0.5]), eta=1.0)
    >>> round(loss.item(), 4), [round(w, 4) for w in weights.tolist()]
    (1.7311, [0.2689, 0.7311])
    """
    grown = weights * (eta * risks.detach()).exp()
    grown = grown / grown.sum()
    return (risks * grown).sum(), grown


def mixup(
    inputs: Float[Tensor, "domains batch ..."],
    targets: Float[Tensor, "domains batch classes"],
    order: Int[Tensor, " domains"],
    shares: Float[Tensor, " domains"],
) -> tuple[Float[Tensor, "domains batch ..."], Float[Tensor, "domains batch classes"]]:
    """Inter-domain mixup: each domain's batch mixed with that of the next domain in `order`.

    The d-th result is shares[d] of domain order[d] and the rest of domain order[d + 1], round the
    ring. Draw `order` as a permutation and `shares` from Beta(alpha, alpha) anew for each step. The
    cross-entropy against mixed targets is the mix of cross-entropies.

    Source: Yan et al. 2020 (arXiv 2001.00677), as in DomainBed's `Mixup`.

    >>> x, y = torch.tensor([[[0.0]], [[10.0]]]), torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]])
    >>> mixup(x, y, torch.tensor([1, 0]), torch.tensor([0.75, 1.0]))[0].flatten()
    tensor([7.5000, 0.0000])
    """
    partner = order.roll(-1)

    def mix(values: Tensor) -> Tensor:
        share = shares.to(values.dtype).view(-1, *[1] * (values.ndim - 1))
        return share * values[order] + (1 - share) * values[partner]

    return mix(inputs), mix(targets)


def _spread(values: Float[Tensor, "domains ..."]) -> Float[Tensor, ""]:
    """Squared distance to the mean over domains, summed over them, averaged over entries."""
    return (values - values.mean(0)).square().sum(0).mean()


def _residuals(logits: Tensor, labels: Tensor) -> Float[Tensor, "domains batch classes"]:
    """The gradient of the loss with respect to the logits: p − y."""
    belief = logits.sigmoid() if logits.shape[-1] == 1 else logits.softmax(-1)
    return belief - soft_labels(labels, logits)


def _scale_gradients(logits: Tensor, labels: Tensor) -> Float[Tensor, "domains batch"]:
    """Each example's derivative of the loss with respect to a factor on its logits, at 1."""
    return (_residuals(logits, labels) * logits).sum(-1)


def _with_one(features: Tensor) -> Tensor:
    """The features and a column of ones, what the bias multiplies."""
    return torch.cat([features, torch.ones_like(features[..., :1])], -1)


def _at_least_two(batch: Tensor) -> None:
    if batch.shape[0] < 2:
        raise ValueError("this penalty compares domains: it needs at least two of them")


_PENALTIES: dict[str, Penalty] = {
    "irm": irm_penalty,
    "irm_split": irm_split_penalty,
    "vrex": vrex_penalty,
    "iga": iga_penalty,
    "sd": sd_penalty,
    "fishr": fishr_penalty,
    "clove": clove_penalty,
    "coral": coral_penalty,
    "mmd": mmd_penalty,
}
