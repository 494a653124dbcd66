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
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from generality.benchmarks import (
    FewShotTask,
    captioned_images,
    domain_task,
    image_domains,
    news_and_conditions,
)
from generality.claims import Claim, Row, greater, interacts, less
from generality.errors import UserError
from generality.lab import Lab
from generality.measures import accuracy, base_to_new
from generality.models.identity import model_identity
from generality.models.two_towers import encode_either
from generality.models.vision_backbone import image_side
from generality.studies.study import Paper
from generality.training import MetaPlan, PromptSpace, learn_prompt, name_scores, tune_prompt

PAPER = Paper(
    "Gradient-Regulated Meta-Prompt Learning for Generalizable Vision-Language Models",
    arxiv="2303.06571", year=2023,
)  # fmt: skip
FACTORS = ("task", "shots", "steps")

METHODS = ("random", "words", "meta", "meta+regulator", "regulator")


@dataclass(frozen=True)
class Config:
    """Every knob of the study."""

    seeds: int = 5
    encoder: str = "minilm-l6"  # or any BERT-like encoder, or CLIP: hf:org/name, a folder
    images: str | None = None  # folder by domain and class, of which each domain is a task
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


def run(config: Config, lab: Lab) -> Iterator[Row]:
    """Meta-training for every seed, then every task."""
    lab.fetch(config.encoder)
    tasks, texts, features, second = load(config, lab)
    banned = [name for task in tasks.values() for name in task.names]
    space = PromptSpace(
        config.encoder, config.tokens, config.scale, config.rate, config.rank, lab.device
    )
    plan = MetaPlan(
        config.levels, config.queries, config.outer_steps, config.tasks_per_step, config.outer_rate
    )
    for seed in lab.seeds(config.seeds):
        learnt = {
            method: lab.step(
                learn_prompt, space, None if method in ("random", "words") else plan, features,
                texts, init=config.start_words if method == "words" else "random",
                move_start=method != "regulator", regulate="regulator" in method,
                leave_out=banned, second=second, seed=seed,
            )
            for method in config.methods
        }  # fmt: skip
        for name, task in tasks.items():
            for shots in config.shots if name != "conditions" else config.shots[-1:]:
                for row in task_rows(config, lab, space, task, shots, learnt, seed):
                    yield Row(seed=seed, task=name, shots=shots, **row)


def task_rows(
    config: Config, lab: Lab, space: PromptSpace, task: FewShotTask, shots: int,
    learnt: dict[str, Any], seed: int,
) -> Iterator[Row]:  # fmt: skip
    """Every method after each number of steps, beside the names alone."""

    def tune(method: str, support: np.ndarray, steps: tuple[int, ...]) -> np.ndarray:
        return lab.step(
            tune_prompt, space, learnt[method], task.items, task.labels, task.names, task.base,
            support, steps,
        )  # fmt: skip

    many, held = task.draw(64, seed)
    top = tune("random", many[None], (config.ceiling_steps,))
    ceiling = measured(task, top[:, 0], [held])["score"]
    draws = [task.draw(shots, seed, episode) for episode in range(config.episodes)]
    support, tests = np.stack([rows for rows, _ in draws]), [rows for _, rows in draws]
    scores = {method: tune(method, support, config.steps) for method in learnt}
    plain = lab.step(name_scores, space, task.items, task.names)
    scores["zero-shot"] = np.broadcast_to(plain, scores["random"].shape)
    for place, steps in enumerate(config.steps):
        floor = measured(task, scores["random"][place], tests)["score"]
        for method, found in scores.items():
            yield Row(
                method=method, steps=steps, floor=floor, ceiling=ceiling,
                **measured(task, found[place], tests),
                least_cosine=learnt[method]["cosine"] if "regulator" in method else None,
            )  # fmt: skip


def measured(
    task: FewShotTask, scores: np.ndarray, tests: list[np.ndarray]
) -> dict[str, float | None]:
    """Means over episodes: accuracy, or with new classes both accuracies and their mean."""
    pairs = [(found[rows], task.labels[rows]) for found, rows in zip(scores, tests, strict=True)]
    if len(task.base) == len(task.names):
        return {"score": float(np.mean([accuracy(*p) for p in pairs])), "base": None, "new": None}
    found = [base_to_new(*pair, base=task.base) for pair in pairs]
    fields = {"score": "harmonic_mean", "base": "base", "new": "new"}
    return {to: float(np.mean([getattr(f, of) for f in found])) for to, of in fields.items()}


def load(
    config: Config, lab: Lab
) -> tuple[dict[str, FewShotTask], list[str], np.ndarray, np.ndarray | None]:
    """Embedded tasks; the unlabelled texts, their features, and those of the images beside them."""
    if config.images is None:
        tasks, texts = news_and_conditions(
            words=config.words, per_class=config.per_class, unlabelled=config.unlabelled
        )
        embed = functools.partial(lab.embed, config.encoder)
        tasks = {name: replace(t, items=np.array(embed(t.items))) for name, t in tasks.items()}
        return tasks, texts, embed(texts), None
    name, side = config.encoder, image_side(config.encoder)
    see = functools.partial(lab.step, encode_either, name, model_identity(name), lab.device)
    data = image_domains(config.images, layout=config.layout, size=side)
    tasks = {}
    for domain in data.domain_names:
        task = domain_task(data, domain, per_class=config.per_class)
        tasks[domain] = replace(task, items=see(task.items))
    pixels, texts = captioned_images(str(config.captions), size=side, most=config.unlabelled)
    return tasks, texts, see(pixels), see(texts)
