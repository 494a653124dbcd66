"""Reviews of made-up domains: from templates, and by a language model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from generality.errors import UserError
from generality.models.chat import Chat
from generality.selection.domain_proposer import DomainProposer, DomainSpec, Keeps
from generality.selection.synthesisers import TemplateSynthesiser, TextSynthesiser
from generality.selection.synthetic_domains import synthesise_domains

REVIEWED = ("hotels", "restaurants", "concerts", "train journeys", "phones", "museums")
TEMPLATES = {
    "negative": ("these {domain} are {bad}", "a {bad} day, thanks to the {domain}",
                 "I would not recommend such {bad} {domain}", "{domain}: {bad} and overpriced"),
    "positive": ("these {domain} are {good}", "a {good} day, thanks to the {domain}",
                 "I would recommend such {good} {domain}", "{domain}: {good} and worth it"),
}  # fmt: skip
WORDS = {
    "bad": ("awful", "boring", "dirty", "disappointing", "dreadful", "poor", "useless"),
    "good": ("brilliant", "charming", "delightful", "excellent", "lovely", "superb", "wonderful"),
}

Reviews = tuple[list[str], Int[np.ndarray, " n"]]
"""Texts, and 0 (negative) or 1 (positive) for each."""


def template_reviews(specs: Sequence[DomainSpec], *, per_class: int, seed: int = 0) -> Reviews:
    """Reviews of these domains from a handful of templates and words: what costs nothing.

    >>> texts, labels = template_reviews([DomainSpec("hotels")], per_class=2)
    >>> len(texts), labels.tolist(), "hotels" in texts[0]
    (4, [0, 0, 1, 1], True)
    """
    maker = TemplateSynthesiser(TEMPLATES, WORDS)
    made = synthesise_domains(maker, specs, tuple(TEMPLATES), per_class=per_class, seed=seed).data
    return list(made.inputs), made.labels


def written_reviews(
    chat: Chat,
    spare: Sequence[DomainSpec],
    *,
    domains: int,
    per_class: int,
    known: Sequence[str] = ("film",),
    max_tokens: int = 60,
    lab: Keeps | None = None,
    seed: int = 0,
) -> tuple[list[DomainSpec], Reviews]:
    """A language model's domains, and its sentences in them; none where it writes none.

    Args:
        chat: whom to ask, once for the domains and once for each domain and class.
        spare: domains for a model that names none.
        domains: how many to ask for.
        per_class: sentences asked for in each domain and class.
        known: domains there are already.
        max_tokens: of an answer.
        lab: keeps the answers, if given.

    >>> from generality.models import RecordedChat
    >>> chat = RecordedChat(["nothing", "1. The rooms were dirty.", "1. Such lovely staff."])
    >>> written_reviews(chat, [DomainSpec("hotels")], domains=1, per_class=1)[1][0]
    ['The rooms were dirty.', 'Such lovely staff.']
    """
    labels = tuple(TEMPLATES)
    proposer = DomainProposer(chat, kind="customer review", mode="dataset", reasoning=False,
                              max_tokens=max_tokens, retries=0, lab=lab)  # fmt: skip
    try:
        specs = proposer.propose(labels, n=domains, seed=seed, known=known)
    except UserError:
        specs = list(spare)
    writer = TextSynthesiser(chat, max_tokens=max_tokens, rounds=1, lab=lab)
    try:
        made = synthesise_domains(writer, specs, labels, per_class=per_class, seed=seed).data
    except ValueError:  # not a sentence: whoever trains on it trains on what is real
        return specs, ([], np.empty(0, int))
    return specs, (list(made.inputs), made.labels)
