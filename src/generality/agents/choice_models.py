"""Ways to have a model choose: likelihood of the options, nearness of names, a chat's words."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from generality.agents.choice import Choice, ChoiceTask, Demo, parse_choice, parse_confidence
from generality.errors import UserError, import_extra
from generality.models import Chat, load_model, load_tokenizer
from generality.models.identity import model_identity

Demos = Sequence[Sequence[Demo]] | None
Encode = Callable[[Sequence[Any]], Float[np.ndarray, "n dim"]]
Array = Float[np.ndarray, "items classes"]


class OptionLikelihood:
    """A causal language model on this machine: the class whose name it finds likeliest next.

    Nothing is generated, so every item gets an answer. A name of several tokens scores the sum of
    their log-likelihoods. Confidence is the softmax over the classes.

    Args:
        model: as in `load_model`; a causal language model.
        neutral: an item without content, such as "N/A". What the model makes of it after the same
            demos is subtracted, which takes out its liking for a class (Zhao et al. 2021,
            arXiv 2102.09690). None: as it is.
        batch: prompts at a time.
        max_tokens: longer prompts lose their beginning.
        device: "auto", "cpu", "cuda" or "mps".

    Source: log-likelihood in place of the paper's generated answers, which a small model seldom
    gives in the format asked for.
    """

    def __init__(
        self,
        model: str = "smollm2-135m",
        *,
        neutral: str | None = None,
        batch: int = 8,
        max_tokens: int = 1024,
        device: str = "auto",
    ) -> None:
        self.model, self.neutral, self.batch = model, neutral, batch
        self.max_tokens, self.device = max_tokens, device

    @cached_property
    def fingerprint(self) -> str:
        """Weights and settings."""
        return f"likelihood:{model_identity(self.model)}:{self.neutral}:{self.max_tokens}"

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        network: Any = load_model(self.model, device=self.device)
        if not hasattr(network, "generate"):
            raise UserError(f"The model '{self.model}' does not write text.")
        return network, load_tokenizer(self.model)

    def log_likelihoods(self, prompts: Sequence[str], classes: Sequence[str]) -> Array:
        """Log-likelihood of " class" after each prompt, summed over its tokens."""
        _, tokenizer = self._loaded
        options = [tokenizer.encode(f" {name}", add_special_tokens=False) for name in classes]
        longest = max(map(len, options))
        kept = self.max_tokens - longest + 1
        begun = [tokenizer.encode(prompt)[-kept:] for prompt in prompts]
        # names of one token share one row: all but an option's last token is read
        rows = list(dict.fromkeys((*ids, *option[:-1]) for ids in begun for option in options))
        place = {row: index for index, row in enumerate(rows)}
        order = sorted(range(len(rows)), key=lambda index: len(rows[index]))
        scores: dict[int, Tensor] = {}
        for start in range(0, len(rows), self.batch):
            chosen = order[start : start + self.batch]
            logs = self._last_logs([rows[index] for index in chosen], longest)
            for index, log in zip(chosen, logs, strict=True):
                scores[index] = log
        table = np.empty((len(prompts), len(classes)))
        for i, ids in enumerate(begun):
            for j, option in enumerate(options):
                log = scores[place[*ids, *option[:-1]]][-len(option) :]
                table[i, j] = float(log[range(len(option)), option].sum())
        return table

    @torch.inference_mode()
    def _last_logs(
        self, rows: list[tuple[int, ...]], last: int
    ) -> Float[Tensor, "rows last vocabulary"]:
        """Log-probabilities of what follows each row's last tokens; rows are filled at the left."""
        network, tokenizer = self._loaded
        width = max(last, *map(len, rows))
        ids = torch.full((len(rows), width), int(tokenizer.pad_token_id or 0))
        mask = torch.zeros_like(ids)
        for i, row in enumerate(rows):
            ids[i, width - len(row) :] = torch.tensor(row)
            mask[i, width - len(row) :] = 1
        inputs = {
            "input_ids": ids,
            "attention_mask": mask,
            "position_ids": (mask.cumsum(1) - 1).clamp(min=0),
        }
        inputs = {name: value.to(network.device) for name, value in inputs.items()}
        logits = network(**inputs, use_cache=False, logits_to_keep=last).logits[:, -last:]
        return logits.float().log_softmax(-1).cpu()

    def predict(self, task: ChoiceTask, demos: Demos = None) -> list[Choice]:
        """The likeliest class of every item."""
        shown = demos_of_each(task, demos)
        prompts = [task.prompt(index, shown[index]) for index in range(len(task))]
        scores = self.log_likelihoods(prompts, task.classes)
        if self.neutral is not None:
            empty = ChoiceTask(
                [self.neutral], task.classes, task.question, task.item_name, task.answer_name
            )
            blanks = [empty.prompt(0, each) for each in shown]
            unique = list(dict.fromkeys(blanks))
            prior = self.log_likelihoods(unique, task.classes)
            scores = scores - prior[[unique.index(blank) for blank in blanks]]
        return likeliest(scores, task.classes)


class NameSimilarity:
    """The class whose name lies nearest to the item, by the cosine of their encodings.

    This is CLIP's zero-shot rule, for any encoder that puts names and items in one space, such as
    sentence encoders. Demos are not looked at. Confidence is the softmax of the cosines over
    `temperature`.

    Args:
        encoder: the name of a text encoder, as in `load_model`, or a function from texts to
            vectors.
        template: where a name stands in what is encoded, such as "This text is {}."; None: raw
            names, with underscores as they are.
        encode_items: for items other than texts; None: as names.
        temperature: > 0; 0.01 is CLIP's.
        max_length: tokens of an item that are read by a named encoder.

    Source: Radford et al. 2021 (arXiv 2103.00020), section 3.1.

    >>> def vowels(texts):
    ...     return np.array([[text.count(v) + 0.1 for v in "aeiou"] for text in texts])
    >>> model = NameSimilarity(vowels)
    >>> [choice.label for choice in model.predict(ChoiceTask(["papa", "oolong"], ("cat", "dog")))]
    ['cat', 'dog']
    """

    def __init__(
        self,
        encoder: str | Encode = "minilm-l6",
        *,
        template: str | None = None,
        encode_items: Encode | None = None,
        temperature: float = 0.01,
        max_length: int = 256,
        device: str = "auto",
    ) -> None:
        if template is not None and "{}" not in template:
            raise ValueError(f"a template holds {{}} where the name goes, not '{template}'")
        if temperature <= 0:
            raise ValueError(f"temperature is above 0, not {temperature}")
        self.encoder, self.template, self.temperature = encoder, template, temperature
        self.encode_items, self.max_length, self.device = encode_items, max_length, device

    @cached_property
    def fingerprint(self) -> str:
        """Weights and settings."""
        from generality.lab.fingerprint import fingerprint

        named = isinstance(self.encoder, str)
        which = model_identity(str(self.encoder)) if named else self.encoder
        return fingerprint(
            which, self.encode_items, self.template, self.temperature, self.max_length
        )

    @cached_property
    def _encode(self) -> Encode:
        if not isinstance(self.encoder, str):
            return self.encoder
        from generality.lab.encoders import make_encoder

        loaded = make_encoder(self.encoder, max_length=self.max_length, device=self.device)

        def encode(texts: Sequence[Any]) -> Float[np.ndarray, "n dim"]:
            prepared = loaded.prepare(texts)
            parts = [
                loaded.encode(prepared[start : start + 32]) for start in range(0, len(texts), 32)
            ]
            return np.concatenate(parts)

        return encode

    def predict(self, task: ChoiceTask, demos: Demos = None) -> list[Choice]:
        """The nearest class of every item."""
        names = [self.template.format(n) if self.template else n for n in task.classes]
        items = _unit((self.encode_items or self._encode)(task.items))
        return likeliest(items @ _unit(self._encode(names)).T / self.temperature, task.classes)


class ChatChoice:
    """Any `Chat` (an endpoint, a local model, a recorded talk), asked as the paper asks.

    Demos are told as earlier turns. Images are sent as data URLs, which endpoints for multimodal
    models take (needs the extra `vision`). Answers are free text, read by `parse_choice`: whatever
    is not in the format asked for is no answer.

    Args:
        chat: whoever answers.
        max_tokens, temperature, seed: of the answers. The paper leaves the provider's temperature.

    >>> from generality.models import RecordedChat
    >>> chat = RecordedChat(["Answer Choice: [positive]\\nConfidence Score: 0.9\\nReasoning: gem"])
    >>> task = ChoiceTask(["a gem"], ("negative", "positive"), "What is the sentiment?")
    >>> [(choice.label, choice.confidence) for choice in ChatChoice(chat).predict(task)]
    [('positive', 0.9)]
    """

    def __init__(
        self, chat: Chat, *, max_tokens: int = 500, temperature: float = 0.0, seed: int = 0
    ) -> None:
        self.chat = chat
        self.options: dict[str, Any] = {
            "max_tokens": max_tokens,
            "temperature": temperature,
            "seed": seed,
        }

    @property
    def fingerprint(self) -> str:
        """Who answers, and how."""
        return f"chat:{self.chat.fingerprint}:{sorted(self.options.items())}"

    def predict(self, task: ChoiceTask, demos: Demos = None) -> list[Choice]:
        """What was answered about every item, one after another."""
        found = []
        for index, shown in enumerate(demos_of_each(task, demos)):
            messages: list[Any] = []
            for item, label in shown:
                messages += [
                    {"role": "user", "content": _content(item, task.ask(index))},
                    {"role": "assistant", "content": f"Answer Choice: [{label}]"},
                ]
            question: Any = {
                "role": "user",
                "content": _content(task.items[index], task.ask(index)),
            }
            found.append(read(self.chat([*messages, question], **self.options), task.classes))
        return found


def read(text: str, classes: Sequence[str]) -> Choice:
    """An answer in words as a `Choice`."""
    return Choice(parse_choice(text, classes), parse_confidence(text), text)


def picture(item: Any) -> Any:
    """An image of Pillow from one, or from an array (height, width[, 3]) or (3, height, width)."""
    if not isinstance(item, (np.ndarray, torch.Tensor)):
        return item
    pixels = np.asarray(item)
    if pixels.ndim == 3 and pixels.shape[0] in (1, 3):
        pixels = pixels.transpose(1, 2, 0)
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[..., 0]
    if pixels.dtype != np.uint8:
        pixels = np.rint(np.clip(pixels, 0, 1) * 255).astype(np.uint8)
    return import_extra("PIL.Image", "vision").fromarray(pixels).convert("RGB")


def _content(item: Any, question: str) -> str | list[dict[str, Any]]:
    if isinstance(item, str):
        return f"{item}\n\n{question}"
    file = io.BytesIO()
    picture(item).save(file, "PNG")
    url = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
    return [
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "text", "text": question},
    ]


def demos_of_each(task: ChoiceTask, demos: Demos) -> Sequence[Sequence[Demo]]:
    """The demos of every item; ValueError where they are of other classes or another number."""
    if demos is None:
        return [()] * len(task)
    if len(demos) != len(task):
        raise ValueError(f"there are demos for {len(demos)} items, and {len(task)} items")
    if strange := {demo.label for each in demos for demo in each} - set(task.classes):
        raise ValueError(f"demos of classes that the task lacks: {sorted(strange)}")
    return demos


def likeliest(scores: Array, classes: Sequence[str]) -> list[Choice]:
    """The class of the largest score for every item, its softmax as confidence."""
    shares = np.exp(scores - scores.max(1, keepdims=True))
    shares /= shares.sum(1, keepdims=True)
    return [Choice(classes[int(row.argmax())], float(row.max())) for row in shares]


def _unit(vectors: Float[np.ndarray, "n dim"]) -> Float[np.ndarray, "n dim"]:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, 1e-12))
