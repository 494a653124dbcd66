"""A causal language model in hand: tuned, asked, scored, and each time kept by the lab."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Float
from torch import Tensor, nn

from generality.benchmarks.worlds import world_tokenizer
from generality.lab import Lab, TrainConfig
from generality.lab.sft import TunedLM
from generality.lab.threads import threads
from generality.measures import greedy_match, kl_to_base, margin_labels, response_logprob
from generality.models import load_tokenizer, tiny_decoder
from generality.models.load import published
from generality.modules import prefer
from generality.selection.judge import Judge

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


@dataclass(frozen=True)
class Writer:
    """A causal language model that can be tuned: its network, its weights, its tokenizer.

    Tuning gives another writer and leaves this one as it is, so that many arms go on from one.

    Attributes:
        network: called with a seed, as for `lab.sft`.
        weights: to begin with; None leaves the network as it comes.
        tokenizer: its own.
        training: of the tuning that it comes from: losses, tokens read, weights kept on the way;
            None for one that was not tuned.

    >>> import tempfile
    >>> from pathlib import Path
    >>> lab = Lab(home=Path(tempfile.mkdtemp()), device="cpu", progress=False)
    >>> base = Writer.tiny("0.05M")
    >>> once = TrainConfig(epochs=1, learning_rate=1e-3)
    >>> tuned = base.tuned(lab, ["a ?", "b ?"], ["=> 1", "=> 2"], config=once, seed=0)
    >>> [[text]] = tuned.write(lab, ["a ?"], max_tokens=3)
    >>> base.training is None, tuned.training.tokens
    (True, 12)
    """

    network: Callable[[int], Any]
    weights: Mapping[str, Tensor] | None
    tokenizer: PreTrainedTokenizerFast
    training: TunedLM | None = None

    @classmethod
    def tiny(cls, size: str, words: Sequence[str] = (), *, context: int = 128) -> Writer:
        """A decoder with random weights that knows the words of the procedural worlds.

        Args:
            size: of `generality.models.tiny_decoder`.
            words: further ones, as for `world_tokenizer`.
            context: longest text, in tokens.
        """
        tokenizer = world_tokenizer(words)
        network = functools.partial(tiny_decoder, size, vocabulary=len(tokenizer), context=context)
        return cls(network, None, tokenizer)

    @classmethod
    def of_corpus(
        cls,
        lab: Lab,
        size: str,
        texts: Sequence[str],
        *,
        words: int,
        config: TrainConfig,
        context: int = 96,
        max_length: int = 48,
    ) -> Writer:
        """A tiny decoder that has read these texts and knows their most frequent words.

        Args:
            lab: keeps it.
            size: of `generality.models.tiny_decoder`.
            texts: words and signs apart by spaces.
            words: how many it knows; others are one unknown word.
            config: of the reading.
            context: longest text, in tokens.
            max_length: of a text that it reads, likewise.
        """
        counts = Counter(word for text in texts for word in text.split())
        known = [word for word, _ in counts.most_common(words)]
        return cls.tiny(size, known, context=context).tuned(
            lab, [""] * len(texts), texts, loss_on="all", max_length=max_length, config=config,
            seed=0,
        )  # fmt: skip

    @classmethod
    def named(cls, name: str) -> Writer:
        """A pretrained model by its name, the same for every seed."""
        return cls(functools.partial(published, name), None, load_tokenizer(name))

    def tuned(
        self,
        lab: Lab,
        prompts: Sequence[str],
        responses: Sequence[str],
        *,
        config: TrainConfig,
        seed: int,
        updates: int | None = None,
        **options: Any,
    ) -> Writer:
        """The writer after it learned these responses.

        Args:
            lab: keeps the weights.
            prompts: one a response.
            responses: as many.
            config: of the training.
            seed: of the order.
            updates: steps, in place of the config's epochs, however many responses there are.
            options: of `Lab.sft`.
        """
        if updates is not None:
            once = replace(config, epochs=1).steps(len(prompts))
            config = replace(config, epochs=(updates - 0.5) / once)
        found = lab.sft(
            self.network, prompts, responses, tokenizer=self.tokenizer, config=config, seed=seed,
            weights=self.weights, **options,
        )  # fmt: skip
        return replace(self, weights=found.weights, training=found)

    def preferring(
        self,
        lab: Lab,
        prompts: Sequence[str],
        chosen: Sequence[str],
        rejected: Sequence[str],
        *,
        config: TrainConfig,
        seed: int,
        **options: Any,
    ) -> Writer:
        """The writer after it learned which response is preferred; `options` are of `prefer`."""
        found = prefer(
            lab, self.network, prompts, chosen, rejected, tokenizer=self.tokenizer,
            weights=self._state(), config=config, seed=seed, **options,
        )  # fmt: skip
        return replace(self, weights=found.weights, training=found)

    def kept(self, share: float) -> Writer:
        """The writer as it was after this share of its training, which was to be kept.

        Raises ValueError where it was not.
        """
        found = self.training.kept if self.training else {}
        if f"{share:g}" not in found:
            raise ValueError(f"kept are {', '.join(found) or 'no weights'}, not {share:g}")
        return replace(self, weights=found[f"{share:g}"])

    def write(self, lab: Lab, prompts: Sequence[str], **options: Any) -> list[list[str]]:
        """Texts after each prompt, kept; `options` are those of `Lab.generate`."""
        return lab.generate(
            self.network, prompts, weights=self._state(), tokenizer=self.tokenizer, **options
        )

    def accuracies(
        self,
        lab: Lab,
        tests: Mapping[str, tuple[Sequence[str], Sequence[str]]],
        judge: Judge,
        **options: Any,
    ) -> dict[str, float]:
        """Of each test, the mean of what the judge finds in its answers: greedy, one to a prompt.

        Args:
            lab: where the texts are kept.
            tests: by name, prompts and as many references.
            judge: (prompt, response, reference) -> a number in [0, 1].
            options: of `Lab.generate`.
        """
        asked = [prompt for prompts, _ in tests.values() for prompt in prompts]
        said = iter(self.write(lab, asked, **options))
        return {
            name: float(np.mean([judge(p, next(said)[0], r) for p, r in zip(*test, strict=True)]))
            for name, test in tests.items()
        }

    def logprobs(
        self, lab: Lab, prompts: Sequence[str], responses: Sequence[str], *, reduce: Any = "mean"
    ) -> list[float]:
        """log p(response | prompt) of each pair in nats, kept; see `response_logprob`."""
        found: list[float] = lab.step(
            _logprobs, self.network, self._state(), self.tokenizer, list(prompts), list(responses),
            reduce,
        )  # fmt: skip
        return found

    def margins(
        self,
        lab: Lab,
        prompts: Sequence[str],
        first: Sequence[str],
        second: Sequence[str],
        *,
        kind: Literal["sum", "mean"] = "sum",
    ) -> Float[np.ndarray, " pairs"]:
        """By how many nats it prefers each first response, kept; see `margin_labels`."""
        found: Float[np.ndarray, " pairs"] = lab.step(
            _margins, self.network, self._state(), self.tokenizer, list(prompts), list(first),
            list(second), kind,
        )  # fmt: skip
        return found

    def matches(self, lab: Lab, prompts: Sequence[str], responses: Sequence[str]) -> list[bool]:
        """Which of these responses it would write, greedily and word for word, kept.

        Nothing is generated; see `greedy_match`.
        """
        found: list[bool] = lab.step(
            _matches, self.network, self._state(), self.tokenizer, list(prompts), list(responses)
        )
        return found

    def moved(
        self, lab: Lab, base: Writer, prompts: Sequence[str], *, max_tokens: int, seed: int
    ) -> float:
        """Nats per token between what it would say and what `base` would, kept; see `kl_to_base`.

        Both have one network.
        """
        found: float = lab.step(
            _moved, self.network, self._state(), base._state(), self.tokenizer, list(prompts),
            max_tokens, seed,
        )  # fmt: skip
        return found

    def model(self) -> nn.Module:
        """The network with these weights, in eval mode."""
        return _loaded(self.network, self.weights)

    def _state(self) -> Mapping[str, Tensor]:
        if self.weights is not None:
            return self.weights
        state: Mapping[str, Tensor] = self.network(0).state_dict()
        return state


def _loaded(network: Callable[[int], Any], weights: Mapping[str, Tensor] | None) -> nn.Module:
    model: nn.Module = network(0)
    if weights is not None:
        model.load_state_dict(dict(weights))
    return model.eval()


def _logprobs(
    network: Any, weights: Any, tokenizer: Any, prompts: list[str], responses: list[str],
    reduce: Any,
) -> list[float]:  # fmt: skip
    """The memoised step behind `Writer.logprobs`."""
    model = _loaded(network, weights)
    with threads(1):
        found = response_logprob(model, tokenizer, prompts, responses, reduce=reduce, batch_size=64)
    return found.tolist()


def _matches(
    network: Any, weights: Any, tokenizer: Any, prompts: list[str], responses: list[str]
) -> list[bool]:
    """The memoised step behind `Writer.matches`."""
    with threads(1):
        return greedy_match(_loaded(network, weights), tokenizer, prompts, responses).tolist()


def _margins(
    network: Any, weights: Any, tokenizer: Any, prompts: list[str], first: list[str],
    second: list[str], kind: Any,
) -> Float[np.ndarray, " pairs"]:  # fmt: skip
    """The memoised step behind `Writer.margins`."""
    with threads(1):
        model = _loaded(network, weights)
        return margin_labels(model, tokenizer, prompts, first, second, kind=kind)


def _moved(
    network: Any, weights: Any, base: Any, tokenizer: Any, prompts: list[str], max_tokens: int,
    seed: int,
) -> float:  # fmt: skip
    """The memoised step behind `Writer.moved`."""
    models = _loaded(network, weights), _loaded(network, base)
    with threads(1):
        found = kl_to_base(*models, tokenizer, prompts, max_tokens=max_tokens, seed=seed)
    return found.per_token
