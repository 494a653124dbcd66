"""A language model's body with a new linear head: the classifier of every text study."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from generality.errors import UserError
from generality.models.artifacts import ARTIFACTS
from generality.models.atomic_folder import atomic_folder
from generality.models.device import resolve_device
from generality.models.hidden_states import HiddenStatePooler, Pooling, hidden_state, layer_index
from generality.models.load import CAUSAL, load_model, load_tokenizer
from generality.models.quiet import quiet
from generality.models.saved_classifier import (
    check_target,
    read_classifier,
    write_classifier,
)

Tuning = Literal["probe", "lora", "full"]


class TextClassifier(nn.Module):
    """Class logits from one pooled hidden state, through a linear head without bias, first 0.

    A causal language model keeps its own head beside the new one, for `generative_loss`; it takes
    no part in the logits.

    Source: the protocol of Burns et al. 2023 (arXiv 2312.09390), section 4.1.

    Args:
        model: a `transformers` model, with or without a head.
        num_labels: number of classes.
        pooling: "last", "mean" or "cls"; None takes "last" for causal models and "mean" for others.
        layer: which hidden state, counted as in `hidden_state`.
        tuning: "probe" (the body is frozen and stays in eval mode), "lora" (low-rank adapters on
            every linear layer of the body) or "full".
        lora_rank: rank of the adapters.
        lora_alpha: their scale times the rank; None takes twice the rank.
        seed: of the adapters' first weights.

    Attributes:
        tokenizer: with a pad token; set by `from_name`, needed for texts.
        name: of the backbone, as given to `from_name`.
        label_names: of the classes; set by `from_pretrained`.

    Raises:
        ValueError: for a pooling, tuning or layer that there is not.
    """

    tokenizer: Any = None
    name: str | None = None
    label_names: Sequence[str] = ()

    def __init__(
        self,
        model: nn.Module,
        num_labels: int,
        *,
        pooling: Pooling | str | None = None,
        layer: int = -1,
        tuning: Tuning | str = "full",
        lora_rank: int = 8,
        lora_alpha: float | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if tuning not in get_args(Tuning):
            raise ValueError(f"tuning is one of {', '.join(get_args(Tuning))}, not '{tuning}'")
        self.model: Any = model
        self.layer, self.tuning = layer, tuning
        self.lora_rank, self.lora_alpha = lora_rank, lora_alpha or 2.0 * lora_rank
        self.pooler = HiddenStatePooler(pooling or ("last" if _is_decoder(model) else "mean"))
        layer_index(self.body, layer)  # complain now rather than at the first batch
        config: Any = model.config
        weight = next(model.parameters())
        size = (config.hidden_size, num_labels)
        # made without drawing random numbers, which would move the global generator
        self.head = nn.utils.skip_init(nn.Linear, *size, bias=False, device=weight.device)
        nn.init.zeros_(self.head.weight)
        if tuning == "probe":
            self.model.requires_grad_(False)
        elif tuning == "lora":
            self._add_adapters(seed)

    @classmethod
    def from_name(
        cls,
        name: str,
        num_labels: int,
        *,
        pooling: Pooling | str | None = None,
        layer: int = -1,
        tuning: Tuning | str = "full",
        lora_rank: int = 8,
        lora_alpha: float | None = None,
        device: str = "auto",
        seed: int = 0,
    ) -> TextClassifier:
        """A classifier on a named backbone (as in `load_model`), with its tokenizer.

        Raises:
            UserError: there is no such backbone, or it is not one for text.
        """
        model = load_model(name, device=device)
        if not hasattr(getattr(model, "config", None), "vocab_size"):
            raise UserError(
                f"'{name}' is no language model, so it cannot be tuned to classify text."
            )
        classifier = cls(
            model,
            num_labels,
            pooling=pooling,
            layer=layer,
            tuning=tuning,
            lora_rank=lora_rank,
            lora_alpha=lora_alpha,
            seed=seed,
        )
        classifier.tokenizer, classifier.name = load_tokenizer(name), name
        return classifier

    @property
    def body(self) -> nn.Module:
        """The backbone without its own head."""
        return self.model.base_model

    def forward(
        self, input_ids: Int[Tensor, "batch tokens"], attention_mask: Int[Tensor, "batch tokens"]
    ) -> Float[Tensor, "batch classes"]:
        """The logits."""
        return self.head(self.features(input_ids, attention_mask))

    def features(
        self, input_ids: Int[Tensor, "batch tokens"], attention_mask: Int[Tensor, "batch tokens"]
    ) -> Float[Tensor, "batch features"]:
        """What the head reads."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.tuning != "probe"):
            hidden = hidden_state(
                self.body, self.layer, input_ids=input_ids, attention_mask=attention_mask
            )
            pooled = self.pooler(hidden, attention_mask)
        return pooled.to(self.head.weight.dtype)

    def generative_loss(
        self, input_ids: Int[Tensor, "batch tokens"], attention_mask: Int[Tensor, "batch tokens"]
    ) -> Float[Tensor, ""]:
        """Cross-entropy of each next token, in nats, averaged over the batch's tokens.

        The first token of a text is given, and padding is not predicted. Texts of one token only
        give 0. Which weights learn is up to `requires_grad`: under "probe", none of the body's.

        Raises:
            ValueError: the backbone is not a causal language model.
        """
        if not type(self.model).__name__.endswith(CAUSAL):
            raise ValueError(f"{type(self.model).__name__} does not predict next tokens")
        logits = self.model(
            input_ids=input_ids, attention_mask=attention_mask, use_cache=False
        ).logits
        known = attention_mask.bool()
        counts = known[:, 1:] & known[:, :-1]
        loss = F.cross_entropy(
            logits[:, :-1][counts].float(), input_ids[:, 1:][counts], reduction="sum"
        )
        return loss / counts.sum().clamp_min(1)

    def train(self, mode: bool = True) -> TextClassifier:
        """Training mode (dropout on), but never for a frozen body."""
        super().train(mode)
        if self.tuning == "probe":
            self.model.eval()
        return self

    def collate(
        self, examples: Sequence[Mapping[str, Any]]
    ) -> dict[str, Int[Tensor, "batch tokens"]]:
        """Pad token ids on the right: `input_ids` and `attention_mask`; other columns are left."""
        rows = [torch.as_tensor(example["input_ids"], dtype=torch.long) for example in examples]
        pad = getattr(self.tokenizer, "pad_token_id", None) or 0
        masks = [torch.ones_like(row) for row in rows]
        return {
            "input_ids": nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=pad),
            "attention_mask": nn.utils.rnn.pad_sequence(masks, batch_first=True),
        }

    def tokenize(self, texts: Sequence[str], *, max_length: int = 256) -> list[list[int]]:
        """Token ids of each text, cut to `max_length`; a text of none gets one end-of-text token.

        Raises:
            ValueError: the classifier has no tokenizer.
        """
        if self.tokenizer is None:
            raise ValueError("set .tokenizer first, or make the classifier with from_name")
        if not len(texts):
            return []
        rows = self.tokenizer(list(texts), truncation=True, max_length=max_length)["input_ids"]
        return [row or [self.tokenizer.eos_token_id or 0] for row in rows]

    @torch.inference_mode()
    def predict_proba(
        self, texts: Sequence[str], *, batch_size: int = 32, max_length: int = 256
    ) -> Float[np.ndarray, "texts classes"]:
        """Class probabilities, float32, in the order of `texts`; runs in eval mode.

        Args:
            texts: any number, also none.
            batch_size: texts at once; those of similar length go together.
            max_length: texts are cut to this many tokens.
        """
        rows = self.tokenize(texts, max_length=max_length)
        order = sorted(range(len(rows)), key=lambda index: -len(rows[index]))
        device = self.head.weight.device
        probabilities = np.zeros((len(rows), self.head.out_features), dtype=np.float32)
        was_training = self.training
        self.eval()
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            batch = self.collate([{"input_ids": rows[index]} for index in chosen])
            logits = self(**{key: value.to(device) for key, value in batch.items()})
            probabilities[chosen] = logits.float().softmax(-1).cpu().numpy()
        self.train(was_training)
        return probabilities

    def save_pretrained(self, folder: str | Path, *, label_names: Sequence[str]) -> None:
        """Write the classifier to `folder`, whole or not at all; an older one there is replaced.

        `classifier.json` and `head.safetensors` are ours. Beside them, with full tuning, lies the
        backbone as `transformers` saves it, with adapters only those as `peft` saves them, and
        with a probe nothing, since the backbone's name is enough; and the tokenizer.

        Args:
            folder: made if need be.
            label_names: of the classes, in order.

        Raises:
            UserError: the folder holds something else.
            ValueError: not one name a class, or no backbone name to refer to.
        """
        folder = Path(folder)
        check_target(folder, label_names, self.head)
        if self.tuning != "full" and self.name is None:
            raise ValueError("a probe or adapters refer to the backbone by name; set .name first")
        saved = {
            "name": lasting_name(self.name),
            "label_names": list(label_names),
            "tuning": self.tuning,
            "pooling": self.pooler.pooling,
            "layer": self.layer,
            "lora_rank": self.lora_rank,
            "lora_alpha": self.lora_alpha,
        }
        with atomic_folder(folder) as fresh:
            write_classifier(fresh, saved, {"weight": self.head.weight})
            if self.tuning != "probe":
                with quiet():
                    self.model.save_pretrained(fresh)
            if self.tuning == "lora":  # peft wrote the path of this machine's cache
                adapters = fresh / "adapter_config.json"
                config = json.loads(adapters.read_text(encoding="utf-8"))
                config["base_model_name_or_path"] = public_name(str(saved["name"]))
                adapters.write_text(json.dumps(config, indent=2), encoding="utf-8")
            if self.tokenizer is not None:
                self.tokenizer.save_pretrained(fresh)

    @classmethod
    def from_pretrained(cls, folder: str | Path, *, device: str = "auto") -> TextClassifier:
        """The classifier that `save_pretrained` wrote, in eval mode.

        Raises:
            UserError: the folder holds none, or its backbone cannot be had.
        """
        folder = Path(folder)
        saved, weights = read_classifier(folder)
        head = weights["weight"]
        where = resolve_device(device)
        source = str(folder.resolve()) if saved["tuning"] == "full" else saved["name"]
        model: Any = load_model(source, device=device)
        settings = {key: saved[key] for key in ("pooling", "layer", "lora_rank", "lora_alpha")}
        classifier = cls(model, len(head), tuning=saved["tuning"], **settings)
        if saved["tuning"] == "lora":
            classifier._load_adapters(folder)
        classifier.head.weight.data.copy_(head)
        classifier.name, classifier.label_names = saved["name"], saved["label_names"]
        if (folder / "tokenizer_config.json").exists():
            classifier.tokenizer = load_tokenizer(source)
        return classifier.to(where).eval()

    def _add_adapters(self, seed: int) -> None:
        from peft import LoraConfig

        config = LoraConfig(
            r=self.lora_rank, lora_alpha=self.lora_alpha, target_modules="all-linear"
        )
        device = self.head.weight.device
        devices = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(devices), warnings.catch_warnings():
            torch.manual_seed(seed)
            warnings.filterwarnings("ignore", "fan_in_fan_out")  # peft sets it right by itself
            self.model.add_adapter(config)

    def _load_adapters(self, folder: Path) -> None:
        from peft import set_peft_model_state_dict

        try:
            saved = load_file(folder / "adapter_model.safetensors")
        except (OSError, SafetensorError) as error:
            raise UserError(f"'{folder}' holds no saved adapters: {error}") from error
        weights = {name.removeprefix("base_model.model."): saved[name] for name in saved}
        if set_peft_model_state_dict(self.model, weights).unexpected_keys:
            raise UserError(f"The adapters in '{folder}' do not fit '{self.name}'.")


def lasting_name(name: str | None) -> str | None:
    """The same backbone from any working folder."""
    local = name is not None and name not in ARTIFACTS and Path(name).expanduser().is_dir()
    return str(Path(str(name)).expanduser().resolve()) if local else name


def public_name(name: str) -> str:
    """What others know a backbone by: its name on the hub, where it has one."""
    artifact = ARTIFACTS.get(name)
    return (artifact and artifact.hub) or name.removeprefix("hf:")


def _is_decoder(model: nn.Module) -> bool:
    """Whether a token sees only those before it, so that the last one has seen them all."""
    return any(getattr(module, "is_causal", False) for module in model.modules())
