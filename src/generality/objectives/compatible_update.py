"""Training an update of a model so that fewer of the old one's right answers are lost."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from generality.objectives.soft_cross_entropy import soft_cross_entropy
from generality.objectives.token_masked_kd import focal_distillation, token_masked_kd

UpdateLoss = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""From logits of the student, the old and the new model and the labels to a scalar."""

UPDATE_LOSSES: dict[str, UpdateLoss] = {
    "continued": functools.partial(token_masked_kd, mask="all_new", ce_weight=1.0),
    "muscle": token_masked_kd,
    "muscle-ce": functools.partial(token_masked_kd, ce_weight=0.5),
    "old-right": functools.partial(token_masked_kd, mask="old_right"),
    "likelihood-token": functools.partial(token_masked_kd, mask="ll_token"),
    "likelihood-sequence": functools.partial(token_masked_kd, mask="ll_sequence"),
    "distill-old": functools.partial(token_masked_kd, mask="all_old"),
    "distill-average": functools.partial(token_masked_kd, mask="average"),
    "focal": focal_distillation,
}
"""By name. "continued" is plain training for longer, the control of all that start from the new
model; "distill-average" is the rival that a method with a mask has to beat."""


class CompatibleUpdate(nn.Module):
    """A new model together with two frozen teachers: called with a batch, it gives the loss.

    `model` starts as the plainly tuned new model and is the only one that learns; `old` is the
    model in use, `new` the plain update. Any model that gives logits for `labels` will do: a causal
    language model (labels are shifted here, as its own loss does), a classifier of texts or images.
    The old and the new model may be adapters on the very same body, by name (`peft`): then one
    body is in memory.

    Train it as any model that returns a loss: in `transformers.Trainer`, in `lab.sft` as `wrap=`,
    in your own loop. Ship `.model`; the teachers are not needed any more, and are not in its
    `state_dict`.

    Args:
        model: in training.
        old: a model, or the name of an adapter of `model`.
        new: likewise.
        loss: of student, old and new logits and labels; see `UPDATE_LOSSES`.
        shift: whether labels are for the next place; None: where logits are (batch, tokens,
            classes).

    Raises:
        ValueError: the model is its own teacher; or, when called, the models do not share a
            vocabulary or classes.

    Source: Echterhoff et al. 2024 (arXiv 2407.09435), section 4.

    On your own classifier (`model_v2` would be loaded, not made):

    >>> old, new = nn.Linear(4, 3), nn.Linear(4, 3)
    >>> import copy
    >>> update = CompatibleUpdate(copy.deepcopy(new), old, new)
    >>> optimizer = torch.optim.Adam(update.parameters(), lr=0.01)
    >>> for _ in range(3):
    ...     loss = update(input=torch.randn(8, 4), labels=torch.arange(8) % 3).loss
    ...     optimizer.zero_grad(); loss.backward(); optimizer.step()
    >>> shipped = update.model
    """

    accepts_loss_kwargs = False  # transformers' Trainer: do not pass `num_items_in_batch`

    def __init__(
        self,
        model: nn.Module,
        old: nn.Module | str,
        new: nn.Module | str,
        *,
        loss: UpdateLoss = token_masked_kd,
        shift: bool | None = None,
    ) -> None:
        super().__init__()
        self.model, self.loss, self.shift = model, loss, shift
        # in a tuple: teachers are no submodules, so nothing trains, saves or moves them by mistake
        self.teachers = (old, new)
        for teacher in self.teachers:
            if teacher is model:
                raise ValueError("the model in training cannot be its own teacher: give a copy")
            if isinstance(teacher, nn.Module):
                teacher.eval().requires_grad_(False)

    @property
    def config(self) -> Any:
        """The model's configuration, where it has one."""
        return getattr(self.model, "config", None)

    def forward(
        self,
        input_ids: Int[Tensor, "batch tokens"] | None = None,
        attention_mask: Int[Tensor, "batch tokens"] | None = None,
        labels: Int[Tensor, "batch ..."] | None = None,
        **inputs: Any,
    ) -> Any:
        """An output with `.loss` and the student's `.logits`."""
        from transformers.modeling_outputs import SequenceClassifierOutput

        if labels is None:
            raise ValueError("a compatible update needs labels")
        if input_ids is not None:
            inputs["input_ids"] = input_ids
        if attention_mask is not None:
            inputs["attention_mask"] = attention_mask
        old, new = (self._asked(teacher, inputs) for teacher in self.teachers)
        logits = _logits(self.model(**inputs))
        if not logits.shape[-1] == old.shape[-1] == new.shape[-1]:
            sizes = ", ".join(str(each.shape[-1]) for each in (logits, old, new))
            raise ValueError(
                f"student, old and new model have {sizes} tokens or classes; a compatible update "
                "needs one tokenizer and vocabulary for all three"
            )
        said, wanted = logits, labels
        if self.shift if self.shift is not None else logits.ndim == 3:
            said, old, new = said[:, :-1], old[:, :-1], new[:, :-1]
            wanted = labels[:, 1:]
        loss = self.loss(said.float(), old.float(), new.float(), wanted)
        return SequenceClassifierOutput(loss=loss, logits=logits)

    @torch.no_grad()
    def _asked(self, teacher: nn.Module | str, inputs: dict[str, Any]) -> Float[Tensor, ...]:
        if isinstance(teacher, str):
            with _adapter(self.model, teacher):
                return _logits(self.model(**inputs))
        place = next(self.model.parameters()).device
        if next(teacher.parameters()).device != place:
            teacher.to(place)
        return _logits(teacher(**inputs))


class UpdateObjective(nn.Module):
    """The same for a classifier whose teachers' answers are known beforehand, as a plain loss.

    Called as loss(logits, targets, progress) with `update_targets` as targets, by `lab.fit`,
    `lab.replicate`, `lab.finetune`: no teacher is in memory. For the first `warm` share of training
    it is plain cross-entropy against the labels, so that one training first becomes the new model
    and then the compatible one; 0 where the weights start as the new model's.

    Args:
        loss: a name of `UPDATE_LOSSES`.
        warm: share of training, in [0, 1).

    >>> labels, logits = torch.eye(3), torch.tensor([[2.0, 0, 0], [0, 0, 1], [0, 1, 0]])
    >>> targets = update_targets(labels, logits.softmax(-1), logits.softmax(-1))
    >>> round(UpdateObjective("muscle")(logits, targets, 0.9).item(), 4)  # both teachers agree
    0.0
    """

    def __init__(self, loss: str = "muscle", *, warm: float = 0.0) -> None:
        super().__init__()
        if loss not in UPDATE_LOSSES or not 0 <= warm < 1:
            raise ValueError(
                f"loss is one of {', '.join(UPDATE_LOSSES)} and warm in [0, 1), not '{loss}' and "
                f"{warm}"
            )
        self.loss, self.warm = loss, warm

    def forward(
        self,
        logits: Float[Tensor, "batch classes"],
        targets: Float[Tensor, "batch thrice_classes"],
        progress: float,
    ) -> Float[Tensor, ""]:
        """The loss, in nats."""
        labels, old, new = targets.chunk(3, -1)
        if progress < self.warm:
            return soft_cross_entropy(logits, labels)
        before, plain = (each.clamp_min(1e-12).log() for each in (old, new))
        return UPDATE_LOSSES[self.loss](logits, before, plain, labels.argmax(-1))

    def extra_repr(self) -> str:
        """The constructor's arguments."""
        return f"loss={self.loss!r}, warm={self.warm}"


def update_targets(
    labels: Float[Tensor, "*n classes"],
    old: Float[Tensor, "*n classes"],
    new: Float[Tensor, "*n classes"],
) -> Float[Tensor, "*n thrice_classes"]:
    """Labels, the old and the new model's probabilities, as `UpdateObjective` reads them.

    >>> update_targets(torch.eye(2), torch.ones(2, 2) / 2, torch.eye(2)).shape
    torch.Size([2, 6])
    """
    return torch.cat([labels, old, new], -1)


class OutputEnsemble(nn.Module):
    """Both versions at once: the mean of their probabilities. Twice the cost, nothing trained.

    Gives logits whose softmax is that mean, as `.logits`.

    >>> ensemble = OutputEnsemble(nn.Linear(4, 3), nn.Linear(4, 3))
    >>> ensemble(input=torch.zeros(2, 4)).logits.shape
    torch.Size([2, 3])
    """

    def __init__(self, *models: nn.Module) -> None:
        super().__init__()
        self.models = nn.ModuleList(models)

    def forward(self, **inputs: Any) -> Any:
        """An output with `.logits`."""
        from transformers.modeling_outputs import SequenceClassifierOutput

        every = [_logits(model(**inputs)).float().log_softmax(-1) for model in self.models]
        mean = torch.stack(every).logsumexp(0) - torch.tensor(float(len(every))).log()
        return SequenceClassifierOutput(logits=mean)


def copy_adapter(model: Any, source: str, target: str) -> None:
    """Give a `peft` model one more adapter that starts as a copy of another, and make it active.

    Raises:
        ValueError: there is no adapter `source`, or there already is one `target`.
    """
    if source not in model.peft_config or target in model.peft_config:
        raise ValueError(
            f"adapters are {', '.join(model.peft_config)}: '{source}' must be one of them and "
            f"'{target}' must not"
        )
    model.add_adapter(target, model.peft_config[source])
    state = dict(model.named_parameters())
    with torch.no_grad():
        for name, parameter in state.items():
            if f".{target}." in name:
                parameter.copy_(state[name.replace(f".{target}.", f".{source}.")])
    model.set_adapter(target)


@contextmanager
def _adapter(model: Any, name: str) -> Iterator[None]:
    before, training = model.active_adapter, model.training
    model.set_adapter(name)
    model.eval()
    try:
        yield
    finally:
        model.set_adapter(before)
        model.train(training)


def _logits(output: Any) -> Tensor:
    found: Tensor = output if isinstance(output, Tensor) else output.logits
    return found
