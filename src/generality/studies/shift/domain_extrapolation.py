"""Domain extrapolation: do training domains made up from their description help on unseen ones?

Protocol ("Beyond Finite Data", arXiv 2403.05523). Where only one or two domains are at hand,
further ones are described, examples of them are made, and plain training takes them as more
sources. Every arm has the same number of training examples: a gain from many made-up domains is
not one from more data. Floor: plain training on the real source alone (repeated up to that number).
Ceiling: trained on the target's own training part. Images: digits, of which made-up domains are
rendered by a program that draws typeface, colours, background, wear and perspective. Texts:
sentiment, whose domains and sentences a small language model writes.

Differences from the paper, each with its effect: no large language model and no diffusion at
`small`, so the images' domains are drawn from a program's parameters (they know what a digit is but
nothing of the targets) and the texts are a 135M model's, expected to be poor: a negative control.
Small networks from scratch. `full` asks a chat model of the user's for domains and prompts and a
diffusion model for images, on a folder of images; it does not filter them (`agreement_filter`
with CLIP does).
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from generality.benchmarks import MultiDomain, folder_or_digits, sentiment_domains
from generality.claims import Claim, Row, greater, interacts, monotone
from generality.errors import UserError
from generality.estimators import made_text_probe
from generality.lab import Lab, TrainConfig
from generality.measures import accuracy, domain_overlap
from generality.models import LocalChat, image_network
from generality.selection import (
    DomainSpec,
    MadeImages,
    depict_domains,
    depict_plainly,
    digit_specs,
    enough_for,
    first_domains,
    matched_budget,
    mixup_examples,
    render_digits,
    template_reviews,
    written_reviews,
)
from generality.selection.made_reviews import REVIEWED
from generality.studies.study import Paper

PAPER = Paper(
    "Beyond Finite Data: Towards Data-free Out-of-distribution Generalization via Extrapolation",
    arxiv="2403.05523",
    year=2024,
)
FACTORS = ("task", "source", "target", "level", "domains", "alone", "last")


@dataclass(frozen=True)
class Config:
    """Every knob of the study."""

    data_path: str | None = None  # a folder of images; None: digits
    layout: str | None = None  # of the folder, such as "PACS"
    sources: tuple[str, ...] = ("uci", "uci+mnist")  # trained on; others are targets
    per_domain: int | None = 1500  # real images of each domain; None: all
    test: int = 500  # of them, drawn by the seed, for the test
    size: int = 28  # side of the images, pixels
    real: int = 1000  # real images of an arm that has made-up ones too
    total: int = 3000  # images of every arm
    domains: tuple[int, ...] = (1, 4, 16)  # made-up domains
    seeds: int = 5
    epochs: float = 6
    batch_size: int = 32
    learning_rate: float = 3e-3  # of Adam, constant
    width: int = 16  # channels of the network's first block
    backbone: str = "tiny"  # "tiny": three convolutions from scratch; else a pretrained ResNet
    mixup: float = 0.2  # both parameters of its Beta distribution
    pipeline: str | None = None  # of diffusers; None: the digits' renderer
    guidance: float = 7.5  # of the pipeline; distilled ones such as sd-turbo want 0
    denoising: int | None = None  # its steps; None: its own number
    chat: str | None = "smollm2-135m"  # writes texts (and prompts); None: no language model
    text_seeds: int = 4  # at most `seeds`; 0: no texts
    text_real: int = 300  # texts of the source
    text_total: int = 400  # texts of every arm
    text_test: int = 300  # of each target
    text_domains: int = 2  # made up by the language model
    text_per_class: int = 4  # sentences asked for in each domain and class
    max_tokens: int = 60  # of an answer

    def __post_init__(self) -> None:
        if not self.domains or self.seeds < 1 or self.real > self.total:
            raise UserError("There must be domains and seeds, and total is at least real.")
        if self.data_path and not self.pipeline:
            raise UserError("Images of your own need a text-to-image model: --set pipeline=…")


SCALES = {
    "smoke": Config(
        per_domain=60, test=30, size=16, real=30, total=60, domains=(1, 3), seeds=2, epochs=2,
        batch_size=16, width=4, chat=None, text_seeds=1, text_real=40, text_total=60, text_test=20,
    ),
    "small": Config(),
    "full": Config(
        data_path="PACS", layout="PACS", sources=("photo", "photo+art_painting+cartoon"),
        per_domain=None, test=300, size=224, real=1000, total=6000, domains=(1, 4, 16), seeds=3,
        batch_size=32, learning_rate=5e-5, backbone="hf:microsoft/resnet-50",
        pipeline="stabilityai/sd-turbo", guidance=0.0, denoising=1,
        chat="hf:Qwen/Qwen2.5-7B-Instruct", text_seeds=3, text_domains=16, text_per_class=16,
        max_tokens=512,
    ),
}  # fmt: skip

IMAGE = {"task": "image", "alone": True}
MOST = {**IMAGE, "level": ["none", "most"]}
CLAIMS = (
    Claim("From one source, made-up domains raise accuracy on others",
          greater("extrapolated", "erm", where=MOST)),
    Claim("So they do from two sources",
          greater("extrapolated", "erm", where={**MOST, "alone": False})),
    Claim("The gain is larger from one source than from two",
          interacts(("method", "extrapolated", "erm"), ("alone", True, False),
                    where={"task": "image", "level": ["none", "most"], "last": True})),
    Claim("Made-up domains do more than mixing real examples",
          greater("extrapolated", "mixup", where=MOST)),
    Claim("Without any real example, made-up domains match or beat one real source",
          greater("synthetic", "erm", where=MOST), paper_says="VLCS: 1 to 2 points above"),
    Claim("More made-up domains are better at the same number of images",
          monotone("domains", where={**IMAGE, "method": "extrapolated"})),
    Claim("So they are without real images",
          monotone("domains", where={**IMAGE, "method": "synthetic"})),
    Claim("Many described domains do more than one plain template",
          greater("extrapolated", "template", where=MOST)),
    Claim("A language model's sentences raise accuracy on domains of texts",
          greater("language-model", "erm", where={"task": "text"}), expected_at="full"),
    Claim("They do more than sentences from templates",
          greater("language-model", "template", where={"task": "text"}), expected_at="full"),
)  # fmt: skip


def run(config: Config, lab: Lab) -> Iterator[Row]:
    """Rows of images, then of texts."""
    if config.backbone != "tiny":
        lab.fetch(config.backbone)
    items = [(config, seed) for seed in lab.seeds(config.seeds)]
    for rows in lab.map(image_rows, items, description="Training on made-up domains of images"):
        yield from rows
    for seed in lab.seeds(min(config.text_seeds, config.seeds)):
        yield from text_rows(lab, config, seed)


def image_rows(lab: Lab, item: tuple[Config, int]) -> list[Row]:
    """Every arm of one seed on every target."""
    config, seed = item
    data = load(config)
    rng = np.random.default_rng(seed)
    order = {name: rng.permutation(data.rows(name)) for name in data.domain_names}
    tests = {name: rows[: config.test] for name, rows in order.items()}
    eye = np.eye(len(data.label_names), dtype=np.float32)

    def scores(images: np.ndarray, soft: np.ndarray, targets: Sequence[str]) -> dict[str, float]:
        said = lab.fit(
            functools.partial(image_network, backbone=config.backbone, width=config.width,
                              classes=len(data.label_names)),
            images, soft, seed=seed,
            config=TrainConfig(epochs=config.epochs, batch_size=config.batch_size, dropout=True,
                               learning_rate=config.learning_rate, schedule="constant"),
            predict={name: np.asarray(data.inputs)[tests[name]] for name in targets},
        ).probabilities  # fmt: skip
        return {name: accuracy(said[name], data.labels[tests[name]]) for name in targets}

    def real(names: Sequence[str], total: int) -> tuple[np.ndarray, np.ndarray]:
        rows = np.concatenate([order[name][config.test :] for name in names])
        kept = rows[matched_budget(data.domains[rows], min(total, len(rows)), seed=seed)]
        kept = np.resize(kept, total)
        return np.asarray(data.inputs)[kept], eye[data.labels[kept]]

    def share(made: MadeImages, domains: int, total: int) -> tuple[np.ndarray, np.ndarray]:
        kept = first_domains(made, domains, total)
        return made["images"][kept], eye[made["labels"][kept]]

    def joined(first: tuple[Any, Any], second: tuple[Any, Any]) -> tuple[np.ndarray, np.ndarray]:
        return np.concatenate([first[0], second[0]]), np.concatenate([first[1], second[1]])

    made = lab.step(synthesise, config, seed)
    plain = (
        lab.step(render_digits, config.size, [DomainSpec("plain")], [config.total], seed=seed)
        if config.pipeline is None
        else lab.step(
            depict_plainly, config.pipeline, data.label_names, config.total, size=config.size,
            guidance=config.guidance, steps=config.denoising, seed=seed,
        )
    )  # fmt: skip
    sources = [tuple(each.split("+")) for each in config.sources]
    last = [name for name in data.domain_names if not any(name in each for each in sources)]
    ceilings = {
        name: scores(*real([name], config.total), [name])[name]
        for name in data.domain_names if name not in sources[0]
    }  # fmt: skip
    found: list[Row] = []
    for names in sources:
        targets = [name for name in data.domain_names if name not in names]
        alone = names == sources[0]
        some = real(names, config.real)
        arms = {("erm", 0): real(names, config.total)}
        if alone:
            arms["mixup", 0] = mixup_examples(*real(names, config.total), rng, alpha=config.mixup)
            arms["template", 0] = joined(some, share(plain, 1, config.total - config.real))
        for count in config.domains if alone else config.domains[-1:]:
            extra = share(made, count, config.total - config.real)
            arms["extrapolated", count] = joined(some, extra)
            if alone:
                arms["synthetic", count] = share(made, count, config.total)
        said = {arm: scores(*examples, targets) for arm, examples in arms.items()}
        most = config.domains[-1]
        found += [
            Row(
                method=method, seed=seed, task="image", source="+".join(names), target=name,
                domains=count, level="most" if count == most else "none" if not count else "fewer",
                alone=alone, last=name in last, score=said[method, count][name],
                floor=said["erm", 0][name], ceiling=ceilings[name],
            )
            for method, count in arms for name in targets
        ]  # fmt: skip
    return found


def synthesise(config: Config, seed: int) -> MadeImages:
    """Images of the made-up domains; the first domains have enough to stand alone."""
    wanted = enough_for(config.total, config.domains)
    if config.pipeline is None:
        return render_digits(config.size, digit_specs(len(wanted), seed=seed), wanted, seed=seed)
    if config.chat is None:
        raise UserError("A text-to-image model needs a language model: --set chat=…")
    data = load(config)
    return depict_domains(
        LocalChat(config.chat), config.pipeline, data.label_names, data.domain_names, wanted,
        size=config.size, max_tokens=config.max_tokens, guidance=config.guidance,
        steps=config.denoising, seed=seed,
    )  # fmt: skip


def load(config: Config) -> MultiDomain:
    """The domains, a folder's or generated digits."""
    return folder_or_digits(
        config.data_path, layout=config.layout, size=config.size,
        per_domain=config.per_domain, styles=("uci", "mnist", "mnist_over_photos"),
    )  # fmt: skip


def text_rows(lab: Lab, config: Config, seed: int) -> Iterator[Row]:
    """Arms over texts: trained on film reviews and more, tested on products, news and tweets."""
    data = sentiment_domains(balanced=True)
    rng = np.random.default_rng(seed)
    order = {name: rng.permutation(data.rows(name)) for name in data.domain_names}
    source, *targets = data.domain_names
    specs = [DomainSpec(name) for name in rng.permutation(REVIEWED)[: config.text_domains]]
    per_class = (config.text_total - config.text_real) // (2 * len(specs)) + 1
    none: tuple[list[str], np.ndarray] = ([], np.empty(0, int))
    arms: dict[str, tuple[Sequence[DomainSpec], tuple[list[str], np.ndarray]]]
    arms = {"erm": ([], none)}
    arms["template"] = specs, template_reviews(specs, per_class=per_class, seed=seed)
    if config.chat is not None:
        lab.fetch(config.chat)
        arms["language-model"] = written_reviews(
            LocalChat(config.chat, device=lab.device), specs, domains=config.text_domains,
            per_class=config.text_per_class, max_tokens=config.max_tokens, lab=lab, seed=seed,
        )  # fmt: skip

    def texts(rows: np.ndarray) -> tuple[list[str], np.ndarray]:
        return [str(data.inputs[row]) for row in rows], data.labels[rows]

    probe = functools.partial(made_text_probe, lab, "minilm-l6", total=config.text_total, seed=seed)
    tests = {name: texts(order[name][: config.text_test]) for name in targets}
    real = texts(order[source][: config.text_real])
    said = {method: probe(real, more, tests) for method, (_, more) in arms.items()}
    need = max(config.text_real, config.text_total)
    for name in targets:
        own = texts(order[name][config.text_test : config.text_test + need])
        ceiling = probe(own, none, {name: tests[name]})[name]
        for method, (used, more) in arms.items():
            near = domain_overlap(
                [each.name for each in used], targets, lambda names: lab.embed("minilm-l6", names)
            )["similarity"]
            yield Row(
                method=method, seed=seed, task="text", source=source, target=name,
                score=said[method][name], floor=said["erm"][name], ceiling=ceiling,
                written=len(more[0]), overlap=float(near.max()) if len(near) else None,
            )  # fmt: skip
