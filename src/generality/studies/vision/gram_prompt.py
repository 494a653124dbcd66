"""Do a meta-learnt start and regulated gradients make a prompt learn from a few examples?

Protocol (Li et al. 2023, arXiv 2303.06571), with texts in place of images. A frozen encoder embeds
documents; a class is its name behind four learnt vectors, embedded by the same encoder; a document
goes to the class of the highest cosine. From unlabelled reviews of drugs, tweets and editorials,
clustered into pseudo-tasks whose query comes from other topics than their support, a start of the
vectors and a regulator of their gradients are learnt, first order. Then they adapt to two tasks:
news (five sections, 1 and 4 examples of each) and what condition a drug is for (five base classes
tuned with 4 examples, five new ones never seen; the score is the harmonic mean of both
accuracies). Floor: prompt tuning from a random start, by the same steps. Ceiling: the same with 64
examples (or all there are) of each class and more steps. Rows: names without prompt ("zero-shot"),
starts "random", "words", "meta", "meta+regulator", and "regulator" on a random start.

Differences from the paper, each with its effect: a text encoder of 22M parameters on both sides
instead of CLIP (names alone are already good, so less is left to gain; the prompt stands on one
side); about a thousand unlabelled texts instead of image-caption pairs, one view to cluster
(noisier pseudo-classes); two tasks instead of fifteen data sets; twenty steps instead of epochs
(starts matter more); one rate for every method; the regulator has the form of SUPMER, whose code is
public, without its mixup and auxiliary loss, and a linear last layer. Reviews of the tested
conditions are left out of the unlabelled texts, as are the tested names from those of pseudo-
classes. With `images` and `captions` named, the encoder is CLIP, each domain of the folder is a
task and the pairs are what is learnt from, by both views, as in the paper; its visual prompts
(UNIGRAM) are `generality.modules.DualPrompt`, and not part of the study.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from generality.benchmarks import (
    Episode,
    cluster_tasks,
    image_domains,
    load_benchmark,
    load_images,
    read_rows,
    stratified,
)
from generality.claims import Claim, Row, greater, interacts, less
from generality.errors import UserError, unknown
from generality.estimators import MetaTask, adapt, meta_train
from generality.lab import Lab
from generality.measures import accuracy, base_to_new
from generality.models.identity import model_identity
from generality.models.vision_backbone import image_side
from generality.modules import GradientRegulator, SoftPrompt
from generality.studies.study import Paper

PAPER = Paper(
    "Gradient-Regulated Meta-Prompt Learning for Generalizable Vision-Language Models",
    arxiv="2303.06571", year=2023,
)  # fmt: skip

SECTIONS = ("business", "entertainment", "politics", "sports", "tech")  # labels of bbc, in order
METHODS = ("random", "words", "meta", "meta+regulator", "regulator")


@dataclass(frozen=True)
class Config:
    """Every knob of the study."""

    seeds: int = 5
    encoder: str = "minilm-l6"  # or any BERT-like encoder, or CLIP: hf:org/name, a folder
    images: str | None = (
        None  # folder of images by domain and class, of which each domain is a task
    )
    layout: str | None = None  # of the folder, where it is a public set's
    captions: str | None = None  # table of unlabelled images (column image) and texts (text)
    methods: tuple[str, ...] = METHODS
    words: int = 40  # most words of a document
    unlabelled: int = 400  # most texts of each of the three sources
    levels: tuple[int, int] = (20, 5)  # topics, pseudo-classes of each
    outer_steps: int = 150
    tasks_per_step: int = 1
    queries: int = 10  # of each class of a pseudo-task
    outer_rate: float = 3e-3  # Adam
    rate: float = 0.05  # of the prompt; chosen on pseudo-tasks, where 0.5 overshoots at first
    rank: int = 32
    tokens: int = 4
    scale: float = 20.0  # of the cosine
    start_words: str = "a text about the"
    shots: tuple[int, ...] = (1, 4)  # of news; conditions have the last of them
    steps: tuple[int, ...] = (1, 20)  # when the adapted prompt is scored
    episodes: int = 3  # draws of the support within a seed
    per_class: int = 104  # most labelled documents of a class; at most 64 are learnt from
    ceiling_steps: int = 30

    def __post_init__(self) -> None:
        for method in self.methods:
            if method not in METHODS:
                raise UserError(f"methods are among {', '.join(METHODS)}, not {method}.")
        if (self.images is None) != (self.captions is None):
            raise UserError("images to test on and captions to learn from go together.")
        if "random" not in self.methods or not self.shots or min(*self.steps, *self.shots, 9) < 1:
            raise UserError("Keep the method random, the floor; steps and shots are at least 1.")


SCALES = {
    "smoke": Config(
        seeds=2, methods=("random", "meta+regulator"), words=8, unlabelled=60, levels=(3, 5),
        outer_steps=2, tasks_per_step=1, shots=(1,), steps=(1, 2), episodes=1, per_class=12,
        ceiling_steps=2,
    ),
    "small": Config(),
    "full": Config(
        encoder="hf:openai/clip-vit-base-patch16", images="PACS", layout="PACS",
        captions="captions.csv", scale=100.0, rate=0.002, unlabelled=100_000, outer_steps=2000,
        tasks_per_step=8, shots=(1, 2, 4, 8, 16), steps=(1, 10, 50, 200), episodes=10,
        per_class=1000, ceiling_steps=200,
    ),
}  # fmt: skip

NEWS = {"task": "news"}
LAST = {"steps": 20}
ONE, FOUR = {**NEWS, **LAST, "shots": 1}, {**NEWS, **LAST, "shots": 4}
CONDITIONS = {"task": "conditions", **LAST}
CLAIMS = (
    Claim("From one example, a meta-learnt start beats a random one",
          greater("meta", "random", where=ONE)),
    Claim("It beats a start from words too", greater("meta", "words", where=ONE)),
    Claim("From four examples, a meta-learnt start beats a random one",
          greater("meta", "random", where=FOUR)),
    Claim("Start and regulator together beat the names alone, from one example",
          greater("meta+regulator", "zero-shot", where=ONE)),
    Claim("On another domain the regulator adds to the start",
          greater("meta+regulator", "meta", where={**NEWS, **LAST})),
    Claim("The regulator helps a random start as well",
          greater("regulator", "random", where={**NEWS, **LAST})),
    Claim("A meta-learnt start saves steps: its lead is larger after one than after twenty",
          interacts(("method", "meta", "random"), ("steps", 1, 20), where=NEWS)),
    Claim("Tuning from a random start costs accuracy on classes it never saw",
          less("random", "zero-shot", on="new", where=CONDITIONS)),
    Claim("Start and regulator lose less there",
          greater("meta+regulator", "random", on="new", where=CONDITIONS)),
    Claim("Start and regulator raise the harmonic mean of base and new classes",
          greater("meta+regulator", "random", where=CONDITIONS)),
)  # fmt: skip


@dataclass(frozen=True)
class Task:
    """Documents as features, their classes, and which classes are tuned on."""

    items: np.ndarray
    labels: np.ndarray
    names: tuple[str, ...]
    base: tuple[int, ...]  # columns that are tuned on; all of them where none is new


def run(config: Config, lab: Lab) -> Iterator[Row]:
    """Meta-training for every seed, then both tasks."""
    lab.fetch(config.encoder)
    if config.images is None:
        tasks, unlabelled = load_tasks(config, lab)
        features, second = lab.embed(config.encoder, unlabelled), None
    else:
        tasks, unlabelled, features, second = load_pairs(config, lab)
    banned = [name for task in tasks.values() for name in task.names]
    for seed in lab.seeds(config.seeds):
        learnt = {
            method: lab.step(
                learn, config, method, features, unlabelled, banned, seed, lab.device, second
            )
            for method in config.methods
        }
        for name, task in tasks.items():
            for shots in config.shots if name != "conditions" else config.shots[-1:]:
                yield from task_rows(config, lab, name, task, shots, learnt, seed)


def task_rows(
    config: Config, lab: Lab, name: str, task: Task, shots: int, learnt: dict[str, Any], seed: int
) -> Iterator[Row]:
    """Every method after each number of steps, beside the names alone."""
    splits = [split(task, shots, seed, episode) for episode in range(config.episodes)]
    many, held = split(task, 64, seed, 0)
    top = lab.step(
        tune, config, learnt["random"], task, many[None], (config.ceiling_steps,), lab.device
    )
    ceiling = measured(task, top[:, 0], [held])["score"]
    plain = lab.step(zero_shot, config, task, lab.device)
    support = np.stack([rows for rows, _ in splits])
    scores = {
        method: lab.step(tune, config, found, task, support, config.steps, lab.device)
        for method, found in learnt.items()
    }
    scores["zero-shot"] = np.broadcast_to(plain, scores["random"].shape)
    tests = [rows for _, rows in splits]
    for place, steps in enumerate(config.steps):
        floor = measured(task, scores["random"][place], tests)["score"]
        for method, found in scores.items():
            yield Row(
                method=method, seed=seed, task=name, shots=shots, steps=steps, floor=floor,
                ceiling=ceiling, **measured(task, found[place], tests),
                least_cosine=learnt[method]["cosine"] if "regulator" in method else None,
            )  # fmt: skip


def measured(task: Task, scores: np.ndarray, tests: list[np.ndarray]) -> dict[str, float | None]:
    """Means over episodes: accuracy, or with new classes both accuracies and their mean."""
    pairs = [(found[rows], task.labels[rows]) for found, rows in zip(scores, tests, strict=True)]
    if len(task.base) == len(task.names):
        return {"score": float(np.mean([accuracy(*p) for p in pairs])), "base": None, "new": None}
    found = [base_to_new(*pair, base=task.base) for pair in pairs]
    fields = {"score": "harmonic_mean", "base": "base", "new": "new"}
    return {to: float(np.mean([getattr(f, of) for f in found])) for to, of in fields.items()}


def split(task: Task, shots: int, seed: int, episode: int) -> tuple[np.ndarray, np.ndarray]:
    """Support rows of the classes tuned on, as many of each, and test rows of all classes.

    A class is halved at random (at most 64 to learn from), the same way for every `shots`.
    """
    rng = np.random.default_rng([seed, episode])
    support, test = [], []
    for label in range(len(task.names)):
        rows = rng.permutation(np.flatnonzero(task.labels == label))
        pool = min(64, len(rows) // 2)
        support += list(rows[: min(shots, pool)]) if label in task.base else []
        test += list(rows[pool:])
    return np.array(support), np.array(test)


def load_tasks(config: Config, lab: Lab) -> tuple[dict[str, Task], list[str]]:
    """The two labelled tasks, and the unlabelled texts, which hold nothing of their classes."""

    def cut(texts: list[str], most: int) -> list[str]:
        return [" ".join(text.split()[: config.words]) for text in texts[:most]]

    news, reviews = columns("bbc"), columns("drug_reviews")
    found = Counter(condition for condition in reviews["condition"] if condition)
    conditions = sorted(found, key=lambda condition: (-found[condition], condition))[:10]
    # the data cuts a final r: "Bipolar Disorde"
    names = [c.replace("Disorde", "Disorder").replace(", Type 2", "") for c in conditions]
    sources = {
        "news": (news["text"], news["label"], range(5), SECTIONS, range(5)),
        "conditions": (reviews["text"], reviews["condition"], conditions, names, range(0, 10, 2)),
    }
    tasks = {}
    for task, (texts, labels, values, called, base) in sources.items():
        kept: list[str] = []
        classes: list[int] = []
        for column, value in enumerate(values):
            own = [text for text, label in zip(texts, labels, strict=True) if label == value]
            kept += cut(own, config.per_class)
            classes += [column] * min(len(own), config.per_class)
        items = np.array(lab.embed(config.encoder, kept))
        tasks[task] = Task(items, np.array(classes), tuple(called), tuple(base))
    pairs = zip(reviews["text"], reviews["condition"], strict=True)
    unlabelled = cut([text for text, of in pairs if of and of not in conditions], config.unlabelled)
    for domain in ("tweets", "nyt"):
        unlabelled += cut(columns("sentiment", domain=domain)["text"], config.unlabelled)
    return tasks, unlabelled


def load_pairs(
    config: Config, lab: Lab
) -> tuple[dict[str, Task], list[str], np.ndarray, np.ndarray]:
    """A task of every domain of the folder; texts of the unlabelled pairs, and both features."""
    side = image_side(config.encoder)
    see = functools.partial(lab.step, seen, config.encoder, model_identity(config.encoder))
    data = image_domains(str(config.images), layout=config.layout, size=side)
    classes = tuple(name.replace("_", " ") for name in data.label_names)
    tasks = {}
    for domain in data.domain_names:
        rows = data.rows(domain)
        most = min(len(rows), config.per_class * len(classes))
        rows = rows[stratified(data.labels[rows], most, 0)]
        items = see(lab.device, np.asarray(data.inputs)[rows])
        base = tuple(range(0, len(classes), 2))
        tasks[domain] = Task(items, data.labels[rows], classes, base)
    pairs = read_rows(str(config.captions))
    for column in ("image", "text"):
        if column not in pairs.column_names:
            raise unknown("column", column, pairs.column_names)
    texts = [str(text) for text in pairs["text"][: config.unlabelled]]
    folder = Path(str(config.captions)).expanduser().parent
    pixels = load_images([folder / path for path in pairs["image"][: len(texts)]], side)
    return tasks, texts, see(lab.device, pixels), see(lab.device, texts)


def seen(model: str, identity: str, device: str, items: Any) -> np.ndarray:
    """Images or texts in the space of a model that takes both."""
    from generality.models import TwoTowers

    towers = TwoTowers(model, device=device)
    return towers.encode_texts(items) if isinstance(items, list) else towers.encode_images(items)


def columns(name: str, **options: Any) -> dict[str, list[Any]]:
    """All rows of a benchmark, whichever split they are in."""
    splits = load_benchmark(name, **options).splits
    both = splits["train"].to_dict(), splits["test"].to_dict()
    return {column: both[0][column] + both[1][column] for column in both[0]}


@functools.lru_cache(maxsize=2)
def encoder(name: str, device: str) -> tuple[Any, Any]:
    """Model and tokenizer."""
    from generality.models import load_model, load_tokenizer

    return load_model(name, device=device), load_tokenizer(name)


def prompted(config: Config, device: str, *, init: str = "random") -> SoftPrompt:
    """The encoder behind a prompt."""
    model, tokenizer = encoder(config.encoder, device)
    return SoftPrompt(model, config.tokens, init=init, tokenizer=tokenizer)


def token_ids(config: Config, device: str, names: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask of class names, padded on the right."""
    tokenizer = encoder(config.encoder, device)[1]
    found = tokenizer(names, padding=True, padding_side="right", return_tensors="pt").to(device)
    return found["input_ids"], found["attention_mask"]


def learn(
    config: Config, method: str, features: np.ndarray, texts: list[str], banned: list[str],
    seed: int, device: str, second: np.ndarray | None = None,
) -> dict[str, Any]:  # fmt: skip
    """A method's start and regulator. Random starts are the same for all methods of a seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        init = config.start_words if method == "words" else "random"
        prompt = prompted(config, device, init=init)
        dim = prompt.tokens.shape[1]
        regulator = None
        if "regulator" in method:
            regulator = GradientRegulator(dim, config.rank, gate_dim=features.shape[1]).to(device)
    found: dict[str, Any] = {"cosine": None, "loss": None, "regulator": None}
    if method in ("random", "words"):
        return found | {"tokens": prompt.tokens.detach().cpu().numpy()}
    clusters = cluster_tasks(
        features, second, levels=config.levels, queries=config.queries, texts=texts,
        leave_out=banned, seed=seed,
    )  # fmt: skip
    vectors = torch.tensor(np.array(features), device=device)

    def sample(step: int) -> MetaTask:
        rng = np.random.default_rng([seed, step])
        return pseudo_task([clusters.sample(rng) for _ in range(config.tasks_per_step)])

    def pseudo_task(episodes: list[Episode]) -> MetaTask:
        count, ways = len(episodes), len(episodes[0].names)
        ids, mask = token_ids(config, device, [n for each in episodes for n in each.names])
        ids, mask = ids.unflatten(0, (count, ways)), mask.unflatten(0, (count, ways))
        parts = [
            vectors[torch.tensor(np.stack([getattr(each, part).ravel() for each in episodes]))]
            for part in ("support", "query")
        ]

        def loss(items: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
            labels = torch.arange(ways, device=device).repeat_interleave(items.shape[1] // ways)
            logits = prompt.logits(items, ids, mask, tokens, scale=config.scale)
            return losses(logits, labels.expand(count, -1))

        support, query = (functools.partial(loss, items) for items in parts)
        return MetaTask(support, query, count, parts[0].mean(1))

    prompt.tokens.requires_grad_(method != "regulator")
    history = meta_train(
        prompt.tokens, regulator, sample, inner_lr=config.rate, outer_steps=config.outer_steps,
        outer_lr=config.outer_rate,
    )  # fmt: skip
    weights = None
    if regulator is not None:
        weights = {name: each.cpu().numpy() for name, each in regulator.state_dict().items()}
    return {
        "tokens": prompt.tokens.detach().cpu().numpy(), "regulator": weights,
        "cosine": min(history.cosines), "loss": history.losses,
    }  # fmt: skip


def losses(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of each task."""
    chosen = logits.log_softmax(-1).gather(-1, labels[..., None])
    return -chosen.mean((1, 2))


def tune(
    config: Config, learnt: dict[str, Any], task: Task, support: np.ndarray,
    steps: tuple[int, ...], device: str,
) -> np.ndarray:  # fmt: skip
    """Scores of every document for every class after each of `steps`, episodes adapted at once."""
    prompt = prompted(config, device)
    items = torch.tensor(task.items, device=device)
    regulator = None
    if learnt["regulator"] is not None:
        dim = prompt.tokens.shape[1]
        regulator = GradientRegulator(dim, config.rank, gate_dim=items.shape[1]).to(device)
        weights = {name: torch.tensor(each) for name, each in learnt["regulator"].items()}
        regulator.load_state_dict(weights)
    count = len(support)
    ids, mask = token_ids(config, device, list(task.names))
    base = torch.tensor(task.base, device=device)
    seen = items[torch.tensor(support, device=device)]
    place = {column: where for where, column in enumerate(task.base)}
    labels = torch.tensor([[place[task.labels[row]] for row in rows] for rows in support])
    own, own_mask = (each[base].expand(count, -1, -1) for each in (ids, mask))

    def loss(tokens: torch.Tensor) -> torch.Tensor:
        logits = prompt.logits(seen, own, own_mask, tokens, scale=config.scale)
        return losses(logits, labels.to(device))

    start = torch.tensor(learnt["tokens"], device=device).expand(count, -1, -1)
    every, every_mask = (each.expand(count, -1, -1) for each in (ids, mask))
    found = []
    with torch.no_grad():
        path = adapt(
            loss, start, regulator, steps=max(steps), learning_rate=config.rate,
            context=seen.mean(1),
        )  # fmt: skip
        for step, (tokens, _) in enumerate(path, 1):
            if step in steps:
                found.append(prompt.logits(items.expand(count, -1, -1), every, every_mask, tokens))
    return torch.stack(found).cpu().numpy()


def zero_shot(config: Config, task: Task, device: str) -> np.ndarray:
    """Cosine of every document with the names alone, as the encoder embeds any text."""
    prompt = prompted(config, device)
    with torch.no_grad():
        none = prompt.tokens[:0]
        return prompt.logits(
            torch.tensor(task.items, device=device),
            *token_ids(config, device, list(task.names)), none,
        ).cpu().numpy()  # fmt: skip
