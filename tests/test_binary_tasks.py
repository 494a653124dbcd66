import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, DatasetDict
from hypothesis import given, settings
from hypothesis import strategies as st

from generality.benchmarks import load_benchmark
from generality.benchmarks.binary_tasks import (
    TASKS,
    amazon_polarity,
    boolq,
    cosmos_qa,
    hh_rlhf,
    load_binary_task,
    sciq,
)
from generality.errors import UserError

CONVERSIONS = {
    "amazon_polarity": amazon_polarity,
    "boolq": boolq,
    "cosmos_qa": cosmos_qa,
    "hh_rlhf": hh_rlhf,
    "sciq": sciq,
}
NONE = "None of the above choices ."


def sciq_row(i: int) -> dict[str, Any]:
    wrong = {f"distractor{k}": f"wrong {k} of {i}" for k in (1, 2, 3)}
    return {
        "question": f"Question {i}?",
        "correct_answer": f"right {i}",
        **wrong,
        "support": "Because.",
    }


def boolq_row(i: int) -> dict[str, Any]:
    return {"question": f"is it {i}", "answer": i % 3 != 0, "passage": f"It is, or not: {i}."}


def cosmos_row(i: int) -> dict[str, Any]:
    answers = {f"answer{k}": f"answer {k} of {i}" for k in range(4)}
    if i % 4 == 0:
        answers["answer3"] = NONE
    label = 3 if i % 8 == 0 else i % 3
    return {"id": f"id{i}", "context": f"Story {i}.", "question": "Why?", **answers, "label": label}


def amazon_row(i: int) -> dict[str, Any]:
    return {"label": i % 2, "title": f"Title {i}", "content": f"A review, number {i}."}


def hh_row(i: int) -> dict[str, Any]:
    start = f"\n\nHuman: Number {i}?\n\nAssistant: "
    return {"chosen": start + "Gladly.", "rejected": start + ("Gladly." if i == 7 else "No.")}


ROWS: dict[str, Callable[[int], dict[str, Any]]] = {
    "amazon_polarity": amazon_row,
    "boolq": boolq_row,
    "cosmos_qa": cosmos_row,
    "hh_rlhf": hh_row,
    "sciq": sciq_row,
}


def rows(name: str, n: int, start: int = 0) -> list[dict[str, Any]]:
    return [ROWS[name](i) for i in range(start, start + n)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One folder a task, in the hub's columns: JSONL for training, Parquet or CSV for test."""
    for name, task in TASKS.items():
        (tmp_path / name).mkdir()
        lines = "\n".join(json.dumps(row) for row in rows(name, 300))
        (tmp_path / name / "train.jsonl").write_text(lines)
        test = Dataset.from_list(rows(name, 100, start=1000))
        if name in ("boolq", "sciq"):
            test.to_csv(tmp_path / name / f"{task.test_split}.csv")
        else:
            test.to_parquet(tmp_path / name / f"{task.test_split}-00000-of-00001.parquet")
    return tmp_path


# Conversions


def test_sciq_shows_the_right_answer_or_a_distractor() -> None:
    done = sciq(Dataset.from_list(rows("sciq", 200)))
    shown = Counter()
    for i, row in enumerate(done):
        question, answer = row["text"].split("\n")
        assert question == f"Question: Question {i}?"
        assert answer.startswith("Answer: right" if row["label"] else "Answer: wrong")
        shown[answer.split()[2] if not row["label"] else "right"] += 1
    assert set(shown) == {"right", "1", "2", "3"}
    assert min(shown.values()) > 15


def test_boolq_and_amazon_keep_their_labels() -> None:
    done = boolq(Dataset.from_list(rows("boolq", 6)))
    assert done["label"][:] == [0, 1, 1, 0, 1, 1]
    assert done["text"][1] == "Passage: It is, or not: 1.\nQuestion: is it 1"
    done = amazon_polarity(Dataset.from_list([amazon_row(0), {**amazon_row(1), "title": None}]))
    assert done["text"][:] == ["Title 0\nA review, number 0.", "A review, number 1."]
    assert done["label"][:] == [0, 1]


def test_cosmos_never_calls_none_of_the_above_right() -> None:
    raw = rows("cosmos_qa", 800)
    for row, done in zip(raw, cosmos_qa(Dataset.from_list(raw)), strict=True):
        answer = done["text"].rsplit("Answer: ", 1)[1]
        right = row[f"answer{row['label']}"]
        assert done["text"].startswith(f"Context: {row['context']}\nQuestion: Why?\n")
        assert (answer == right) == bool(done["label"])
        assert answer in [row[f"answer{k}"] for k in range(4)]
        if right == NONE:
            assert done["label"] == 0
            assert answer != NONE


def test_hh_shows_one_of_two_dialogues_and_skips_equal_ones() -> None:
    done = hh_rlhf(Dataset.from_list(rows("hh_rlhf", 50)))
    assert len(done) == 49
    for row in done:
        assert row["text"].startswith("Human: Number ")
        assert row["text"].endswith("Gladly." if row["label"] else "No.")


@settings(max_examples=10, deadline=None)
@given(st.sampled_from(["sciq", "hh_rlhf", "cosmos_qa"]), st.integers(0, 10_000))
def test_coins_are_fair(name: str, seed: int) -> None:
    raw = [r for r in rows(name, 1000) if NONE not in r.values()]
    labels = CONVERSIONS[name](Dataset.from_list(raw), seed=seed)["label"][:]
    share = sum(labels) / len(labels)
    assert abs(share - 0.5) < 5 * (0.25 / len(labels)) ** 0.5


@settings(max_examples=20, deadline=None)
@given(st.sampled_from(sorted(TASKS)), st.integers(0, 99), st.randoms())
def test_a_row_is_converted_alike_wherever_it_stands(name: str, seed: int, random) -> None:
    raw = rows(name, 40)
    convert = CONVERSIONS[name]
    reference = {r["source_id"]: r for r in convert(Dataset.from_list(raw), seed=seed)}
    some = random.sample(raw, 15)
    for row in convert(Dataset.from_list(some), seed=seed):
        assert row == reference[row["source_id"]]


@settings(max_examples=30, deadline=None)
@given(st.text(min_size=1), st.text(min_size=1))
def test_any_unicode_text_survives(question: str, answer: str) -> None:
    raw = {**sciq_row(0), "question": question, "correct_answer": answer}
    raw |= {f"distractor{k}": answer for k in (1, 2, 3)}
    assert sciq(Dataset.from_list([raw]))["text"][0] == f"Question: {question}\nAnswer: {answer}"


def test_another_seed_throws_other_coins() -> None:
    raw = Dataset.from_list(rows("sciq", 200))
    assert sciq(raw, seed=0)["label"][:] != sciq(raw, seed=1)["label"][:]


def test_conversions_refuse_rows_they_cannot_read() -> None:
    with pytest.raises(UserError, match=r"lacks the columns correct_answer, distractor1"):
        sciq(Dataset.from_dict({"question": ["?"]}))
    with pytest.raises(UserError, match=r"Row 2 .* has no question"):
        boolq(Dataset.from_list([boolq_row(0), {**boolq_row(1), "question": None}]))
    with pytest.raises(UserError, match=r"Row 1 .* has the label -1"):
        cosmos_qa(Dataset.from_list([{**cosmos_row(1), "label": -1}]))


# Loading


@pytest.mark.parametrize("name", sorted(TASKS))
def test_a_local_copy_loads_balanced_and_disjoint(name: str, folder: Path) -> None:
    bench = load_benchmark(name, path=folder / name, train=100, test=20)
    assert bench.name == name
    assert len(bench.label_names) == 2
    assert {s: Counter(d["label"][:]) for s, d in bench.splits.items()} == {
        "train": {0: 50, 1: 50},
        "test": {0: 10, 1: 10},
    }
    ids = {split: set(bench.splits[split]["source_id"]) for split in ("train", "test")}
    assert len(ids["train"]) == 100
    assert not ids["train"] & ids["test"]


def test_the_choice_does_not_depend_on_the_order_of_the_file(folder: Path) -> None:
    file = folder / "sciq" / "train.jsonl"
    first = load_benchmark("sciq", path=folder / "sciq", train=20).splits["train"]
    lines = file.read_text().split("\n")
    file.write_text("\n".join(lines[::-1] + lines[:50]))
    second = load_benchmark("sciq", path=folder / "sciq", train=20).splits["train"]
    assert {r["source_id"]: r["text"] for r in first} == {r["source_id"]: r["text"] for r in second}


def test_rows_of_test_are_left_out_of_training(folder: Path) -> None:
    both = folder / "both"
    both.mkdir()
    for split in ("train", "test"):
        (both / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows("hh_rlhf", 200))))
    splits = load_benchmark("hh_rlhf", path=both, test=60).splits
    assert len(splits["test"]) == 60
    assert not set(splits["train"]["source_id"]) & set(splits["test"]["source_id"])
    assert len(splits["train"]) > 100


def test_files_in_parts_are_read_together_and_too_few_rows_are_all_taken(folder: Path) -> None:
    name = "hh_rlhf"
    Dataset.from_list(rows(name, 100, 5000)).to_parquet(folder / name / "train-00001.parquet")
    bench = load_binary_task(name, path=folder / name)
    assert 300 < len(bench.splits["train"]) <= 399
    assert f"{len(bench.splits['train'])} training" in bench.notes


def test_the_hub_is_asked_without_running_its_code(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load(repository: str, config: str | None, **options: object) -> DatasetDict:
        asked.append((repository, config, options))
        data = Dataset.from_list(rows("cosmos_qa", 100))
        return DatasetDict(train=data, validation=Dataset.from_list(rows("cosmos_qa", 50, 500)))

    monkeypatch.setattr("generality.benchmarks.table.load_dataset", load)
    bench = load_benchmark("cosmos_qa", train=10, test=10)
    assert len(bench.splits["test"]) == 10
    assert asked == [("allenai/cosmos_qa", None, {"revision": "refs/convert/parquet"})]


def test_a_hub_out_of_reach_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*args: object, **options: object) -> DatasetDict:
        raise ConnectionError("no route")

    monkeypatch.setattr("generality.benchmarks.table.load_dataset", load)
    with pytest.raises(UserError, match=r"allenai/sciq from the hub: no route.*local copy"):
        load_benchmark("sciq")


def test_loading_refuses_what_makes_no_sense(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Did you mean 'sciq'"):
        load_binary_task("sci")
    with pytest.raises(UserError, match="at least 2 rows"):
        load_benchmark("sciq", path=folder / "sciq", train=1)
    with pytest.raises(UserError, match="There is no validation file"):
        load_benchmark("boolq", path=folder / "sciq")
    with pytest.raises(UserError, match="lacks the columns chosen, rejected"):
        load_benchmark("hh_rlhf", path=folder / "sciq")
    one = tmp_path / "one"
    one.mkdir()
    for split in ("train", "validation"):
        lines = [json.dumps({**row, "answer": True}) for row in rows("boolq", 20)]
        (one / f"{split}.jsonl").write_text("\n".join(lines))
    with pytest.raises(UserError, match="one label only"):
        load_benchmark("boolq", path=one)
