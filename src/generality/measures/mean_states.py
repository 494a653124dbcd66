"""A language model's hidden states as embeddings, beside its gradients."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from generality.models.prompt_response import encode_response

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


class MeanStates:
    """The mean last hidden state over the tokens of prompt and response, as unit vectors.

    With the same call as `GVendi`: the control that says whether it is gradients that matter, or
    any picture that the same model has of the examples.

    Args:
        model: a causal language model of transformers; it is put in eval mode.
        tokenizer: its tokenizer.
        columns: names of the prompt and the response in a record.

    >>> from generality.benchmarks.worlds import world_tokenizer
    >>> from generality.models import tiny_decoder
    >>> tokenizer = world_tokenizer()
    >>> embed = MeanStates(tiny_decoder("0.05M", vocabulary=len(tokenizer)), tokenizer)
    >>> embed.features([{"prompt": "a = 3 ; a ?", "response": "=> 3"}]).shape
    torch.Size([1, 48])
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: PreTrainedTokenizerFast,
        *,
        columns: tuple[str, str] = ("prompt", "response"),
    ) -> None:
        self.model, self.tokenizer, self.columns = model.eval(), tokenizer, columns

    @torch.no_grad()
    def features(self, ds: Iterable[Mapping[str, Any]]) -> Float[Tensor, "n dim"]:
        """One row an example, on the CPU."""
        prompt, response = self.columns
        place = next(self.model.parameters()).device
        rows = []
        for record in ds:  # one at a time: no padding to average away
            tokens, _ = encode_response(self.tokenizer, record[prompt], record[response])
            said = self.model(
                input_ids=torch.tensor([tokens], device=place), output_hidden_states=True
            )
            rows.append(said.hidden_states[-1][0].float().mean(0).cpu())
        return nn.functional.normalize(torch.stack(rows), dim=1)
