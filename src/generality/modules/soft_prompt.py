"""Learnt token vectors in front of a text, for CLIP's text side and for BERT-like encoders."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from generality.models import HiddenStatePooler


class SoftPrompt(nn.Module):
    """A frozen text encoder whose texts begin with `num_tokens` learnt vectors.

    The vectors stand after the first token ([CLS], or CLIP's start token), before the words. They
    take the place of input embeddings, so positions, masks and pooling are the encoder's own; a
    CLIP model also keeps its end-of-text pooling and its projection. `tokens` is the one parameter
    that learns: the encoder is put in eval mode and frozen, as peft does.

    Args:
        model: a `transformers` model that has `get_text_features` (CLIP and its kin) or that
            returns `last_hidden_state` (BERT, MiniLM, …; their tokens are pooled by `pooling`).
        num_tokens: learnt vectors, at least 1; CoOp takes 4 to 16.
        init: "random", normal with the mean and the deviation of the encoder's word embeddings; or
            words, whose embeddings are taken in turn until there are enough; or a tensor
            (num_tokens, width).
        tokenizer: the encoder's; needed where `init` is words.
        pooling: "mean", "cls" or "last", of encoders without `get_text_features`.

    Raises:
        ValueError: num_tokens below 1, a tensor of another shape, words without a tokenizer.

    Source: prompt tuning as in CoOp (Zhou et al. 2022), the host of GRAM (Li et al. 2023, arXiv
    2303.06571, section 3). The visual side is not built.

    >>> from transformers import BertConfig, BertModel
    >>> tiny = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    >>> encoder = BertModel(BertConfig(vocab_size=50, intermediate_size=16, **tiny))
    >>> prompt = SoftPrompt(encoder, num_tokens=4)
    >>> names = torch.tensor([[1, 7, 2], [1, 9, 2]])  # class names as token ids
    >>> prompt(names, torch.ones_like(names)).shape
    torch.Size([2, 16])
    >>> [name for name, weight in prompt.named_parameters() if weight.requires_grad]
    ['tokens']
    """

    def __init__(
        self,
        model: nn.Module,
        num_tokens: int = 4,
        *,
        init: str | Float[Tensor, "num_tokens width"] = "random",
        tokenizer: Any = None,
        pooling: str = "mean",
    ) -> None:
        super().__init__()
        if num_tokens < 1:
            raise ValueError(f"num_tokens is at least 1, not {num_tokens}")
        self.model = model.eval().requires_grad_(False)
        self.pooler = HiddenStatePooler(pooling)
        self._joint = hasattr(model, "get_text_features")
        table = self._embedding().weight.detach()
        shape = (num_tokens, table.shape[1])
        if isinstance(init, Tensor):
            start = init.detach().clone()
        elif init == "random":
            start = table.mean() + table.std() * torch.randn(shape).to(table)
        else:
            if tokenizer is None:
                raise ValueError("words as init need the encoder's tokenizer")
            ids = tokenizer(init, add_special_tokens=False)["input_ids"]
            if not ids:
                raise ValueError("init has no words")
            start = table[[ids[place % len(ids)] for place in range(num_tokens)]].clone()
        if start.shape != shape:
            raise ValueError(f"init is {shape}, not {tuple(start.shape)}")
        self.tokens = nn.Parameter(start)

    def _embedding(self) -> nn.Embedding:
        """The table that turns token ids into vectors."""
        body: Any = self.model.text_model if self._joint else self.model
        table: nn.Embedding = body.get_input_embeddings()
        return table

    def train(self, mode: bool = True) -> SoftPrompt:
        """The encoder stays in eval mode: it is frozen, dropout included."""
        super().train(mode)
        self.model.eval()
        return self

    def forward(
        self,
        input_ids: Int[Tensor, "texts length"],
        attention_mask: Int[Tensor, "texts length"],
        tokens: Float[Tensor, "#texts num_tokens width"]
        | Float[Tensor, "num_tokens width"]
        | None = None,
    ) -> Float[Tensor, "texts dim"]:
        """Unit vectors of texts behind the prompt.

        `tokens` stands in for the parameter, one prompt for all texts or one for each, which is
        what an inner step of meta-learning needs. Texts are padded on the right.

        Raises:
            ValueError: padding on the left, or a text that is too long with the prompt.
        """
        if not bool(attention_mask[:, 0].all()):
            raise ValueError("pad on the right: the prompt goes after each text's first token")
        tokens = self.tokens if tokens is None else tokens
        count = tokens.shape[-2]
        self._check_length(input_ids.shape[1] + count)
        # the first token's id, never an end or a pad, holds the prompt's places
        ids = torch.cat([input_ids[:, :1].expand(-1, count + 1), input_ids[:, 1:]], 1)
        mask = torch.cat([attention_mask[:, :1].expand(-1, count + 1), attention_mask[:, 1:]], 1)

        def insert(_module: nn.Module, _inputs: Any, embedded: Tensor) -> Tensor:
            vectors = tokens.to(embedded.dtype).expand(len(embedded), -1, -1)
            return torch.cat([embedded[:, :1], vectors, embedded[:, 1 + count :]], 1)

        handle = self._embedding().register_forward_hook(insert)
        try:
            if self._joint:
                model: Any = self.model
                features = model.get_text_features(input_ids=ids, attention_mask=mask)
                pooled = getattr(features, "pooler_output", features)
            else:
                states = self.model(input_ids=ids, attention_mask=mask).last_hidden_state
                pooled = self.pooler(states, mask)
        finally:
            handle.remove()
        return functional.normalize(pooled, dim=-1)

    def logits(
        self,
        items: Float[Tensor, "*tasks items dim"],
        input_ids: Int[Tensor, "*tasks classes length"],
        attention_mask: Int[Tensor, "*tasks classes length"],
        tokens: Float[Tensor, "*tasks num_tokens width"] | None = None,
        *,
        scale: float = 100.0,
    ) -> Float[Tensor, "*tasks items classes"]:
        """`scale` · cosine of each item with each class name behind the prompt.

        With a leading dimension everything has one task in it per entry, each with its own prompt,
        class names and items, in one pass through the encoder. CLIP's scale is 100.
        """
        classes = input_ids.shape[-2]
        tokens = self.tokens if tokens is None else tokens
        if tokens.ndim == 3:
            tokens = tokens.repeat_interleave(classes, 0)
        names = self(input_ids.flatten(0, -2), attention_mask.flatten(0, -2), tokens)
        names = names.unflatten(0, input_ids.shape[:-1])
        return scale * functional.normalize(items, dim=-1) @ names.transpose(-1, -2)

    def _check_length(self, length: int) -> None:
        config: Any = getattr(self.model, "config", None)
        config = getattr(config, "text_config", config)
        reach = getattr(config, "max_position_embeddings", None)
        if reach is not None and length > reach:
            raise ValueError(f"{length} tokens with the prompt; the encoder reads {reach}")
