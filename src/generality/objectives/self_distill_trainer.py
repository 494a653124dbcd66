"""Progressive self-distillation in the Trainer of `transformers`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import Trainer

from generality.errors import UserError
from generality.objectives.past_predictions import Schedule, SelfDistillation

_FILE = "past_predictions.safetensors"


class SelfDistillTrainer(Trainer):
    """A `Trainer` whose labels are softened by what the model said an epoch ago.

    The training set needs a column `index` that counts its rows from 0:
    `dataset.add_column("index", list(range(len(dataset))))`. Evaluation is on plain labels. The
    table is saved in each checkpoint and loaded when training resumes.

    Args:
        alpha: weight of the past in the last epoch.
        schedule: see `ProgressiveTargets`.
        args, options: of `Trainer`; `model.config.num_labels` says how many classes there are.

    Raises:
        UserError: the training set has no column `index`, or `max_steps` says how long training is
            (the targets' weight grows by epochs).

    >>> import tempfile
    >>> from datasets import Dataset
    >>> from transformers import BertConfig, BertForSequenceClassification, TrainingArguments
    >>> sizes = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, vocab_size=30)
    >>> model = BertForSequenceClassification(BertConfig(**sizes, intermediate_size=16))
    >>> data = Dataset.from_dict({
    ...     "input_ids": [[2, 5 + i % 7] for i in range(8)], "labels": [i % 2 for i in range(8)],
    ...     "index": list(range(8)),
    ... })
    >>> settings = TrainingArguments(
    ...     tempfile.mkdtemp(), num_train_epochs=2, per_device_train_batch_size=4, report_to="none",
    ...     save_strategy="no", disable_tqdm=True, use_cpu=True,
    ... )
    >>> trainer = SelfDistillTrainer(model=model, args=settings, train_dataset=data, alpha=0.8)
    >>> result = trainer.train()
    {...}
    >>> bool(trainer.distillation.table.past_known.all())
    True
    """

    def __init__(
        self, *args: Any, alpha: float = 0.8, schedule: Schedule = "linear", **options: Any
    ) -> None:
        super().__init__(*args, **options)
        self.model_accepts_loss_kwargs = False  # a mean, to be divided when gradients accumulate
        if "index" not in getattr(self.train_dataset, "column_names", ["index"]):
            raise UserError(
                "The training set has no column 'index': add one that counts its rows from 0."
            )
        if self.args.max_steps > 0:
            raise UserError(
                "Say how long training is by num_train_epochs in place of max_steps: the weight of "
                "the past grows by epochs."
            )
        self.distillation = SelfDistillation(
            len(self.train_dataset),
            self.model.config.num_labels,
            epochs=math.ceil(self.args.num_train_epochs),
            alpha=alpha,
            schedule=schedule,
        )

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, **_: Any
    ) -> Any:
        """The softened loss in training, plain cross-entropy in evaluation."""
        index, labels = inputs.pop("index", None), inputs.pop("labels")
        outputs = model(**inputs)
        logits = outputs.logits.float()
        if not model.training:
            loss = nn.functional.cross_entropy(logits, labels)
        else:
            if index is None:
                raise UserError("A batch came without 'index': the collator has to keep it.")
            if labels.ndim == 1:
                labels = nn.functional.one_hot(labels, logits.shape[-1])
            self.distillation.to(logits.device)
            targets = torch.cat([labels.to(logits), index[:, None].to(logits)], 1)
            progress = float(self.state.epoch or 0.0) / self.distillation.soften.epochs
            loss = self.distillation(logits, targets, progress)
        return (loss, outputs) if return_outputs else loss

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        if "index" not in self._signature_columns:
            self._signature_columns += ["index"]

    def _save_checkpoint(self, *args: Any, **options: Any) -> None:
        super()._save_checkpoint(*args, **options)
        folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        if self.args.should_save and folder.is_dir():
            tensors = self.distillation.state_dict()
            save_file({k: v.cpu().contiguous() for k, v in tensors.items()}, folder / _FILE)

    def _load_from_checkpoint(
        self, resume_from_checkpoint: str, *args: Any, **options: Any
    ) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, *args, **options)
        kept = Path(resume_from_checkpoint) / _FILE
        if kept.is_file():
            self.distillation.load_state_dict(load_file(kept))
