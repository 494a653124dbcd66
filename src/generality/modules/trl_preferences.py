"""Preference tuning of a model of the user's own by `trl`'s trainers."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from torch import nn

from generality.errors import UserError, import_extra
from generality.measures.margin_labels import margin_labels
from generality.models.prompt_response import joined

Pairs = tuple[Sequence[str], Sequence[str], Sequence[str]]
"""Prompts, the preferred response to each, the other one."""


def preference_trainer(
    model: nn.Module,
    tokenizer: Any,
    pairs: Pairs,
    *,
    folder: str,
    kind: Literal["dpo", "simpo"] = "dpo",
    beta: float | None = None,
    gamma: float = 1.0,
    **arguments: Any,
) -> Any:
    """`trl`'s DPOTrainer, or its CPOTrainer with SimPO's loss, ready for `.train()`.

    The losses are `dpo_loss` and `simpo_loss` of summed and of mean log-probabilities, as in
    `PreferencePolicy`, which small models use; DPO's reference is the model as it is now. Prompts
    and responses are joined as everywhere here (`joined`), and end with the end token.

    Args:
        model: a causal language model of transformers, or one with `peft` adapters.
        tokenizer: its own.
        pairs: prompts with any template applied, preferred responses, other ones.
        folder: for what the trainer writes.
        kind: "dpo" or "simpo".
        beta: of the loss; None is 0.1 for DPO and 2.0 for SimPO.
        gamma: of SimPO.
        arguments: further ones of `trl.DPOConfig` or `CPOConfig` (`learning_rate`,
            `num_train_epochs`, `max_length`, `ref_model` for another reference of DPO, …).

    Raises:
        UserError: `trl` is not installed.
        ValueError: an unknown kind.
    """
    from datasets import Dataset

    if kind not in ("dpo", "simpo"):
        raise ValueError(f"kind is dpo or simpo, not {kind}")
    trl = import_extra("trl", "llm")
    cuda = next(model.parameters()).device.type == "cuda"
    settings: dict[str, Any] = {
        "output_dir": folder, "report_to": "none", "save_strategy": "no", "disable_tqdm": True,
        "use_cpu": not cuda, "bf16": cuda,
        "beta": beta if beta is not None else {"dpo": 0.1, "simpo": 2.0}[kind],
    }  # fmt: skip
    others = {key: arguments.pop(key) for key in ("ref_model", "peft_config") if key in arguments}
    if kind == "dpo":
        config, trainer = trl.DPOConfig, trl.DPOTrainer
    else:
        home = trl if hasattr(trl, "CPOTrainer") else import_extra("trl.experimental.cpo", "llm")
        config, trainer = home.CPOConfig, home.CPOTrainer
        settings |= {"loss_type": "simpo", "cpo_alpha": 0.0, "simpo_gamma": gamma}
    rows = []
    for prompt, *responses in zip(*pairs, strict=True):
        chosen, rejected = (
            text[place:] for text, place in (joined(prompt, each) for each in responses)
        )
        rows.append({"prompt": prompt, "chosen": chosen, "rejected": rejected})
    return trainer(
        model=model, args=config(**{**settings, **arguments}), processing_class=tokenizer,
        train_dataset=Dataset.from_list(rows), **others,
    )  # fmt: skip


def tuned_margins(
    name: str,
    pairs: Pairs,
    asked: Pairs,
    *,
    kind: Literal["dpo", "simpo"],
    device: str = "auto",
    **arguments: Any,
) -> Float[np.ndarray, " pairs"]:
    """By how much a named model, tuned on preferences, prefers the first of each asked pair.

    The margin is of `margin_labels`, summed for DPO, per token for SimPO. To keep, pass it to
    `Lab.step`; the tuned model itself is dropped.

    Args:
        name: of the model, as `load_model` takes it.
        pairs: what it is tuned on.
        asked: prompts, first responses, second ones.
        kind: "dpo" or "simpo".
        device: as for `load_model`.
        arguments: of `preference_trainer`.

    Raises:
        UserError: no pair to learn from.
    """
    from generality.models import load_model, load_tokenizer

    if not len(pairs[0]):
        raise UserError("There is no preference to learn from: give pairs of responses.")
    model, tokenizer = load_model(name, device=device), load_tokenizer(name)
    with tempfile.TemporaryDirectory() as folder:
        trainer = preference_trainer(model, tokenizer, pairs, folder=folder, kind=kind, **arguments)
        trainer.train()
    summed: Literal["sum", "mean"] = "sum" if kind == "dpo" else "mean"
    return margin_labels(trainer.model, tokenizer, *asked, kind=summed, batch_size=8)
