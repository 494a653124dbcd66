"""What the study compile-ir measures of IR: copies, leaks, tokens, what carries over."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from generality.benchmarks.dedup_split import dedup_split, leakage_gap
from generality.benchmarks.splits import holdout
from generality.experiments.code_readers import CodeCompressor, CodeReader, first_bytes
from generality.measures.corpus_audit import audit_corpus
from generality.measures.token_fertility import tokenizer_fertility, train_bpe

LANGUAGES = ("c", "c++", "rust")
Rows = list[dict[str, Any]]


def audit_rows(code: list[dict[str, str]], seed: int) -> Rows:
    """Duplication and overlap of two thirds of the source files."""
    rng = np.random.default_rng(seed)
    files = sorted({(r["package"], r["path"]) for r in code})
    drawn = {files[i] for i in rng.permutation(len(files))[: max(3, 2 * len(files) // 3)]}
    rows = []
    for level, key in (("before", "key"), ("after", "optimised_key")):
        taken = [r for r in code if (r["package"], r["path"]) in drawn and r[key]]
        audit = audit_corpus([r[key] for r in taken], [r["language"] for r in taken])
        for i, language in enumerate(audit.groups):
            said = {"language": language, "level": level}
            others = [audit.overlap[i, j] for j in range(len(audit.groups)) if j != i]
            rows.append({"method": "duplication", "score": audit.duplication[language], **said})
            rows.append({"method": "overlap", "score": float(max(others, default=0.0)), **said})
    return rows


def encoder(config: Any) -> Callable[[str], Sequence[int]]:
    """The general tokenizer."""
    from generality.models import load_tokenizer

    tokenizer = load_tokenizer(config.tokenizer)
    return lambda text: tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]


def ids(tokenizer: Any) -> Callable[[str], Sequence[int]]:
    """A tokenizer's token ids as a function."""
    return lambda text: tokenizer.encode(text).ids


def text_rows(code: list[dict[str, str]], config: Any, seed: int) -> Rows:
    """The panels on normalised text: leaks, tokens, and a model of one language on another."""
    order = np.random.default_rng(seed).permutation(len(code))
    drawn = [code[i] for i in order[: config.functions]]
    texts = [r["ir"] for r in drawn]
    keys = [r["key"] for r in drawn]
    train, test = dedup_split(keys, seed=seed)
    own = {size: train_bpe([texts[i] for i in train], size) for size in config.vocabularies}
    tokens = {name: ids(own[size]) for name, size in zip(("small", "large"), own, strict=True)}
    held = tokenizer_fertility({**tokens, "general": encoder(config)}, [texts[i] for i in test])
    rows: Rows = [
        {"panel": "tokens", "method": name, "score": score, "ratio": score / held["general"]}
        for name, score in held.items()
    ]
    model = CodeCompressor(tokens["small"], config.vocabularies[0], config.order)
    packages = sorted({r["package"] for r in drawn})
    away: list[str] = []
    for i in np.random.default_rng(seed).permutation(len(packages)):
        if sum(r["package"] in away for r in drawn) < len(test):
            away.append(packages[i])
    by_package = holdout([r["package"] for r in drawn], by="site", held=away, groups=keys)
    size = min(len(train), len(by_package[0]))
    splits = {
        "raw-split": (np.arange(size), np.arange(size, len(drawn))),
        "dedup-split": (train[:size], test),
        "package-split": (by_package[0][:size], by_package[1]),
    }
    for method, (a, b) in splits.items():
        score = model([texts[i] for i in a], [texts[i] for i in b])
        rows.append({"panel": "leak", "method": method, "score": score})
    unique = list({r["key"]: r for r in (code[i] for i in order)}.values())
    of = {name: [r["ir"] for r in unique if r["language"] == name] for name in LANGUAGES}
    for target in LANGUAGES:
        others = [name for name in LANGUAGES if name != target]
        whole, half = config.language_bytes, config.language_bytes // 2
        exam = first_bytes(of[target][: len(of[target]) // 4], half)
        rest = of[target][len(of[target]) // 4 :]
        ceiling = model(first_bytes(rest, whole), exam)
        singles = [model(first_bytes(of[name], whole), exam) for name in others]
        union = model([t for name in others for t in first_bytes(of[name], half)], exam)
        for method, score in (("single", float(np.mean(singles))), ("union", union)):
            rows.append({"panel": "language-model", "method": method, "language": target,
                         "score": score, "ceiling": ceiling})  # fmt: skip
    return rows


def program_leak_rows(records: Rows, features: int) -> Rows:
    """Accuracy of naming the algorithm within a language, of splits with and without copies.

    Means of five splits into 60 % and 40 %; copies are functions of one program.
    """
    rows: Rows = []
    for language in LANGUAGES:
        mine = [r for r in records if r["language"] == language]
        labels = [r["algorithm"] for r in mine]
        reader = CodeReader([r["ir"] for r in mine], features=features)
        found = leakage_gap(
            partial(reader.accuracy, labels), [r["program"] for r in mine], test_share=0.4
        )
        rows += [
            {"method": "raw-split", "language": language, "score": found.raw},
            {"method": "dedup-split", "language": language, "score": found.dedup},
        ]
    return rows


def transfer_rows(records: Rows, features: int, seed: int) -> Rows:
    """Accuracy of naming the algorithm, for every representation, training and target language."""
    sides = dedup_split(
        [r["program"] for r in records], keep_copies=True, shares=(0.6, 0.4), seed=seed
    )
    of = {
        (name, side): [int(i) for i in rows if records[i]["language"] == name]
        for name in LANGUAGES
        for side, rows in zip(("train", "test"), sides, strict=True)
    }
    labels = [r["algorithm"] for r in records]
    readers = {
        view: CodeReader([r[view] for r in records], features=features)
        for view in ("source", "raw", "ir", "optimised")
    }
    readers["size"] = CodeReader([r["ir"] for r in records], sizes=True)
    found = []
    for target in LANGUAGES:
        exam = of[target, "test"]
        others = [of[name, "train"] for name in LANGUAGES if name != target]
        both = others[0][::2] + others[1][1::2]
        ceiling = readers["ir"].accuracy(labels, of[target, "train"], exam)
        floors: dict[str, float] = {}
        for view, reader in readers.items():
            alone = [reader.accuracy(labels, train, exam) for train in others]
            scores = {
                "single": float(np.mean(alone)), "union": reader.accuracy(labels, both, exam)
            }  # fmt: skip
            floors = floors or scores
            found += [
                {"method": view, "training": training, "language": target, "score": score,
                 "floor": floors[training], "ceiling": ceiling}
                for training, score in scores.items()
            ]  # fmt: skip
    return found
