"""Training data in files: shapes, damage, duplicates, and files that appear whole or not at all."""

import gzip
import json
import tracemalloc
from datetime import date

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from generality.errors import UserError
from generality.selection.function_words import language_of
from generality.selection.record_screen import (
    Screen,
    SeenKeys,
    latin_share,
    screen_table,
    words_and_signs,
    words_in,
)
from generality.selection.training_files import (
    BadRecord,
    Columns,
    Record,
    as_messages,
    as_prompt_completion,
    examples_of,
    prompt_of,
    read_records,
    with_candidates,
    with_response,
    write_records,
)

ASKED, SAID = {"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}
BRIEF = {"role": "system", "content": "Be brief."}
CALLS = {
    "role": "assistant", "content": None,
    "tool_calls": [{"id": "c1", "function": {"name": "add"}}],
}  # fmt: skip


def lines(path, *rows):
    path.write_text(
        "".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows)
    )
    return path


@pytest.mark.parametrize(
    "record",
    [
        {"messages": [ASKED, SAID]},
        {"messages": json.dumps([ASKED, SAID])},
        {"messages": [ASKED, {"role": "assistant", "content": [{"type": "text", "text": "4"}]}]},
        {"conversations": [{"from": "human", "value": "2 + 2?"}, {"from": "gpt", "value": "4"}]},
        {"prompt": "2 + 2?", "completion": "4"},
        {"prompt": [ASKED], "completion": [SAID]},
        {"instruction": "2 + 2?", "input": "", "output": "4"},
        {"question": "2 + 2?", "answer": 4},
        {"prompt": "2 + 2?", "responses": ["4"]},
    ],
)
def test_every_shape_is_one_example(record) -> None:
    (example,) = examples_of(Record(1, record))
    assert (example.prompt, example.response) == ("2 + 2?", "4")
    assert as_messages(example) == {"messages": [ASKED, SAID]}
    assert as_prompt_completion(example) == {"prompt": "2 + 2?", "completion": "4"}
    (changed,) = examples_of(Record(1, with_response(example, "four")))
    assert (changed.prompt, changed.response) == ("2 + 2?", "four")


def test_what_comes_before_a_response_is_kept() -> None:
    (example,) = examples_of(Record(1, {"messages": [BRIEF, ASKED, SAID, ASKED, SAID]}))
    assert example.before == (BRIEF, ASKED, SAID, ASKED)
    assert as_prompt_completion(example)["prompt"] == [BRIEF, ASKED, SAID, ASKED]
    (example,) = examples_of(Record(1, {"system": "Be brief.", "prompt": "a", "completion": "b"}))
    assert example.before[0] == BRIEF
    alpaca = {"instruction": "Add.", "input": "2 and 2", "output": "4"}
    assert examples_of(Record(1, alpaca))[0].prompt == "Add.\n\n2 and 2"
    named = {"q": "2 + 2?", "a": "4", "prompt": "not this"}
    assert examples_of(Record(1, named), Columns("q", "a"))[0].prompt == "2 + 2?"


def test_tools_that_were_called_stay_in_the_conversation() -> None:
    result = {"role": "tool", "tool_call_id": "c1", "content": "4"}
    chat = [ASKED, CALLS, result, SAID]
    (example,) = examples_of(Record(1, {"messages": chat}))
    assert as_messages(example) == {"messages": [ASKED, {**CALLS, "content": ""}, result, SAID]}
    other = {**CALLS, "tool_calls": [{"id": "c1", "function": {"name": "multiply"}}]}
    (same,) = examples_of(Record(2, {"messages": [ASKED, other, result, SAID]}))
    assert example.key != same.key, "which tool was called tells them apart"


def test_a_response_in_parts_is_replaced_by_a_part() -> None:
    parts = [{"type": "text", "text": "It is ", "image": None}, {"type": "text", "text": "4."}]
    record = {"messages": [ASKED, {"role": "assistant", "content": parts}]}
    (example,) = examples_of(Record(1, record))
    assert example.response == "It is 4."
    changed = with_response(example, "four")["messages"][-1]["content"]
    assert changed == [{"type": "text", "text": "four", "image": None}]


def test_a_prompt_of_as_many_messages_as_there_are_responses_is_left_whole() -> None:
    record = {"prompt": [BRIEF, ASKED], "responses": ["a", "b"], "meta": [{"n": 1}, {"n": 2}]}
    examples = examples_of(Record(1, record))
    assert with_candidates(record, examples[1:]) == {
        "prompt": [BRIEF, ASKED], "responses": ["b"], "meta": [{"n": 2}],
    }  # fmt: skip


def test_lines_are_json_for_every_reader(tmp_path) -> None:
    row = {"score": float("nan"), "more": [float("inf"), 1.5], "day": date(2026, 1, 2)}
    write_records(tmp_path / "a.jsonl", [row])
    text = (tmp_path / "a.jsonl").read_text()
    assert json.loads(text) == {"score": None, "more": [None, 1.5], "day": "2026-01-02"}
    with pytest.raises(UserError, match="values of type bytes, which JSON cannot"):
        write_records(tmp_path / "b.jsonl", [{"picture": b"\x89PNG"}])
    assert not (tmp_path / "b.jsonl").exists()


def test_words_of_a_script_without_spaces_are_its_letters() -> None:
    assert words_in("巴黎是法国的首都。") == 8
    assert words_in("GPT 是 AI、 model") == 4
    screen = Screen(max_length=12)
    long = {"prompt": "二加二等于几？", "completion": "二加二等于四，因为二和二相加得四"}
    assert not list(screen.examples([Record(1, long)]))
    assert screen.dropped == {"over-long": 1}


def test_several_responses_keep_what_goes_with_them() -> None:
    record = {"prompt": "p", "responses": ["a", "b", "c"], "source": ["x", "y", "z"], "id": 1}
    examples = examples_of(Record(3, record))
    assert [(e.number, e.candidate, e.source) for e in examples] == [
        (3, 0, "x"), (3, 1, "y"), (3, 2, "z"),
    ]  # fmt: skip
    assert with_candidates(record, [examples[0], examples[2]]) == {
        "prompt": "p", "responses": ["a", "c"], "source": ["x", "z"], "id": 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("record", "kind"),
    [
        ({"text": "alone"}, "missing field"),
        ({"prompt": "p"}, "missing field"),
        ({"messages": [ASKED]}, "missing field"),
        ({"prompt": " ", "completion": "c"}, "empty prompt"),
        ({"messages": [BRIEF, SAID]}, "empty prompt"),
        ({"prompt": "p", "completion": "\n"}, "empty response"),
        ({"prompt": "p", "responses": []}, "empty response"),
        ({"prompt": 7, "completion": "c"}, "not text"),
        ({"prompt": "p", "completion": float("nan")}, "missing field"),  # a table's empty cell
        ({"prompt": "p", "completion": "half \ud800"}, "not text"),
        ({"messages": [{**ASKED, "content": "half \ud800"}, SAID]}, "not text"),
        ({"prompt": "p", "completion": {"a": 1}}, "not text"),
        ({"messages": "hello"}, "malformed messages"),
        ({"messages": []}, "malformed messages"),
        ({"messages": [ASKED, {"role": "assistant"}]}, "malformed messages"),
        ({"messages": ["hello"]}, "malformed messages"),
        ({"messages": [ASKED, CALLS]}, "not text"),
        ({"messages": [ASKED, {**CALLS, "content": "I look it up."}]}, "not text"),
        ({"prompt": "p", "completion": [SAID, ASKED, SAID]}, "malformed messages"),
    ],
)
def test_bad_records_have_a_kind(record, kind) -> None:
    with pytest.raises(BadRecord) as caught:
        examples_of(Record(1, record))
    assert caught.value.kind == kind


def test_a_prompt_needs_no_response() -> None:
    assert prompt_of(Record(1, {"messages": [BRIEF, ASKED]})).before == (BRIEF, ASKED)
    assert prompt_of(Record(1, {"prompt": "p"})).response == ""
    assert prompt_of(Record(1, {"question": "q", "answer": "a"})).response == "a"


def test_damaged_lines_are_counted_and_the_rest_is_read(tmp_path) -> None:
    good = {"prompt": "p", "completion": "c"}
    path = lines(tmp_path / "a.jsonl", good, "{", "[1]", "", "7", {**good, "prompt": "q"})
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes() + b'{"prompt": "\xff", "completion": "c"}')
    screen = Screen()
    kept = [example.number for example in screen.examples(read_records(path))]
    assert kept == [1, 6]
    assert screen.dropped == {"unparseable": 2, "not an object": 2}
    assert screen.places == {"unparseable": [2, 7], "not an object": [3, 5]}
    assert screen_table(screen.summary())["note"] == "6 records read, 2 examples good."


def test_nothing_is_lost_nor_silently_kept(tmp_path) -> None:
    rows = [
        {"prompt": "2 + 2?", "completion": "It is 4."},
        {"prompt": "2 + 2?", "completion": "It is 4."},
        {"prompt": " 2+2 ?", "completion": "it is 4"},
        {"prompt": "2 - 2?", "completion": "It is 4."},
        {"prompt": "Сколько?", "completion": "Четыре."},
        {"prompt": "Combien font deux et deux ?", "completion": "La somme est de quatre."},
        {"prompt": "p", "completion": " "},
        {"prompt": "long", "completion": "word " * 50},
        "no json",
    ]
    path, rejected = lines(tmp_path / "a.jsonl", *rows), tmp_path / "bad.jsonl"
    screen = Screen(max_length=20, other_languages="drop")
    with screen.rejecting(rejected):
        kept = list(screen.examples(read_records(path)))
    bad = [json.loads(line) for line in rejected.read_text().splitlines()]
    assert [example.number for example in kept] == [1, 4], "a sign of arithmetic makes a difference"
    assert [(each["number"], each["reason"]) for each in bad] == [
        (2, "duplicate"), (3, "near duplicate"), (5, "not Latin script"), (6, "not English"),
        (7, "empty response"), (8, "over-long"), (9, "unparseable"),
    ]  # fmt: skip
    assert bad[0]["record"] == rows[1]
    assert bad[-1]["text"] == "no json"
    assert screen.read == len(kept) + len(bad) == len(rows)

    lenient = Screen(duplicates="keep")
    assert len(list(lenient.examples(read_records(path)))) == 7
    assert lenient.flagged == {
        "duplicate": 1, "near duplicate": 1, "not Latin script": 1, "not English": 1,
    }  # fmt: skip
    with pytest.raises(UserError, match=r"a.jsonl, record 2: duplicate"):
        list(Screen(on_bad="refuse", source="a.jsonl").examples(read_records(path)))


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("How many apples do they have if each of them buys two more than before?", "en"),
        ("Translate to French: the cat is on the table. Le chat est sur la table.", "en"),
        ("Wie viele Äpfel haben sie, wenn jeder von ihnen zwei mehr kauft als zuvor?", "de"),
        ("Combien de pommes ont-ils si chacun en achète deux de plus qu'avant ?", "fr"),
        ("¿Cuántas manzanas tienen si cada uno de ellos compra dos más que antes?", "es"),
        ("Quante mele hanno se ognuno di loro ne compra due in più rispetto alla volta?", "it"),
        ("Quantas maçãs eles têm se cada um deles compra mais duas do que os outros?", "pt"),
        ("Hoeveel appels hebben ze als ieder van hen er twee meer koopt dan de ander?", "nl"),
        ("Hur många äpplen har de om var och en av dem köper två mer än den andra?", "sv"),
        ("Ile jabłek mają, jeśli każdy z nich kupi po dwa więcej niż jest na stole?", "pl"),
        ("def add(a, b):\n    return a + b\nfor i in range(10):\n    print(add(i, i))", None),
        ("3 + 4 = 7 , 7 - 2 = 5 => 5", None),
        ("La Paz, De Niro, El Greco, Van Gogh", None),
        ("\\frac{a}{b} = \\sqrt{x^2 + y^2} \\quad \\sum_i a_i e_i", None),
        ("", None),
    ],
)
def test_languages_are_told_by_their_little_words(text, language) -> None:
    assert language_of(text) == language


def test_rejected_records_appear_whole_or_not_at_all(tmp_path) -> None:
    screen = Screen()

    def records():
        yield Record(1, None, "unparseable")
        raise KeyError

    with pytest.raises(KeyError), screen.rejecting(tmp_path / "bad.jsonl"):
        list(screen.examples(records()))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["out.jsonl", "out.jsonl.gz", "out.parquet"])
def test_written_records_are_read_back(tmp_path, name) -> None:
    rows = [{"messages": [ASKED, SAID], "id": n} for n in range(3)] + [
        {"messages": [BRIEF, ASKED, SAID], "id": 3, "note": "late"}
    ]
    assert write_records(tmp_path / name, iter(rows)) == 4
    found = [record.content for record in read_records(tmp_path / name)]
    assert [row["messages"] for row in found] == [row["messages"] for row in rows]
    assert found[3]["note"] == "late", "a column that only the last record has"
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_failed_write_leaves_the_old_file(tmp_path) -> None:
    path = lines(tmp_path / "out.jsonl", {"prompt": "old"})

    def breaks():
        yield {"prompt": "new"}
        raise KeyError

    for target in (path, tmp_path / "out.parquet"):
        with pytest.raises(KeyError):
            write_records(target, breaks())
    assert path.read_text() == '{"prompt": "old"}\n'
    assert [each.name for each in tmp_path.iterdir()] == ["out.jsonl"]


def test_types_of_a_parquet_file_are_kept(tmp_path) -> None:
    import pyarrow as pa

    table = pa.table({"prompt": ["a", "b"], "score": pa.array([1, 2], pa.int8())})
    pq.write_table(table, tmp_path / "in.parquet")
    rows = (record.content for record in read_records(tmp_path / "in.parquet"))
    write_records(tmp_path / "out.parquet", rows, like=tmp_path / "in.parquet")
    assert pq.read_table(tmp_path / "out.parquet").equals(table)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.with_name("nowhere.jsonl"), "There is no file"),
        (lambda path: lines(path, ""), "is empty"),
        (lambda path: lines(path, "[{]"), "is not JSON"),
    ],
)
def test_files_that_cannot_be_read_are_said(tmp_path, make, message) -> None:
    with pytest.raises(UserError, match=message):
        list(read_records(make(tmp_path / "a.jsonl")))


def test_a_torn_gzip_is_said(tmp_path) -> None:
    whole = gzip.compress(json.dumps({"prompt": "p" * 1000}).encode() * 50)
    (tmp_path / "a.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="is damaged"):
        list(read_records(tmp_path / "a.jsonl.gz"))
    (tmp_path / "a.parquet").write_bytes(b"nonsense")
    with pytest.raises(UserError, match="no Parquet file"):
        list(read_records(tmp_path / "a.parquet"))


@pytest.mark.parametrize("newest", [1, 2, 7])
def test_seen_keys_are_a_set(newest) -> None:
    seen, known = SeenKeys(newest=newest), set()
    few = np.random.default_rng(0).integers(2**63, size=20, dtype=np.uint64) * 2 + 1
    for key in np.random.default_rng(1).choice(few, 100).tolist():
        assert seen.add(key) == (key not in known)
        known.add(key)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.text(st.characters(max_codepoint=126)))
def test_case_spaces_and_punctuation_make_no_difference(text) -> None:
    once = words_and_signs(text)
    assert words_and_signs(once) == once
    assert words_and_signs(f" {text.swapcase()}\n") in (once, f" {text.swapcase()}\n")
    assert latin_share(text) == 1


@pytest.mark.parametrize("name", ["big.jsonl", "big.jsonl.gz", "big.parquet"])
def test_memory_does_not_grow_with_the_file(tmp_path, name) -> None:
    long = "word " * 200
    rows = ({"prompt": f"{n} {long}", "completion": long} for n in range(3_000))
    write_records(tmp_path / name, rows)
    tracemalloc.start()
    try:
        screen = Screen(duplicates="exact")
        count = sum(1 for _ in screen.examples(read_records(tmp_path / name)))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == 3_000
    assert peak < 0.7 * 3_000 * 2 * len(long), "one batch of a thousand rows, at most"


def test_hub_data_are_streamed(monkeypatch) -> None:
    asked, taken = [], []

    def rows():
        for number in range(1_000_000):
            taken.append(number)
            yield {"prompt": f"p{number}", "completion": "c"}

    def load(repository, config, *, streaming):
        asked.append((repository, config, streaming))
        return {"train": rows(), "test": rows()}

    monkeypatch.setattr("datasets.load_dataset", load)
    records = read_records("hf:org/name:small", split="test")
    assert [next(records).number for _ in range(2)] == [1, 2]
    assert asked == [("org/name", "small", True)]
    assert len(taken) == 2
    with pytest.raises(UserError, match="has the splits train, test; choose one with --split"):
        next(read_records("hf:org/name", split="dev"))
    with pytest.raises(UserError, match="names no dataset"):
        next(read_records("hf:"))


def test_a_hub_out_of_reach_is_said(monkeypatch) -> None:
    def load(*_, **__):
        raise ConnectionError("offline")

    monkeypatch.setattr("datasets.load_dataset", load)
    with pytest.raises(UserError, match="Could not stream the dataset org/name from the hub: offl"):
        next(read_records("hf:org/name"))
