"""How well do zero-shot models that choose among named classes stand shifts, and do examples help?

Protocol (Han et al. 2023, arXiv 2312.07424). Cases are drawn for every domain and class; models
choose one of the full list of classes; accuracy is by domain, with disturbed cases beside clean
ones and with a few labelled examples of a source domain before the question. Two panels, both with
fixed models. Sentiment of four kinds of texts: a language model by the likelihood of the options
("lm", and "lm-calibrated" with its liking for a class taken out), nearness of class names
("names", "names-template", the analogue of CLIP) and a linear probe on one source domain. Digits in
four styles: the nearest class mean of image features from each source style. Floor: for texts the
likelier class, for images chance. Ceiling: a probe trained on other cases of the target.

With `--set clip=hf:openai/clip-vit-base-patch16 --set folder=PACS --set layout=PACS` the images are
yours and CLIP takes part ("clip", raw names as in the paper, and "clip-template").

Differences from the paper, each with its effect: no multimodal chat model runs here, so a small
language model stands for GPT-4V and a sentence encoder for CLIP, and claims about the models'
ranks are about these; answers are scored by likelihood and none is unanswered; digits and short
texts in place of natural and medical images; typing errors stand for noise in texts, and there is
no style transfer by diffusion. Examples are never of the target domain, as in the paper.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from generality.agents import (
    clip_ids,
    demos_of_next_domain,
    known_and_asked,
    likeliest_ids,
    nearest_name_ids,
    perturb,
    stratified_cases,
)
from generality.benchmarks import MultiDomain, digit_domains, folder_or_digits, sentiment_domains
from generality.claims import Claim, Row, greater, monotone
from generality.errors import UserError, unknown
from generality.estimators import logistic_ids, nearest_mean_ids, own_domain_ids
from generality.lab import Lab
from generality.measures import ShiftReport
from generality.models.identity import model_identity
from generality.models.vision_backbone import VisionBackbone, encode_images
from generality.studies.study import Paper

PAPER = Paper(
    "How Well Does GPT-4V(ision) Adapt to Distribution Shifts? A Preliminary Investigation",
    arxiv="2312.07424", year=2023,
)  # fmt: skip
FACTORS = ("panel", "source", "target", "cases", "shifted", "shots", "disturbance", "amount")


@dataclass(frozen=True)
class Config:
    """Every knob of the study."""

    seeds: int = 5  # draws of cases, examples and noise
    panels: tuple[str, ...] = ("texts", "images")
    lm: str | None = "smollm2-135m"  # None leaves the language model out
    lm_seeds: int = 3
    lm_per_cell: int = 5  # cases of a domain and class for the language model
    shots: tuple[int, ...] = (0, 2)  # examples before the question
    encoder: str = "minilm-l6"
    per_cell: int = 60  # cases of a domain and class
    train_per_cell: int = 150  # training rows of a domain and class, for probes and examples
    characters: int = 160  # longest text taken
    source: str = "movie"  # of the probe; examples come from the domain after the case's
    typos: tuple[float, ...] = (0.0, 0.05, 0.1)  # share of letters
    backbone: str = "efficientnet-lite0"
    styles: tuple[str, ...] = ("mnist", "uci", "fonts", "mnist_over_photos")
    means_per_class: int = 10  # labelled source images for each class mean
    images_per_cell: int = 4  # cases of a style and digit
    pixels: int = 64  # side of an image as the backbone sees it
    folder: str | None = None  # your images as domain/class/image, in place of digits
    layout: str | None = None  # of the folder, where it is a public set's: PACS, VLCS, …
    clip: str | None = None  # images and class names in one space: hf:openai/clip-vit-base-patch16
    clip_template: str = "a photo of a {}"  # beside raw names, as the paper's
    noise: tuple[float, ...] = (0.0, 0.01, 0.05, 0.1)  # variance

    def __post_init__(self) -> None:
        for panel in self.panels:
            if panel not in ("texts", "images"):
                raise unknown("panel", panel, ("texts", "images"))
        if self.lm_per_cell > self.per_cell or 0.0 not in (*self.typos, *self.noise):
            raise UserError("The language model's cases are among all cases; 0 is an amount.")


SCALES = {
    "smoke": Config(
        seeds=2, lm=None, per_cell=6, lm_per_cell=1, train_per_cell=12, typos=(0.0, 0.1),
        styles=("mnist", "uci"), means_per_class=1, images_per_cell=1, pixels=32, noise=(0.0, 0.1),
    ),
    "small": Config(),
    "full": Config(
        lm="hf:Qwen/Qwen2.5-7B-Instruct", lm_seeds=5, lm_per_cell=60, shots=(0, 2, 4),
        train_per_cell=1000, characters=400, means_per_class=20, images_per_cell=20, pixels=224,
        clip="hf:openai/clip-vit-base-patch16",
    ),
}  # fmt: skip

CLEAN, TEXTS, IMAGES = {"amount": 0.0}, {"panel": "texts"}, {"panel": "images"}
ASKED = {**TEXTS, **CLEAN, "cases": "lm", "shots": 0}
OFF_SOURCE = {**TEXTS, "shots": 0, "cases": "all", "shifted": True}
CLAIMS = (
    Claim(
        "A language model asked in words beats nearness of class names",
        greater("lm", "names", where=ASKED),
        paper_says="GPT-4V above CLIP on most natural sets",
    ),
    Claim(
        "It has half or more of the cases right that nearness of names gets wrong",
        greater("lm", 0.5, on="rescued", where=ASKED),
        paper_says="GPT-4V is often right where CLIP fails",
    ),
    Claim(
        "Two examples of another domain raise its accuracy",
        greater(2, 0, by="shots", where={**TEXTS, **CLEAN, "cases": "lm", "method": "lm"}),
        paper_says="in-context examples of the source help on the target",
    ),
    Claim(
        "A template around the class names helps nearness of names",
        greater("names-template", "names", where={**OFF_SOURCE, **CLEAN}),
    ),
    Claim(
        "A probe trained on one source domain beats nearness of names elsewhere",
        greater("probe", "names", where={**OFF_SOURCE, **CLEAN}),
    ),
    Claim(
        "Typing errors cost nearness of names accuracy",
        monotone("amount", direction="decreasing", where={**OFF_SOURCE, "method": "names"}),
    ),
    Claim(
        "Noise costs class means of image features accuracy on other styles",
        monotone("amount", direction="decreasing", where={**IMAGES, "shifted": True}),
        paper_says="Gaussian noise lowers every model",
    ),
    Claim(
        "Class means score lower on other styles than on their own",
        greater("class-means", 0.0, on="lost", where={**IMAGES, **CLEAN, "shifted": True}),
    ),
)  # fmt: skip


def run(config: Config, lab: Lab) -> Iterator[Row]:
    """Rows of every panel, seed, method, number of examples, disturbance and domain."""
    for seed in lab.seeds(config.seeds):
        if "texts" in config.panels:
            yield from texts(config, lab, seed)
        if "images" in config.panels:
            yield from images(config, lab, seed)


def texts(config: Config, lab: Lab, seed: int) -> Iterator[Row]:
    """Sentiment of the test rows; examples and probes come from the training rows."""
    train, held = (sentiment_domains(split=split) for split in ("train", "test"))
    train, held = (
        part.take([len(text) <= config.characters for text in part.inputs])
        for part in (train, held)
    )
    train = train.take(stratified_cases(train, per_cell=config.train_per_cell, seed=seed))
    cases = held.take(stratified_cases(held, per_cell=config.per_cell, seed=seed))
    few = stratified_cases(cases, per_cell=config.lm_per_cell, seed=seed)
    named = {"names": None, "names-template": "This text is {}."}
    known = np.asarray(lab.embed(config.encoder, train.inputs, max_length=64))
    source = train.rows(config.source)
    for amount in config.typos:
        asked = list(perturb(cases.inputs, "typos", amount, seed=seed))
        seen = np.asarray(lab.embed(config.encoder, asked, max_length=64))
        said = {
            name: lab.step(
                nearest_name_ids, config.encoder, model_identity(config.encoder), template,
                seen, cases.label_names,
            )
            for name, template in named.items()
        }  # fmt: skip
        said["probe"] = lab.step(logistic_ids, known[source], train.labels[source], seen)
        best = lab.step(own_domain_ids, replace(train, inputs=known), replace(cases, inputs=seen))
        factors = {"seed": seed, "panel": "texts", "disturbance": "typos", "amount": amount}
        extra = {"shots": 0, "cases": "all"}
        yield from rows_of(cases, said, best, config.source, {**factors, **extra})
        if config.lm is None or seed >= config.lm_seeds:
            continue
        part = cases.take(few)
        few_said = {name: np.asarray(labels)[few] for name, labels in said.items()}
        for shots in config.shots if amount == 0 else config.shots[:1]:
            demos = demos_of_next_domain(train, part, shots, seed=seed)
            answers = lab.step(
                likeliest_ids, config.lm, model_identity(config.lm),
                [asked[i] for i in few], part.label_names, demos,
            )  # fmt: skip
            also = few_said if shots == 0 else {}
            extra = {"shots": shots, "cases": "lm"}
            yield from rows_of(
                part, {**answers, **also}, best[few], config.source, {**factors, **extra},
                reference=few_said["names"],
            )  # fmt: skip


def images(config: Config, lab: Lab, seed: int) -> Iterator[Row]:
    """Digits of every style, or a folder's images, by class means from each; by CLIP if named."""
    per_cell = config.images_per_cell + config.means_per_class
    if config.folder is None:
        drawn = digit_domains(
            config.styles, size=config.pixels, per_domain=20 * per_cell, seed=seed
        )
    else:
        drawn = folder_or_digits(config.folder, layout=config.layout, size=config.pixels)
    parts = known_and_asked(drawn, config.means_per_class, config.images_per_cell, seed=seed)
    shown, cases = (replace(p, inputs=np.asarray(p.inputs, np.float32)) for p in parts)
    lab.fetch(config.backbone)
    network = VisionBackbone(config.backbone).to(lab.device).eval()

    def features(pixels: Any) -> np.ndarray:
        found: np.ndarray = lab.step(encode_images, network, np.asarray(pixels))
        return found

    known = features(shown.inputs)
    for amount in config.noise:
        asked = np.asarray(perturb(cases.inputs, "gaussian_noise", amount, seed=seed))
        seen = features(asked)
        best = lab.step(own_domain_ids, replace(shown, inputs=known), replace(cases, inputs=seen))
        factors = {
            "seed": seed, "panel": "images", "disturbance": "noise", "amount": amount, "shots": 0,
            "cases": "all",
        }  # fmt: skip
        for style in drawn.domain_names:
            rows = shown.rows(style)
            means = lab.step(nearest_mean_ids, known[rows], shown.labels[rows], seen)
            said = {"class-means": means}
            yield from rows_of(cases, said, best, style, {**factors, "source": style})
        if config.clip is not None:
            lab.fetch(config.clip)
            identity = model_identity(config.clip)
            said = {
                name: lab.step(clip_ids, config.clip, identity, template, asked, drawn.label_names)
                for name, template in (("clip", None), ("clip-template", config.clip_template))
            }
            yield from rows_of(cases, said, best, None, factors)


def rows_of(
    cases: MultiDomain, said: dict[str, Any], best: np.ndarray, source: str | None,
    factors: dict[str, Any], reference: Any = None,
) -> Iterator[Row]:  # fmt: skip
    """A row for every model and domain, from a `ShiftReport` of all; zero-shot has no source."""
    names = [cases.domain_names[i] for i in cases.domains]
    everyone = {**said, "_best": best, **({} if reference is None else {"_names": reference})}
    answers = {model: list(np.asarray(labels)) for model, labels in everyone.items()}
    report = ShiftReport(cases.labels, answers, names)
    table: dict[Any, dict[Any, Any]] = {
        (cell["model"], cell["domain"]): cell for cell in report.by("domain").to_dict("records")
    }
    failed = reference is not None and bool((np.asarray(reference) != cases.labels).any())
    rescued = {m: report.rescue_rate(m, "_names") if failed else None for m in said}
    for model in said:
        for domain in cases.domain_names:
            if not len(cases.rows(domain)):  # a folder's domain with too few images
                continue
            cell, mine = table[model, domain], cases.labels[cases.rows(domain)]
            yield Row(
                method=model, score=float(cell["accuracy"]),
                floor=float(np.bincount(mine).max() / len(mine)),
                ceiling=float(table["_best", domain]["accuracy"]),
                target=domain, shifted=domain != source,
                lost=None
                if source is None
                else float(table[model, source]["accuracy"] - cell["accuracy"]),
                low=float(cell["low"]), high=float(cell["high"]),
                rescued=rescued[model],
                **factors,
            )  # fmt: skip
