"""Small decoders that read texts of several domains, and exams of what they know of each."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from generality.benchmarks.drug_reviews import load_drug_reviews
from generality.benchmarks.sentiment import DOMAINS, load_sentiment
from generality.errors import UserError
from generality.lab import Lab, TrainConfig
from generality.measures import choice_logprobs
from generality.models import bpe_tokenizer, load_model, load_tokenizer, tiny_decoder
from generality.models.identity import model_identity
from generality.training.token_batches import text_loss, token_batches

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

Asked = list[tuple[str, str, str]]
"""Texts, each with a question and its answer."""


@dataclass(frozen=True)
class LanguageDomains:
    """Reviews of drugs, and snippets of films, shops, newspapers and tweets, as small models read.

    Every text comes with a question after it and its answer, so that a model trained on them both
    writes like a domain and knows something of it: is the writer pleased, and, of drugs, which ward
    does the illness belong to? `language_domains` reads and keeps them.

    Args:
        texts: by split ("train", "test") and domain.
        pieces: the tokenizer's, as its library writes them.
        size: of the decoder, see `tiny_decoder`.
        test: held-out texts of each domain that exams read.

    >>> texts = {split: {"drugs": [("it helped", "verdict ?", "good")] * 2}
    ...          for split in ("train", "test")}
    >>> world = LanguageDomains(texts, tokenizer_pieces(["it helped"], 259), "0.05M")
    >>> model = world.network(0)
    >>> world.loss(model, ["drugs"]) > 3, world.accuracy(model, ["drugs"]) in (0, 1)
    (True, True)
    """

    texts: dict[str, dict[str, Asked]]
    pieces: str
    size: str = "0.25M"
    test: int = 200

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        """Of the decoders."""
        from tokenizers import Tokenizer
        from transformers import PreTrainedTokenizerFast

        names = {"pad_token": "<pad>", "bos_token": "<bos>", "eos_token": "<eos>"}
        return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(self.pieces), **names)

    def network(self, seed: int) -> LlamaForCausalLM:
        """A decoder that knows nothing yet."""
        return tiny_decoder(self.size, seed, vocabulary=len(self.tokenizer))

    def model(self, weights: Mapping[str, Tensor] | None) -> Any:
        """A decoder with these weights, ready to read."""
        model = self.network(0)
        model.load_state_dict(dict(weights or {}))
        return model.eval()

    def trained(
        self, lab: Lab, domains: Sequence[str], tokens: int, config: TrainConfig, seed: int
    ) -> dict[str, Tensor]:
        """Weights of a decoder that has read about so many tokens of these domains; kept.

        How many passes that takes overrules `config.epochs`.
        """
        asked = [each for domain in domains for each in self.texts["train"][domain]]
        prompts = [f"{text} {question}" for text, question, _ in asked]
        length = np.mean([len(row) for row in self.tokenizer(prompts[::20])["input_ids"]]) + 2
        return lab.sft(
            functools.partial(tiny_decoder, self.size, vocabulary=len(self.tokenizer)),
            prompts, [answer for _, _, answer in asked], tokenizer=self.tokenizer, seed=seed,
            config=replace(config, epochs=float(tokens / length / len(prompts))), loss_on="all",
        ).weights  # fmt: skip

    def read(
        self, domains: Sequence[str], count: int, *, split: str = "train", seed: int | None = None
    ) -> list[list[int]]:
        """Tokens of `count` texts of each domain with question and answer; drawn by a seed.

        Without a seed the first ones, and all of a domain that has fewer.
        """
        rows: list[list[int]] = []
        for domain in domains:
            asked = self.texts[split][domain]
            order: Any = range(len(asked))
            if seed is not None:
                order = np.random.default_rng(seed).permutation(len(asked))
            chosen = [" ".join(asked[i]).strip() for i in list(order)[:count]]
            end = self.tokenizer.eos_token_id
            rows += [[*row, end] for row in self.tokenizer(chosen)["input_ids"]]
        return rows

    def choices(self, question: str) -> tuple[str, ...]:
        """The answers that a question has in any text, sorted."""
        every = [
            each for split in self.texts.values() for asked in split.values() for each in asked
        ]
        return tuple(sorted({answer for _, asked, answer in every if asked == question}))

    def loss(self, model: nn.Module, domains: Sequence[str]) -> float:
        """Mean −log p of a token of held-out texts, nats; each domain counts alike."""
        losses = [
            text_loss(model, token_batches(self.read([domain], self.test, split="test"), 32))
            for domain in domains
        ]
        return float(np.mean(losses))

    def accuracy(self, model: nn.Module, domains: Sequence[str]) -> float:
        """Share of questions whose likeliest answer is right, mean over domains' questions."""
        right = []
        for domain in domains:
            asked = self.texts["test"][domain][: self.test]
            for question in dict.fromkeys(question for _, question, _ in asked if question):
                mine = [each for each in asked if each[1] == question]
                choices = self.choices(question)
                said = choice_logprobs(
                    model, self.tokenizer, [f"{text} {question}" for text, _, _ in mine], choices,
                    batch_size=64,
                ).argmax(1)  # fmt: skip
                truth = torch.tensor([choices.index(answer) for _, _, answer in mine])
                right.append(float((said == truth).float().mean()))
        return float(np.mean(right))


@dataclass(frozen=True)
class NamedDomains(LanguageDomains):
    """The same exams for a model by name and texts in files; see `named_domains`."""

    name: str = ""
    identity: str = ""
    device: str = "cpu"

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        """The model's own."""
        return load_tokenizer(self.name)

    def model(self, weights: Mapping[str, Tensor] | None) -> Any:
        """The model, with other weights if they are given."""
        model = load_model(self.name, device=self.device)
        if weights is not None:
            model.load_state_dict(dict(weights))
        return model.eval()


def named_domains(
    lab: Lab, model: str, folder: Path, domains: Sequence[str], *, words: int = 700, test: int = 300
) -> NamedDomains:
    """A model as `load_model` takes it, and `DOMAIN.train.jsonl` and `DOMAIN.test.jsonl` of each.

    Every line is an object with `text`, and `question` and `answer` where one is asked.

    Raises:
        UserError: a file that is missing, or a line without a text.
    """
    texts = {
        split: {
            domain: _asked_lines(folder / f"{domain}.{split}.jsonl", words) for domain in domains
        }
        for split in ("train", "test")
    }
    lab.fetch(model)
    return NamedDomains(texts, "", model, test, model, model_identity(model), lab.device)


def language_domains(
    lab: Lab, size: str = "0.25M", *, vocabulary: int = 1024, words: int = 50, test: int = 200,
    limit: int | None = None,
) -> LanguageDomains:  # fmt: skip
    """The texts, cut after so many words, and a tokenizer of a sample of all domains'; kept.

    With a `limit` each domain has so many texts to train on and to test on, and no more.
    """
    texts: dict[str, dict[str, Asked]] = lab.step(asked_texts, words, limit)
    sample = [text for asked in texts["train"].values() for text, _, _ in asked[:600]]
    return LanguageDomains(texts, lab.step(tokenizer_pieces, sample, vocabulary), size, test)


def model_domains(
    lab: Lab,
    domains: Sequence[str],
    *,
    size: str,
    model: str | None = None,
    folder: str | Path = "",
    words: int,
    test: int,
    limit: int | None = None,
) -> LanguageDomains:
    """`named_domains` of a model by name with files, or else `language_domains` of a decoder."""
    if model is None:
        return language_domains(lab, size, words=words, test=test, limit=limit)
    return named_domains(lab, model, Path(folder), domains, words=words, test=test)


def tokenizer_pieces(texts: Sequence[str], vocabulary: int) -> str:
    """`bpe_tokenizer` of these texts, as its library writes it."""
    core: Any = bpe_tokenizer(texts, vocabulary).backend_tokenizer
    return str(core.to_str())


def asked_texts(words: int, limit: int | None = None) -> dict[str, dict[str, Asked]]:
    """Texts of each split and domain with question and answer, in an order mixed by content.

    A drug review comes twice, once with each question.
    """
    found: dict[str, dict[str, Asked]] = {}
    sentiment, drugs = load_sentiment(), load_drug_reviews(words=words)
    for split in ("train", "test"):
        rows = sentiment.splits[split].to_dict()
        found[split] = {
            domain: [
                (" ".join(text.split()[:words]), "verdict ?", ("bad", "good")[label])
                for text, label, own in zip(rows["text"], rows["label"], rows["domain"])  # noqa: B905
                if own == domain
            ]
            for domain in DOMAINS
        }
        rows = drugs.splits[split].to_dict()
        found[split]["drugs"] = [
            (text, question, answer)
            for text, label, site in zip(rows["text"], rows["label"], rows["site"])  # noqa: B905
            for question, answer in (("verdict ?", ("bad", "good")[label]), ("ward ?", site))
        ]
        found[split] = {domain: asked[:limit] for domain, asked in found[split].items()}
    return found


def _asked_lines(file: Path, words: int) -> Asked:
    try:
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line]
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read as JSON lines: {error}") from error
    if not rows or not all(isinstance(row, dict) and row.get("text") for row in rows):
        raise UserError(f"{file} holds objects with a 'text', one a line; some line is none.")
    return [
        (" ".join(row["text"].split()[:words]), row.get("question", ""), row.get("answer", ""))
        for row in rows
    ]
