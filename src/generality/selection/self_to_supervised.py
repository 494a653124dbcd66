"""Training targets in the model's own words, wherever these are right."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from datasets import Dataset
from torch import nn

from generality.measures.response_logprob import response_logprob
from generality.models.generation import generate_texts
from generality.selection.judge import Judge
from generality.selection.response_pool import as_dataset, taken

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from generality.selection.response_pool import Score

Write = Callable[[list[str], int], Sequence[Sequence[str | None]]]
"""From prompts and a number to that many answers of the model to each; None for one cut short."""

Paraphrase = Callable[[list[str], list[str]], Sequence[str | None]]
"""From prompts and gold answers to the model's own version of each answer."""

PARAPHRASE = """{prompt}

Reference answer: {reference}

Write the answer in your own words."""
"""What a model is asked for a paraphrase: the problem and the reference, as in the paper."""


class SelfToSupervised:
    """S3FT: each example's target is the model's own answer if right, else its paraphrase of the
    gold answer if right, else the gold answer.

    Made once, before training, with the model as it is; then train on `prompt` and `target` as on
    any data. The prompt here must be the prompt of training. A judge that errs towards "right"
    reinforces wrong answers, and without a judge a paraphrase just copies the reference.

    Args:
        write: the model's answers to prompts. One answer: greedy, as in the paper.
        judge: is this answer right?
        paraphrase: the model's own version of a gold answer; None leaves this step out.
        n_samples: answers asked for; with several, the first right one, or with `score` the
            right one that the model finds most probable.
        score: log-probabilities under the model before training, for the column `base_logprob`.
        own: False leaves the model's own answers out. With a paraphrase that is SDFT
            (arXiv 2402.13669), self-distillation.
        fallback: "gold", or "drop" for examples that neither step solves: own right answers only.

    Source: Gupta et al. 2025 (arXiv 2502.08130), algorithm 1.

    >>> from generality.selection import ExactMatch
    >>> rows = Dataset.from_list([{"prompt": "2 + 2?", "response": "4"},
    ...                           {"prompt": "3 + 3?", "response": "6"}])
    >>> method = SelfToSupervised(lambda prompts, n: [["4"]] * len(prompts), ExactMatch())
    >>> method.build(rows)["target_source"][:]
    ['self', 'gold']
    """

    def __init__(
        self,
        write: Write,
        judge: Judge,
        *,
        paraphrase: Paraphrase | None = None,
        n_samples: int = 1,
        score: Score | None = None,
        own: bool = True,
        fallback: Literal["gold", "drop"] = "gold",
    ) -> None:
        if n_samples < 1 or fallback not in ("gold", "drop"):
            raise ValueError("n_samples is at least 1, and fallback 'gold' or 'drop'")
        self.write, self.judge, self.paraphrase = write, judge, paraphrase
        self.n_samples, self.score, self.own, self.fallback = n_samples, score, own, fallback

    @classmethod
    def of_model(
        cls,
        model: nn.Module,
        tokenizer: PreTrainedTokenizerFast,
        judge: Judge,
        *,
        paraphrase_template: str | None = PARAPHRASE,
        n_samples: int = 1,
        temperature: float = 0.7,
        max_tokens: int = 256,
        batch_size: int = 16,
        seed: int = 0,
        **options: Any,
    ) -> SelfToSupervised:
        """With a local model as writer, paraphraser and scorer.

        Args:
            model: the causal language model that will be trained.
            tokenizer: its tokenizer.
            judge: is this answer right?
            paraphrase_template: a text with {prompt} and {reference}; None: no paraphrases.
            n_samples: one is greedy; several are drawn at `temperature`.
            temperature: of the draws.
            max_tokens: of an answer; longer ones count as cut short and are never targets, nor is
                one that is a token short of it, as decoding drops white space at a text's ends.
            batch_size: prompts at a time.
            seed: of the draws.
            options: `own` and `fallback`.
        """

        def complete(prompts: list[str], samples: int) -> list[list[str | None]]:
            asked = [prompt for prompt in prompts for _ in range(samples)]
            written = generate_texts(
                model, tokenizer, asked, max_tokens=max_tokens, seed=seed,
                temperature=temperature if samples > 1 else 0.0, batch_size=batch_size,
            )  # fmt: skip
            texts: list[str | None] = [
                None
                if len(tokenizer(text, add_special_tokens=False)["input_ids"]) >= max_tokens - 1
                else text
                for text in written
            ]
            return [texts[i : i + samples] for i in range(0, len(texts), samples)]

        def paraphrase(prompts: list[str], references: list[str]) -> list[str | None]:
            template = paraphrase_template or ""
            pairs = zip(prompts, references, strict=True)
            asked = [
                template.replace("{prompt}", prompt).replace("{reference}", reference)
                for prompt, reference in pairs
            ]
            return [written for [written] in complete(asked, 1)]

        def score(prompts: list[str], responses: list[str]) -> Any:
            return response_logprob(model, tokenizer, prompts, responses, batch_size=batch_size)

        return cls(
            complete, judge, paraphrase=paraphrase if paraphrase_template else None,
            n_samples=n_samples, score=score, **options,
        )  # fmt: skip

    def build(self, dataset: Dataset | Iterable[Mapping[str, Any]]) -> Dataset:
        """The dataset with columns `target`, `target_source` and, with a scorer, `base_logprob`.

        Examples do not depend on each other, so a large dataset may be worked through in parts.

        Args:
            dataset: `prompt`, `response` (the gold answer) and, where the judge compares with
                something else, such as unit tests, `reference`; a DataFrame or dicts will do.

        Returns:
            The same rows (fewer with fallback "drop") with `target`, the text to train on;
            `target_source`, one of "self", "paraphrase" and "gold"; `base_logprob`, nats per token
            of the target under the model before training.

        Raises:
            ValueError: no column `prompt` or `response`, or not as many answers as prompts.
        """
        dataset = as_dataset(dataset)
        lacking = {"prompt", "response"} - set(dataset.column_names)
        if lacking:
            raise ValueError(f"the data need the column {' and '.join(sorted(lacking))}")
        prompts, gold = list(dataset["prompt"]), list(dataset["response"])
        known = "reference" in dataset.column_names
        references = list(dataset["reference"]) if known else gold
        targets: dict[int, tuple[str, str]] = {}
        if self.own and prompts:
            answers = list(self.write(prompts, self.n_samples))
            if len(answers) != len(prompts):
                raise ValueError(
                    f"`write` gave answers to {len(answers)} of {len(prompts)} prompts"
                )
            for i, written in enumerate(answers):
                right = self._right(prompts[i], written, references[i])
                if right:
                    targets[i] = (self._likeliest(prompts[i], right), "self")
        open_rows = [i for i in range(len(prompts)) if i not in targets]
        if self.paraphrase is not None and open_rows:
            restated = self.paraphrase(
                [prompts[i] for i in open_rows], [gold[i] for i in open_rows]
            )
            for i, text in zip(open_rows, restated, strict=True):
                if self._right(prompts[i], [text], references[i]):
                    targets[i] = (str(text), "paraphrase")
        if self.fallback == "gold":
            targets = {i: targets.get(i, (gold[i], "gold")) for i in range(len(prompts))}
        rows = sorted(targets)
        built = taken(dataset, rows)
        columns: dict[str, list[Any]] = {
            "target": [targets[i][0] for i in rows],
            "target_source": [targets[i][1] for i in rows],
        }
        if self.score is not None:
            found = self.score([prompts[i] for i in rows], columns["target"]) if rows else []
            columns["base_logprob"] = np.asarray(found, dtype=float).tolist()
        for name, values in columns.items():
            if name in built.column_names:
                built = built.remove_columns(name)
            built = built.add_column(name, values)
        return built

    def _right(self, prompt: str, written: Sequence[str | None], reference: Any) -> list[str]:
        """The answers that the judge accepts; one that is empty or cut short is not asked about."""
        return [
            text
            for text in written
            if text and text.strip() and self.judge(prompt, text, reference) >= 0.5
        ]

    def _likeliest(self, prompt: str, right: list[str]) -> str:
        if self.score is None or len(right) == 1:
            return right[0]
        scores = np.asarray(self.score([prompt] * len(right), right), dtype=float)
        return right[int(np.nanargmax(scores))]
