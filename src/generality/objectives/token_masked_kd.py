"""Distillation from two teachers, one of them only at the tokens that the student gets wrong."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from generality.models.precision import at_least_float32

Mask = Literal[
    "student_wrong", "old_right", "ll_token", "ll_sequence", "all_old", "all_new", "average"
]

_TINY = 1e-12


def token_masked_kd(
    student: Float[Tensor, "*batch vocabulary"],
    old: Float[Tensor, "*batch vocabulary"],
    new: Float[Tensor, "*batch vocabulary"],
    labels: Int[Tensor, "*batch"],
    *,
    mask: Mask = "student_wrong",
    temperature: float = 2.0,
    ce_weight: float = 0.0,
    ignore_index: int = -100,
) -> Float[Tensor, ""]:
    """Mean over the labels of m · KL(old ‖ student) + (1 − m) · KL(new ‖ student), in nats.

    All distributions are softmaxes at `temperature`; there is no factor temperature². Logits of
    half precision are taken to float32, in which their logarithms are finite. No gradient
    goes through the teachers or the mask m, which is for each label:

    - "student_wrong": 1 where the student's most probable token is not the label (MUSCLE);
    - "old_right": 1 where the old model's is;
    - "ll_token": 1 where the old model finds the label more probable than the new one does;
    - "ll_sequence": the same for the sum over a sequence, the last dimension of `labels`;
    - "all_old", "all_new": 1, 0; "average": ½, which pulls as KL(mean of both ‖ student) does.

    Works on sequences and on plain classification alike. Labels are not shifted here: for a causal
    language model give `logits[:, :-1]` and `labels[:, 1:]`, as `CompatibleUpdate` does.

    Args:
        student: logits of the model in training.
        old: logits of the model it replaces, on the same inputs, in the same vocabulary.
        new: logits of the plainly tuned new model; the student usually starts as a copy of it.
        labels: the true tokens or classes; `ignore_index` where there is none (padding).
        mask: see above.
        temperature: of all three, > 0.
        ce_weight: share of plain cross-entropy in the loss, in [0, 1]: 1 − λ of the paper, whose λ
            is not stated.
        ignore_index: label that counts nowhere.

    Raises:
        ValueError: shapes that differ (different vocabularies cannot be compared), or values out
            of range.

    Source: Echterhoff et al. 2024 (arXiv 2407.09435), section 4; the two masks by likelihood as we
    read its ablation.

    >>> z = torch.tensor([[1.0, 0, 0], [0, 1, 0]])
    >>> old, new = torch.tensor([[0.0, 2, 0], [2, 0, 0]]), torch.tensor([[2.0, 0, 0], [0, 0, 1]])
    >>> token_masked_kd(z, old, new, torch.tensor([0, 0]))
    tensor(0.1220)
    """
    if not student.shape == old.shape == new.shape or labels.shape != student.shape[:-1]:
        raise ValueError(
            f"logits {tuple(student.shape)}, {tuple(old.shape)} and {tuple(new.shape)} and labels "
            f"{tuple(labels.shape)} do not fit together; the models need one vocabulary"
        )
    if mask not in get_args(Mask):
        raise ValueError(f"mask is one of {', '.join(get_args(Mask))}, not '{mask}'")
    if temperature <= 0 or not 0 <= ce_weight <= 1:
        raise ValueError(
            f"temperature is above 0 and ce_weight in [0, 1], not {temperature} and {ce_weight}"
        )
    student, old, new = (at_least_float32(each) for each in (student, old, new))
    known = labels != ignore_index
    target = labels.masked_fill(~known, 0)
    with torch.no_grad():
        from_old = _mask(mask, student, old, new, target, known).to(student.dtype)
        teachers = [(each.detach() / temperature).softmax(-1) for each in (old, new)]
    said = (student / temperature).log_softmax(-1)
    pull = [_divergence(teacher, said) for teacher in teachers]
    loss = from_old * pull[0] + (1 - from_old) * pull[1]
    if ce_weight:
        hard = -student.log_softmax(-1).gather(-1, target[..., None]).squeeze(-1)
        loss = (1 - ce_weight) * loss + ce_weight * hard
    return (loss * known).sum() / known.sum().clamp_min(1)


def _mask(
    kind: str, student: Tensor, old: Tensor, new: Tensor, target: Tensor, known: Bool[Tensor, "*b"]
) -> Tensor:
    """The weight of the old model at each label."""
    if kind == "student_wrong":
        return student.argmax(-1) != target
    if kind == "old_right":
        return old.argmax(-1) == target
    if kind in ("ll_token", "ll_sequence"):
        likelihoods = [
            each.log_softmax(-1).gather(-1, target[..., None]).squeeze(-1) for each in (old, new)
        ]
        gain = (likelihoods[0] - likelihoods[1]) * known
        return (gain.sum(-1, keepdim=True) if kind == "ll_sequence" else gain) > 0
    share = {"all_old": 1.0, "all_new": 0.0, "average": 0.5}[kind]
    return torch.full_like(student[..., 0], share)


def _divergence(teacher: Tensor, said: Tensor) -> Tensor:
    """KL(teacher ‖ student) of probabilities and log-probabilities; 0 · log(0 / 0) is 0."""
    each = teacher * (teacher.clamp_min(_TINY).log() - said)
    return torch.where(teacher > 0, each, 0.0).sum(-1)


def focal_distillation(
    student: Float[Tensor, "*batch vocabulary"],
    old: Float[Tensor, "*batch vocabulary"],
    new: Float[Tensor, "*batch vocabulary"] | None,
    labels: Int[Tensor, "*batch"],
    *,
    everywhere: float = 1.0,
    where_right: float = 5.0,
    weight: float = 1.0,
    temperature: float = 1.0,
    ignore_index: int = -100,
) -> Float[Tensor, ""]:
    """Cross-entropy + weight · mean of (everywhere + where_right · [old right]) KL(old ‖ student).

    The rival of MUSCLE from image classifiers: keep what the old model had right. `new` is not
    used; it is there so that both losses are called alike.

    Source: Yan et al. 2021 (arXiv 2011.09161), equation 6, with the KL divergence and its α = 1,
    β = 5.

    >>> one = torch.tensor([[2.0, 0.0]])
    >>> round(focal_distillation(one, one, None, torch.tensor([0])).item(), 4)  # the labels alone
    0.1269
    """
    student, old = at_least_float32(student), at_least_float32(old)
    known = labels != ignore_index
    target = labels.masked_fill(~known, 0)
    with torch.no_grad():
        teacher = (old.detach() / temperature).softmax(-1)
        care = everywhere + where_right * (old.argmax(-1) == target).to(student.dtype)
    said = (student / temperature).log_softmax(-1)
    pull = _divergence(teacher, said)
    hard = -student.log_softmax(-1).gather(-1, target[..., None]).squeeze(-1)
    return ((hard + weight * care * pull) * known).sum() / known.sum().clamp_min(1)
