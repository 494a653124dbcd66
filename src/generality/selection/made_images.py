"""Images of made-up domains as arrays that a step can keep, and equal shares of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypedDict

import numpy as np
from jaxtyping import Float, Int

from generality.errors import UserError
from generality.models.chat import Chat
from generality.selection.budget import budget_shares, matched_budget
from generality.selection.digit_renderer import DigitRenderer
from generality.selection.domain_proposer import DomainProposer, DomainSpec
from generality.selection.prompt_writer import PromptWriter
from generality.selection.synthesisers import ProceduralSynthesiser, Synthesiser, TextToImage
from generality.selection.synthetic_domains import synthesise_domains


class MadeImages(TypedDict):
    """Images, the class of each, and the domain of each, counted from 0."""

    images: Float[np.ndarray, "n 3 height width"]
    labels: Int[np.ndarray, " n"]
    domains: Int[np.ndarray, " n"]


def make_images(
    maker: Synthesiser,
    specs: Sequence[DomainSpec],
    wanted: Sequence[int],
    labels: Sequence[str],
    *,
    seed: int = 0,
) -> MadeImages:
    """Images of each domain in turn, at least as many as wanted of it, classes in equal shares."""
    parts = []
    for k, (spec, count) in enumerate(zip(specs, wanted, strict=False)):
        per = -(-count // len(labels))
        parts.append(
            synthesise_domains(maker, [spec], labels, per_class=per, seed=1000 * seed + k).data
        )
    return {
        "images": np.concatenate([np.asarray(part.inputs) for part in parts]),
        "labels": np.concatenate([part.labels for part in parts]),
        "domains": np.repeat(np.arange(len(parts)), [len(part) for part in parts]),
    }


def render_digits(
    size: int, specs: Sequence[DomainSpec], wanted: Sequence[int], *, seed: int = 0
) -> MadeImages:
    """Digits of these domains by `DigitRenderer`, `size` pixels a side.

    >>> made = render_digits(16, [DomainSpec("plain"), DomainSpec("another")], [20, 10])
    >>> np.bincount(made["domains"]), made["images"].shape
    (array([20, 10]), (30, 3, 16, 16))
    """
    maker = ProceduralSynthesiser(DigitRenderer(size))
    return make_images(maker, specs, wanted, tuple("0123456789"), seed=seed)


def depict_domains(
    chat: Chat,
    pipeline: Any,
    labels: Sequence[str],
    known: Sequence[str],
    wanted: Sequence[int],
    *,
    size: int,
    max_tokens: int = 512,
    guidance: float = 7.5,
    steps: int | None = None,
    seed: int = 0,
) -> MadeImages:
    """Images by a text-to-image model, of domains that a language model proposes.

    It is asked three times at most, for as many as are still lacking.

    Args:
        chat: proposes a domain for each entry of `wanted`, and writes the prompts.
        pipeline: of diffusers, by name, or as `TextToImage` takes it.
        labels: the classes.
        known: domains there are already.
        wanted: images of each domain.
        size: side of the images, pixels.
        max_tokens: of an answer.
        guidance: as in `TextToImage`, as are steps.

    Raises:
        UserError: the model names fewer domains than there are entries of `wanted`.

    >>> depict_domains(chat, "stabilityai/sd-turbo", ["dog", "cat"], ["photo"], [100, 100],
    ...                size=224)  # doctest: +SKIP
    """
    proposer = DomainProposer(chat, mode="dataset", max_tokens=max_tokens)
    specs: list[DomainSpec] = []
    for attempt in range(3):
        if lacking := len(wanted) - len(specs):
            taken = [*known, *(spec.name for spec in specs)]
            specs += proposer.propose(labels, n=lacking, seed=seed + 10**6 * attempt, known=taken)
    if len(specs) < len(wanted):
        raise UserError(
            f"The language model named {len(specs)} domains where {len(wanted)} were asked for: "
            "take a larger one, or ask for fewer domains."
        )
    maker = TextToImage(
        pipeline, writer=PromptWriter(chat), size=size, guidance=guidance, steps=steps
    )
    return make_images(maker, specs, wanted, labels, seed=seed)


def depict_plainly(
    pipeline: Any,
    labels: Sequence[str],
    wanted: int,
    *,
    size: int,
    guidance: float = 7.5,
    steps: int | None = None,
    seed: int = 0,
) -> MadeImages:
    """The control: at least `wanted` images from class names alone, "a photo of a {label}".

    Args:
        pipeline: as in `TextToImage`, as are size, guidance and steps.
        labels: the classes, in equal shares.
        wanted: images.
        seed: of the images.

    >>> depict_plainly("stabilityai/sd-turbo", ["dog", "cat"], 100, size=224)  # doctest: +SKIP
    """
    maker = TextToImage(
        pipeline, template="a photo of a {label}", size=size, guidance=guidance, steps=steps
    )
    return make_images(maker, [DomainSpec("plain")], [wanted], labels, seed=seed)


def enough_for(total: int, domains: Sequence[int]) -> list[int]:
    """Images wanted of each domain, so that the first d alone make up `total`, for each d asked.

    >>> enough_for(12, (1, 3))
    [12, 4, 4]
    """
    return [
        max(budget_shares(total, count)[0] for count in domains if count > place)
        for place in range(max(domains))
    ]


def first_domains(made: MadeImages, domains: int, total: int) -> Int[np.ndarray, " total"]:
    """Rows that make up `total` images in equal shares of the first so many domains.

    >>> made = render_digits(8, [DomainSpec("plain"), DomainSpec("another")], [20, 10])
    >>> np.bincount(made["domains"][first_domains(made, 2, 16)])
    array([8, 8])
    """
    rows = np.flatnonzero(made["domains"] < domains)
    return rows[matched_budget(made["domains"][rows], total)]
