import csv
import gzip
import io
import json
import os
import string
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from generality.benchmarks import encode_labels, read_probabilities, read_table
from generality.benchmarks.table import forget_tables
from generality.errors import UserError

FORMATS = ("csv", "tsv", "jsonl", "json", "parquet", "arrow", "feather", "csv.gz", "jsonl.gz")


@pytest.fixture(autouse=True)
def _own_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENERALITY_HOME", str(tmp_path_factory.mktemp("home")))


def write(path: Path, data: dict[str, list[Any]]) -> Path:
    kind = path.name.split(".", 1)[1]
    names, rows = list(data), list(zip(*data.values(), strict=True))
    if kind.startswith(("csv", "tsv")):
        buffer = io.StringIO(newline="")
        dialect = "excel-tab" if kind.startswith("tsv") else "excel"
        writer = csv.writer(buffer, dialect, quoting=csv.QUOTE_MINIMAL)
        writer.writerow(names)
        writer.writerows(["" if v is None else v for v in row] for row in rows)
        content = buffer.getvalue().encode()
    elif kind.startswith("json"):
        objects = [dict(zip(names, row, strict=True)) for row in rows]
        text = json.dumps(objects) if kind == "json" else "\n".join(map(json.dumps, objects))
        content = text.encode()
    else:
        table = pa.table(data)
        if kind == "parquet":
            pa.parquet.write_table(table, path)
        elif kind == "feather":
            pa.feather.write_feather(table, path)
        else:
            with pa.ipc.new_stream(path, table.schema) as stream:
                stream.write_table(table)
        return path
    path.write_bytes(gzip.compress(content) if kind.endswith("gz") else content)
    return path


def refused(path: Path | str, match: str, **options: Any) -> None:
    with pytest.raises(UserError, match=match):
        read_table(path, **options)


# Round trips

cells = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(
        st.tuples(cells, st.sampled_from([0, 1]), st.floats(0, 1), st.booleans()),
        min_size=3,
        max_size=12,
    ),
    st.sampled_from(FORMATS),
    st.integers(0, 10**9),
)
@example([("007", 0, 0.5, True), ("1e5", 1, 0.1, True), ("true", 1, 0.0, False)], "csv", 1)
@example([("NA", 0, 0.5, True), ("", 1, 0.1, True), ('"', 1, 0.0, False)], "tsv", 2)
@example([("a\nb", 0, 0.5, True), ("c,d", 1, 0.1, True), ("e\u2028f", 1, 0.0, False)], "jsonl", 3)
def test_every_format_gives_back_what_was_written(
    tmp_path: Path, rows: list[tuple[str, int, float, bool]], kind: str, serial: int
) -> None:
    texts, labels, scores, flags = (list(column) for column in zip(*rows, strict=True))
    texts[0] += "a text"
    labels[:2] = [0, 1]
    data = {"review": texts, "truth": labels, "score": scores, "flag": flags}
    path = write(tmp_path / f"{serial}.{kind}", data)
    table = read_table(path, text="review", label="truth")
    path.unlink()
    assert table.column_names == ["text", "label", "score", "flag"]
    assert table["text"][:] == texts
    assert table["label"][:] == labels
    assert table["score"][:] == scores
    assert table["flag"][:] == flags


def test_a_saved_dataset_keeps_its_class_names(tmp_path: Path) -> None:
    features = Features({"text": Value("string"), "label": ClassLabel(names=["neg", "pos"])})
    data = Dataset.from_dict({"text": ["a", "b", "c"], "label": [1, 0, -1]}, features=features)
    data.save_to_disk(tmp_path / "one")
    table = read_table(tmp_path / "one", label="label", allow_missing=True)
    assert encode_labels(table, "label") == ([1, 0, None], ["neg", "pos"])
    data.to_parquet(tmp_path / "one.parquet")
    table = read_table(tmp_path / "one.parquet", label="label", allow_missing=True)
    assert encode_labels(table, "label") == ([1, 0, None], ["neg", "pos"])


def test_splits_are_named(tmp_path: Path) -> None:
    part = Dataset.from_dict({"text": ["a", "b"]})
    DatasetDict(train=part, test=part).save_to_disk(tmp_path / "two")
    assert len(read_table(tmp_path / "two", split="train")) == 2
    refused(tmp_path / "two", "has the splits train, test; say which")
    refused(tmp_path / "two", "Did you mean 'test'", split="tets")
    DatasetDict(train=part).save_to_disk(tmp_path / "lone")
    assert len(read_table(tmp_path / "lone")) == 2
    part.save_to_disk(tmp_path / "plain")
    refused(tmp_path / "plain", "has no splits", split="train")
    refused(write(tmp_path / "a.csv", {"text": ["a"]}), "has no splits", split="train")


def test_a_hub_dataset_is_read_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load(repository: str, config: str | None, **options: Any) -> DatasetDict:
        asked.append((repository, config, options))
        if repository == "org/none":
            raise FileNotFoundError("Dataset 'org/none' doesn't exist on the Hub")
        return DatasetDict(train=Dataset.from_dict({"sentence": ["a", "b"], "label": [0, 1]}))

    monkeypatch.setattr("generality.benchmarks.table.load_dataset", load)
    table = read_table("hf:org/name:en", text="sentence", label="label")
    assert table["text"][:] == ["a", "b"]
    assert asked == [("org/name", "en", {"revision": None})]
    refused("hf:org/none", "org/none.*doesn't exist")
    refused("hf:", "names no dataset")
    refused("hf:org/name", "Did you mean 'train'", split="trian", text="sentence")


def test_columns_are_renamed_and_none_is_lost(tmp_path: Path) -> None:
    data = {"text": ["x", "y"], "title": ["a", "b"], "y": [0, 1], "who": ["p", "q"]}
    path = write(tmp_path / "a.csv", data)
    table = read_table(path, text="title", label="y", columns={"domain": "who"})
    assert table.column_names == ["text_in_file", "text", "label", "domain"]
    assert table[0] == {"text_in_file": "x", "text": "a", "label": 0, "domain": "p"}
    refused(path, "more than one thing", text="title", label="title")
    refused(path, "Did you mean 'title'", text="titel")
    refused(path, "no column 'nope'", columns={"domain": "nope"})


def test_types_are_found_over_the_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(
        "text,int,float,bool,code,word,blank,late\n"
        "1,1, 2,true,007,a,,1\n"
        "2,NA,2.5,False,12,b,,2\n"
        "3, 3 ,nan,,13,1,,x\n"
    )
    table = read_table(path)
    assert table["text"][:] == ["1", "2", "3"]
    assert table["int"][:] == [1, None, 3]
    assert table["float"][:] == [2.0, 2.5, None]
    assert table["bool"][:] == [True, False, None]
    assert table["code"][:] == ["007", "12", "13"]
    assert table["word"][:] == ["a", "b", "1"]
    assert table["late"][:] == ["1", "2", "x"]


def test_a_type_is_found_past_the_first_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("generality.benchmarks.table._BLOCK", 1000)
    monkeypatch.setattr("generality.benchmarks.table._ROWS", 10)
    texts = [f'row "{i}",\nstill' for i in range(500)]
    label = [i % 2 for i in range(499)] + [1.0]
    late = [str(i) for i in range(499)] + ["word"]
    only_late = [None] * 499 + [["a list"]]
    path = write(tmp_path / "a.csv", {"text": texts, "label": label, "late": late})
    assert read_table(path, label="label")["text"][:] == texts
    assert read_table(path)["late"][:] == late
    path = write(tmp_path / "a.jsonl", {"text": texts, "label": label, "only_late": only_late})
    assert read_table(path, label="label")["label"][:] == label
    assert read_table(path)["only_late"][:] == only_late
    refused(
        write(tmp_path / "b.jsonl", {"text": texts, "late": [*label[:499], "x"]}), "'late' mixes"
    )


def test_other_writers_files_are_read(tmp_path: Path) -> None:
    semicolons = tmp_path / "excel.csv"
    semicolons.write_bytes("\ufefftext;label\r\nÜber, ja;1\r\nnein;0\r\n".encode())
    assert read_table(semicolons, label="label")["text"][:] == ["Über, ja", "nein"]

    frame = pd.DataFrame({"text": ["a", "b"], "label": pd.Categorical(["x", "y"])}, index=[3, 5])
    frame.to_parquet(tmp_path / "pandas.parquet")
    table = read_table(tmp_path / "pandas.parquet", label="label")
    assert table.column_names == ["text", "label"]
    assert encode_labels(table, "label") == ([0, 1], ["x", "y"])
    frame.to_csv(tmp_path / "pandas.csv")
    assert read_table(tmp_path / "pandas.csv").column_names == ["column_1", "text", "label"]

    ragged = tmp_path / "ragged.jsonl"
    ragged.write_text(
        '{"text": "c", "label": 0}\n{"text": "a"}\n\n{"label": 1, "text": "b", "x": {"y": [1]}}\n'
    )
    table = read_table(ragged, label="label", allow_missing=True)
    assert table["label"][:] == [0, None, 1]

    views = pa.table({"text": pa.array(["a", None], pa.string_view()), "n": [1, 2]})
    pa.parquet.write_table(views, tmp_path / "views.parquet")
    assert read_table(tmp_path / "views.parquet")["text"][:] == ["a", ""]


# Where the rows are kept


def test_a_second_reading_takes_the_kept_copy_and_a_changed_file_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "a.csv", {"text": ["a", "b"], "label": [0, 1]})
    first = read_table(path)
    with monkeypatch.context() as patch:
        patch.setattr("generality.benchmarks.table._open", None)  # not called
        assert read_table(path)[:] == first[:]
    write(path, {"text": ["a", "b", "c"], "label": [0, 1, 1]})
    assert len(read_table(path)) == 3


def test_a_damaged_copy_is_made_again(tmp_path: Path) -> None:
    from generality.home import home

    path = write(tmp_path / "a.csv", {"text": ["a", "b"]})
    read_table(path)
    (copy,) = (home() / "tables").iterdir()
    copy.write_bytes(b"damaged")
    assert read_table(path)["text"][:] == ["a", "b"]


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from generality.home import home

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    path = write(tmp_path / "a.csv", {"text": ["a", "b"]})
    monkeypatch.setattr("os.fsync", full)
    refused(path, "No space left on device")
    assert list((home() / "tables").iterdir()) == []


# What is refused


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    write(tmp_path / "reviews.csv", {"text": ["a"]})
    refused(tmp_path / "review.csv", "There is no file .*Did you mean 'reviews.csv'")
    refused(tmp_path / "nowhere" / "a.csv", "the folder .*nowhere does not exist")
    refused(tmp_path, "a folder, but not one written by save_to_disk")
    (tmp_path / "a.xlsx").write_bytes(b"PK")
    refused(tmp_path / "a.xlsx", "a table is one of .csv, .tsv")
    (tmp_path / "a.parquet.gz").write_bytes(b"")
    refused(tmp_path / "a.parquet.gz", "gunzip")


@pytest.mark.parametrize("kind", FORMATS)
def test_an_empty_file(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"a.{kind}"
    path.write_bytes(b"")
    refused(path, "is empty")
    if kind.startswith(("csv", "tsv", "json")):
        blank = b"\xef\xbb\xbf \n\r\n"
        path.write_bytes(gzip.compress(blank) if kind.endswith("gz") else blank)
        refused(path, "is empty")


@pytest.mark.parametrize("kind", ["csv", "tsv", "parquet", "arrow", "feather", "json"])
def test_a_table_without_rows(tmp_path: Path, kind: str) -> None:
    refused(write(tmp_path / f"a.{kind}", {"text": [], "label": []}), "no rows|no columns")


def test_another_encoding_is_located(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes("text,label\nfine,1\ncafé,0\n".encode("cp1252"))
    refused(path, r"byte 21 \(line 3\) is 0xe9.*iconv -f WINDOWS-1252 -t UTF-8 a.csv")
    path.write_bytes("text,label\n".encode("utf-16"))
    refused(path, r"byte 0 \(line 1\) is 0xff.*iconv -f UTF-16")
    path.write_bytes(b"text\n" + b"x" * ((1 << 20) - 6) + "é".encode() + b"\n\xc3")
    refused(path, rf"byte {(1 << 20) + 2} \(line 3\) is 0xc3")
    zipped = tmp_path / "a.jsonl.gz"
    zipped.write_bytes(gzip.compress(b'{"text": "\xff"}'))
    refused(zipped, r"byte 10 \(line 1\)")


def test_a_malformed_row_is_located(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('text,label\n"two\nlines",1\na, b,0\n')
    refused(path, "line 4: 3 cells where the header has 2")
    path.write_text("text,label\na,1\n\nb\n")
    refused(path, "line 4: 1 cell where the header has 2")
    path.write_text('label,text\n1,a\n0,"b\n1,c\n0,d\n')
    refused(path, "a quote opened on line 3 is never closed")
    path.write_text("text,text\na,b\n")
    refused(path, "more than one column named 'text'")
    lines = tmp_path / "a.jsonl"
    lines.write_text('{"text": "a"}\n{"text": "b"\n')
    refused(lines, "line 2: not JSON")
    lines.write_text('{"text": "a"}\n["b"]\n')
    refused(lines, "line 2: a row is an object")
    lines.write_text('{"text": "a", "text": "b"}\n')
    refused(lines, "more than one 'text'")
    lines.write_text('{"text": "\\ud800"}\n')
    refused(lines, "'text' holds half of a surrogate pair")
    lines.write_text('{"text": "a", "n": 1}\n{"text": "b", "n": "x"}\n')
    refused(lines, "'n' mixes kinds")
    array = tmp_path / "a.json"
    array.write_text('[{"text": "a"},\n{"text": }]')
    refused(array, "line 2: not JSON")
    array.write_text('[{"text": "a"}, 3]')
    refused(array, "item 2: a row is an object")


@pytest.mark.parametrize("kind", FORMATS)
def test_a_truncated_file(tmp_path: Path, kind: str) -> None:
    texts = [f"a longer text, number {i}" for i in range(2000)]
    path = write(tmp_path / f"a.{kind}", {"text": texts, "label": [i % 2 for i in range(2000)]})
    path.write_bytes(path.read_bytes()[:-7])
    if kind in ("csv", "tsv"):  # nothing tells a shorter last cell from a whole one
        path.write_bytes(path.read_bytes()[:-20])
    refused(path, "damaged|malformed|not JSON|cell", label="label")


def test_a_corrupt_parquet_file(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", {"text": [f"text {i}" for i in range(500)]})
    data = path.read_bytes()
    path.write_bytes(data[:8] + b"\xff" * 64 + data[72:])
    refused(path, "Could not read|damaged")
    path.write_bytes(b"not a parquet file")
    refused(path, "damaged")
    map_type = pa.map_(pa.string(), pa.int32())
    strange = pa.table({"text": ["a"], "m": pa.array([[("k", 1)]], map_type)})
    pa.parquet.write_table(strange, tmp_path / "b.parquet")
    refused(tmp_path / "b.parquet", "a type that cannot be read")


def test_columns_that_are_no_text(tmp_path: Path) -> None:
    refused(write(tmp_path / "a.parquet", {"text": [1, 2]}), "holds values of type int64, not text")
    refused(write(tmp_path / "b.parquet", {"text": [["a"], ["b"]]}), "holds lists or objects")
    refused(write(tmp_path / "c.jsonl", {"text": [None, None]}), "blank in every row")
    refused(write(tmp_path / "d.csv", {"text": ["", " "], "n": [1, 2]}), "blank in every row")


def labelled(tmp_path: Path, values: list[Any], kind: str = "jsonl") -> Path:
    texts = [f"text {i}" for i in range(len(values))]
    return write(tmp_path / f"labels.{kind}", {"text": texts, "label": values})


def test_labels_that_cannot_be_learned_from(tmp_path: Path) -> None:
    path = labelled(tmp_path, [1, 1, 1])
    refused(path, "one class only, '1'", label="label")
    path = labelled(tmp_path, [None, None])
    refused(path, "blank in every row", label="label", allow_missing=True)
    path = labelled(tmp_path, [f"free text {i}" for i in range(9)] + ["free text 1"])
    refused(path, "9 different values in 10 rows; it looks like free text", label="label")
    path = labelled(tmp_path, [0.5, 0.25, 1.0])
    refused(path, "holds fractions such as 0.5", label="label")
    path = labelled(tmp_path, [[1], [0]])
    refused(path, "a label is a number, a word or a bool", label="label")


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("blank", [None, float("nan"), "", " ", "NA", "null"])
def test_missing_labels_are_counted_or_allowed(tmp_path: Path, blank: Any, kind: str) -> None:
    words = isinstance(blank, str)
    values = ["pos", blank, "neg", blank, "pos"] if words else [1, blank, 0, blank, 1]
    if isinstance(blank, float):
        values = [float(v) for v in values]
    path = labelled(tmp_path, values, kind)
    refused(path, r"no label in 2 of 5 rows \(rows 2, 4, not", label="label")
    table = read_table(path, label="label", allow_missing=True)
    names = ["neg", "pos"] if words else ["0", "1"]
    assert encode_labels(table, "label") == ([1, None, 0, None, 1], names)


def test_a_weak_label_may_be_a_probability(tmp_path: Path) -> None:
    texts = ["a", "b", "c"]
    path = write(tmp_path / "a.jsonl", {"text": texts, "w": [0.1, 0.9, 0.5]})
    table = read_table(path, weak_label="w")
    assert read_probabilities(table, "weak_label")[:, 1].tolist() == [0.1, 0.9, 0.5]
    path = write(tmp_path / "b.jsonl", {"text": texts, "w": [[0.1, 0.9], [0.5, 0.5], [1, 0]]})
    assert read_probabilities(read_table(path, weak_label="w"), "weak_label").shape == (3, 2)
    path = write(tmp_path / "c.jsonl", {"text": texts, "w": [1, 1, 1]})
    refused(path, "column 'w' has one class only", weak_label="w")


# Labels


@settings(deadline=None)
@given(
    st.one_of(
        st.lists(st.one_of(st.none(), st.integers(-20, 20)), min_size=1),
        st.lists(st.one_of(st.none(), st.booleans()), min_size=1),
        st.lists(
            st.one_of(st.none(), st.text(string.ascii_letters, min_size=1, max_size=3)), min_size=1
        ),
    )
)
@example([10, 2, 1])
@example(["10", "2", "1"])
def test_codes_give_back_the_labels_in_their_natural_order(values: list[Any]) -> None:
    present = [v for v in values if v is not None and v not in ("NA", "nan", "NaN")]
    dataset = Dataset.from_dict({"label": values})
    if not present:
        with pytest.raises(UserError, match="has no labels"):
            encode_labels(dataset, "label")
        return
    codes, names = encode_labels(dataset, "label")
    known = [v for v in values if v in present]
    if all(str(v).lstrip("-").isdecimal() for v in known):
        ordered = sorted(set(known), key=int)
    else:
        ordered = sorted(set(known))
    assert names == [str(v).lower() if isinstance(v, bool) else str(v) for v in ordered]
    assert [ordered[c] if c is not None else None for c in codes] == [
        v if v in present else None for v in values
    ]
    again, _ = encode_labels(dataset, "label", names)
    if len(names) <= len(values):
        assert again == codes


def test_given_names_fix_the_codes() -> None:
    data = Dataset.from_dict(
        {"label": [" pos", "neg", "pos "], "code": [1, 0, 1], "flag": [1.0] * 3}
    )
    names = ["pos", "neg", "neutral"]
    assert encode_labels(data, "label", names) == ([0, 1, 0], names)
    assert encode_labels(data, "code", names)[0] == [1, 0, 1]
    assert encode_labels(data, "flag", ["no", "yes"])[0] == [1, 1, 1]
    with pytest.raises(UserError, match="Did you mean 'positive'"):
        encode_labels(data, "label", ["positive", "neg"])
    with pytest.raises(UserError, match="no label '0'"):
        encode_labels(data, "code", ["only"])
    with pytest.raises(UserError, match="4 classes are more than the 3 rows"):
        encode_labels(data, "label", list("abcd"))
    with pytest.raises(UserError, match="Did you mean 'label'"):
        encode_labels(data, "lable")


# Probabilities


@pytest.fixture
def votes() -> Dataset:
    return Dataset.from_dict(
        {
            "p": [0.2, 1.0],
            "neg": [0.33, 1.0],
            "mid": [0.33, 0.0],
            "pos": [0.33, 0.0],
            "all": [[0.1, 0.2, 0.7], [0.0, 0.0, 1.0]],
            "logit": [2.0, -1.0],
            "percent": [20.0, 100.0],
            "hole": [0.5, None],
            "word": ["0.5", "high"],
            "ragged": [[0.5, 0.5], [1.0]],
        }
    )


def test_probabilities_come_in_three_forms(votes: Dataset) -> None:
    assert read_probabilities(votes, "p").tolist() == [[0.8, 0.2], [0.0, 1.0]]
    assert read_probabilities(votes, "all").tolist() == votes["all"][:]
    several = read_probabilities(votes, ["neg", "mid", "pos"])
    np.testing.assert_allclose(several, [[1 / 3] * 3, [1, 0, 0]])


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ("logit", r"outside \[0, 1\] in 2 of 2 rows .*softmax"),
        ("percent", "divide percentages by 100"),
        ("hole", r"missing in 1 of 2 rows \(row 2"),
        ("word", "not every value is a number"),
        ("ragged", "different lengths"),
        (["neg", "mid"], "do not sum to 1"),
        (["all", "p"], "one column of lists, or several"),
        ("al", "Did you mean 'all'"),
    ],
)
def test_what_is_no_probability_is_refused(votes: Dataset, columns: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_probabilities(votes, columns)


@settings(deadline=None)
@given(st.integers(2, 6), st.integers(1, 20), st.integers(0, 999))
def test_probabilities_round_trip(k: int, n: int, seed: int) -> None:
    values = np.random.default_rng(seed).dirichlet(np.ones(k), size=n)
    as_lists = Dataset.from_dict({"p": values.tolist()})
    as_columns = Dataset.from_dict({f"p{i}": values[:, i] for i in range(k)})
    np.testing.assert_allclose(read_probabilities(as_lists, "p"), values)
    np.testing.assert_allclose(read_probabilities(as_columns, [f"p{i}" for i in range(k)]), values)


def test_copies_nobody_reads_are_forgotten(home: Path, tmp_path: Path) -> None:
    read, unread = tmp_path / "read.csv", tmp_path / "unread.csv"
    for path in (read, unread):
        path.write_text("text,label\nfine,1\n")
        read_table(path)
    kept = sorted((home / "tables").glob("*.arrow"))
    assert len(kept) == 2
    for copy in kept:
        os.utime(copy, (0, 0))
    read_table(read)
    assert forget_tables(older_than_days=1) > 0
    assert len(list((home / "tables").glob("*"))) == 1
    assert read_table(unread)["text"][:] == ["fine"]
