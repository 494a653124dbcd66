"""A learnt prompt in front of class names as a classifier: its start, its tuning, its scores."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from generality.benchmarks.cluster_tasks import Episode, cluster_tasks
from generality.modules import GradientRegulator, SoftPrompt
from generality.training.meta_train import MetaTask, adapt, meta_train


@dataclass(frozen=True)
class PromptSpace:
    """The space of a frozen text encoder, in which items meet class names behind a prompt.

    Attributes:
        encoder: a name as in `load_model`: BERT-like, or CLIP's text side.
        tokens: learnt vectors of the prompt.
        scale: of the cosine in the loss; CLIP's is 100.
        rate: of adapting a prompt, plain gradient descent.
        rank: of the gradient regulator.
        device: the encoder runs on.
    """

    encoder: str
    tokens: int = 4
    scale: float = 20.0
    rate: float = 0.05
    rank: int = 32
    device: str = "cpu"

    def prompt(self, init: str = "random") -> SoftPrompt:
        """The encoder behind a prompt; `init` as in `SoftPrompt`."""
        model, tokenizer = _encoder(self.encoder, self.device)
        return SoftPrompt(model, self.tokens, init=init, tokenizer=tokenizer)

    def token_ids(self, names: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Ids and mask of class names, padded on the right."""
        tokenizer = _encoder(self.encoder, self.device)[1]
        found = tokenizer(list(names), padding=True, padding_side="right", return_tensors="pt")
        return found["input_ids"].to(self.device), found["attention_mask"].to(self.device)

    def regulator(self, width: int, gate: int) -> GradientRegulator:
        """One for prompts of this width and items of `gate` features."""
        return GradientRegulator(width, self.rank, gate_dim=gate).to(self.device)


@dataclass(frozen=True)
class MetaPlan:
    """Which pseudo-tasks a start is learnt from, and for how long.

    Attributes:
        levels: topics, and pseudo-classes of each.
        queries: rows of each class of a pseudo-task.
        steps: outer steps.
        tasks: pseudo-tasks of a step.
        rate: of Adam, for the start and the regulator.
    """

    levels: tuple[int, int] = (20, 5)
    queries: int = 10
    steps: int = 150
    tasks: int = 1
    rate: float = 3e-3


def learn_prompt(
    space: PromptSpace,
    plan: MetaPlan | None,
    features: Float[np.ndarray, "n dim"],
    texts: Sequence[str],
    *,
    init: str = "random",
    move_start: bool = True,
    regulate: bool = False,
    leave_out: Sequence[str] = (),
    second: Float[np.ndarray, "n dim"] | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """A prompt to start from, and a regulator, learnt from unlabelled texts, first order.

    Random starts are the same whatever is learnt from them, one for each seed.

    Args:
        plan: of the pseudo-tasks; None: the start as it is, nothing learnt.
        features: of the unlabelled rows, in the encoder's space.
        texts: theirs, from which pseudo-classes are named.
        init: as in `SoftPrompt`.
        move_start: learn where the prompt starts.
        regulate: learn a regulator of its gradients.
        leave_out: words that may name no pseudo-class: those of the classes to be tested.
        second: features of another view of the same rows, to cluster by both.

    Returns:
        "tokens" (of the prompt, tokens × width), "regulator" (its weights, or None) and "cosine"
        (the least of any regulated gradient with its own in training, or None).

    Source: GRAM (Li et al. 2023, arXiv 2303.06571, section 3.3).

    >>> start = learn_prompt(PromptSpace("minilm-l6"), None, features, [])  # doctest: +SKIP
    >>> start["tokens"].shape  # doctest: +SKIP
    (4, 384)
    """
    device = space.device
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        prompt = space.prompt(init)
        gate = features.shape[1]
        regulator = space.regulator(prompt.tokens.shape[1], gate) if regulate else None
    if plan is None:
        tokens = prompt.tokens.detach().cpu().numpy()
        return {"tokens": tokens, "regulator": None, "cosine": None}
    clusters = cluster_tasks(
        features, second, levels=plan.levels, queries=plan.queries, texts=texts,
        leave_out=leave_out, seed=seed,
    )  # fmt: skip
    vectors = torch.tensor(np.array(features), device=device)

    def sample(step: int) -> MetaTask:
        rng = np.random.default_rng([seed, step])
        return pseudo_task([clusters.sample(rng) for _ in range(plan.tasks)])

    def pseudo_task(episodes: list[Episode]) -> MetaTask:
        count, ways = len(episodes), len(episodes[0].names)
        ids, mask = space.token_ids([name for each in episodes for name in each.names])
        ids, mask = ids.unflatten(0, (count, ways)), mask.unflatten(0, (count, ways))
        parts = [
            vectors[torch.tensor(np.stack([getattr(each, part).ravel() for each in episodes]))]
            for part in ("support", "query")
        ]

        def loss(items: Tensor, tokens: Tensor) -> Tensor:
            labels = torch.arange(ways, device=device).repeat_interleave(items.shape[1] // ways)
            logits = prompt.logits(items, ids, mask, tokens, scale=space.scale)
            return _losses(logits, labels.expand(count, -1))

        support, query = (functools.partial(loss, items) for items in parts)
        return MetaTask(support, query, count, parts[0].mean(1))

    prompt.tokens.requires_grad_(move_start)
    history = meta_train(
        prompt.tokens, regulator, sample, inner_lr=space.rate, outer_steps=plan.steps,
        outer_lr=plan.rate,
    )  # fmt: skip
    weights = None
    if regulator is not None:
        weights = {name: each.cpu().numpy() for name, each in regulator.state_dict().items()}
    return {
        "tokens": prompt.tokens.detach().cpu().numpy(), "regulator": weights,
        "cosine": min(history.cosines),
    }  # fmt: skip


def tune_prompt(
    space: PromptSpace,
    learnt: dict[str, Any],
    items: Float[np.ndarray, "n dim"],
    labels: Int[np.ndarray, " n"],
    names: Sequence[str],
    base: Sequence[int],
    support: Int[np.ndarray, "episodes rows"],
    steps: Sequence[int],
) -> Float[np.ndarray, "stops episodes n classes"]:
    """Scores of every item for every class after each of `steps`, all episodes adapted at once.

    Args:
        learnt: as `learn_prompt` returns it.
        labels: of every item; only those of support rows are looked at.
        names: of the classes, those never tuned on among them.
        base: classes tuned on.
        support: rows that each episode tunes on, of base classes.
        steps: when to score, in steps from 1.

    >>> scores = tune_prompt(space, learnt, items, labels, ("owl", "gull"), (0, 1),
    ...                      np.array([[0, 1]]), steps=(1, 20))  # doctest: +SKIP
    """
    device = space.device
    prompt, vectors = space.prompt(), torch.tensor(items, device=device)
    regulator = None
    if learnt["regulator"] is not None:
        regulator = space.regulator(prompt.tokens.shape[1], vectors.shape[1])
        weights = {name: torch.tensor(each) for name, each in learnt["regulator"].items()}
        regulator.load_state_dict(weights)
    count = len(support)
    ids, mask = space.token_ids(names)
    columns = torch.tensor(base, device=device)
    seen = vectors[torch.tensor(support, device=device)]
    place = {column: where for where, column in enumerate(base)}
    truth = torch.tensor([[place[labels[row]] for row in rows] for rows in support], device=device)
    own, own_mask = (each[columns].expand(count, -1, -1) for each in (ids, mask))

    def loss(tokens: Tensor) -> Tensor:
        return _losses(prompt.logits(seen, own, own_mask, tokens, scale=space.scale), truth)

    start = torch.tensor(learnt["tokens"], device=device).expand(count, -1, -1)
    every, every_mask = (each.expand(count, -1, -1) for each in (ids, mask))
    found = []
    with torch.no_grad():
        path = adapt(
            loss, start, regulator, steps=max(steps), learning_rate=space.rate,
            context=seen.mean(1),
        )  # fmt: skip
        for step, (tokens, _) in enumerate(path, 1):
            if step in steps:
                logits = prompt.logits(vectors.expand(count, -1, -1), every, every_mask, tokens)
                found.append(logits)
    return torch.stack(found).cpu().numpy()


def name_scores(
    space: PromptSpace, items: Float[np.ndarray, "n dim"], names: Sequence[str]
) -> Float[np.ndarray, "n classes"]:
    """100 · cosine of every item with the names alone, as the encoder embeds any text.

    >>> name_scores(PromptSpace("minilm-l6"), items, ("owl", "gull"))  # doctest: +SKIP
    """
    prompt = space.prompt()
    with torch.no_grad():
        vectors, none = torch.tensor(items, device=space.device), prompt.tokens[:0]
        return prompt.logits(vectors, *space.token_ids(names), none).cpu().numpy()


def _losses(logits: Float[Tensor, "tasks n classes"], labels: Int[Tensor, "tasks n"]) -> Tensor:
    """Mean cross-entropy of each task."""
    chosen = logits.log_softmax(-1).gather(-1, labels[..., None])
    return -chosen.mean((1, 2))


@functools.lru_cache(maxsize=2)
def _encoder(name: str, device: str) -> tuple[Any, Any]:
    from generality.models import load_model, load_tokenizer

    return load_model(name, device=device), load_tokenizer(name)
