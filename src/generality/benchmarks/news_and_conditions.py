"""Two tasks over short documents, and unlabelled texts that hold nothing of their classes."""

from __future__ import annotations

from collections import Counter

import numpy as np

from generality.benchmarks.benchmark import load_benchmark
from generality.benchmarks.few_shot_task import FewShotTask


def news_and_conditions(
    *, words: int = 40, per_class: int = 104, unlabelled: int = 400
) -> tuple[dict[str, FewShotTask], list[str]]:
    """Sections of the news, conditions that a drug is for, and unlabelled texts of three sources.

    "news" has the five sections of BBC articles, all learnt from; "conditions" the ten commonest
    conditions of drug reviews, every second learnt from. The unlabelled texts are reviews of other
    conditions, tweets and editorials. It is for methods that learn from unlabelled texts before
    they see a few labelled ones (`cluster_tasks`, `learn_prompt`).

    Args:
        words: most words of a text, from its beginning.
        per_class: most documents of a class.
        unlabelled: most texts of each of the three sources.

    >>> tasks, texts = news_and_conditions(words=5, per_class=2, unlabelled=1)  # doctest: +SKIP
    >>> tasks["news"].names[0], len(tasks["news"].items), len(texts)  # doctest: +SKIP
    ('business', 10, 3)
    """

    def cut(texts: list[str], most: int) -> list[str]:
        return [" ".join(text.split()[:words]) for text in texts[:most]]

    bbc = load_benchmark("bbc")
    news = bbc.all_rows().to_dict()
    reviews = load_benchmark("drug_reviews").all_rows().to_dict()
    found = Counter(condition for condition in reviews["condition"] if condition)
    conditions = sorted(found, key=lambda condition: (-found[condition], condition))[:10]
    # the data cuts a final r: "Bipolar Disorde"
    names = [c.replace("Disorde", "Disorder").replace(", Type 2", "") for c in conditions]
    sources = {
        "news": (news["text"], news["label"], range(5), bbc.label_names, range(5)),
        "conditions": (reviews["text"], reviews["condition"], conditions, names, range(0, 10, 2)),
    }
    tasks = {}
    for task, (texts, labels, values, called, base) in sources.items():
        kept: list[str] = []
        classes: list[int] = []
        for column, value in enumerate(values):
            own = [text for text, label in zip(texts, labels, strict=True) if label == value]
            kept += cut(own, per_class)
            classes += [column] * min(len(own), per_class)
        tasks[task] = FewShotTask(kept, np.array(classes), tuple(called), tuple(base))
    pairs = zip(reviews["text"], reviews["condition"], strict=True)
    free = cut([text for text, of in pairs if of and of not in conditions], unlabelled)
    for domain in ("tweets", "nyt"):
        more = load_benchmark("sentiment", domain=domain).all_rows()["text"][:]
        free += cut(more, unlabelled)
    return tasks, free
