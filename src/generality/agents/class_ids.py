"""What models that choose among named classes say, as class numbers: functions to be kept as steps.

Each takes `identity` (`model_identity`), which names the weights where a result is kept under its
arguments.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from generality.agents.choice import ChoiceTask, Demo
from generality.agents.choice_cases import select_demos
from generality.agents.choice_models import NameSimilarity, OptionLikelihood
from generality.benchmarks import MultiDomain


def likeliest_ids(
    model: str,
    identity: str,
    items: list[str],
    classes: tuple[str, ...],
    demos: Sequence[Sequence[tuple[str, str]]],
    *,
    item_name: str = "Review",
    answer_name: str = "Sentiment",
) -> dict[str, Int[np.ndarray, " n"]]:
    """By the likelihood of the options under a language model: "lm", and "lm-calibrated".

    The second has the model's liking for a class taken out.

    Args:
        model: a causal language model as in `load_model`.
        items: texts to be asked about.
        classes: the options.
        demos: (item, class) examples before each question.
        item_name: what an item is called in the question.
        answer_name: what the answer is called.

    >>> likeliest_ids("smollm2-135m", identity, ["so dull"], ("bad", "good"), [[]])
    ... # doctest: +SKIP
    {'lm': array([0]), 'lm-calibrated': array([0])}
    """
    task = ChoiceTask(items, classes, item_name=item_name, answer_name=answer_name)
    shown = [[Demo(*demo) for demo in each] for each in demos]
    return {
        name: _ids(OptionLikelihood(model, neutral=neutral).predict(task, shown), classes)
        for name, neutral in (("lm", None), ("lm-calibrated", "N/A"))
    }


def nearest_name_ids(
    encoder: str,
    identity: str,
    template: str | None,
    items: Float[np.ndarray, "n dim"],
    classes: tuple[str, ...],
) -> Int[np.ndarray, " n"]:
    """By the nearest class name, bare or in a template with {}, of items encoded already.

    >>> nearest_name_ids("minilm-l6", identity, "a {} text", items, ("bad", "good")).shape
    ... # doctest: +SKIP
    (40,)
    """
    model = NameSimilarity(encoder, template=template, encode_items=np.asarray)
    return _ids(model.predict(ChoiceTask(items, classes)), classes)  # type: ignore[arg-type]


def clip_ids(
    model: str,
    identity: str,
    template: str | None,
    pixels: Float[np.ndarray, "n 3 side side"],
    classes: tuple[str, ...],
) -> Int[np.ndarray, " n"]:
    """By CLIP's zero-shot rule, for images in [0, 1].

    >>> clip_ids("hf:openai/clip-vit-base-patch16", identity, None, pixels, ("dog", "cat"))
    ... # doctest: +SKIP
    """
    from generality.agents.vision_choice import ClipZeroShot

    chosen = ClipZeroShot(model, template=template).predict(ChoiceTask(list(pixels), classes))
    return _ids(chosen, classes)


def demos_of_next_domain(
    train: MultiDomain, cases: MultiDomain, shots: int, *, seed: int = 0
) -> list[list[tuple[str, str]]]:
    """Examples before every case, of the domain after its own: a source, never the target.

    >>> data = MultiDomain(list("abcd"), np.array([0, 1, 0, 1]), np.array([0, 0, 1, 1]),
    ...                    ("no", "yes"), ("here", "there"))
    >>> [sorted(item for item, _ in each) for each in demos_of_next_domain(data, data, 2)]
    [['c', 'd'], ['c', 'd'], ['a', 'b'], ['a', 'b']]
    """
    found: list[list[tuple[str, str]]] = []
    for index, domain in enumerate(cases.domains):
        other = train.domain_names[(int(domain) + 1) % len(train.domain_names)]
        pool = train.take(train.rows(other))
        [shown] = select_demos(pool, [cases.inputs[index]], shots, seed=seed * len(cases) + index)
        found.append([(str(demo.item), demo.label) for demo in shown])
    return found


def _ids(chosen: Sequence[Any], classes: Sequence[str]) -> Int[np.ndarray, " n"]:
    return np.array([list(classes).index(str(choice.label)) for choice in chosen])
