"""People's own data: a table in a file, a saved dataset or the hub, as a `datasets.Dataset`.

A file is checked and copied once into an Arrow file under `GENERALITY_HOME`, a block at a time, and
used from there memory-mapped: memory does not grow with the file, and a second reading is instant.
"""

from __future__ import annotations

import codecs
import contextlib
import csv
import difflib
import gzip
import io
import json
import os
import time
import uuid
import zlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NoReturn

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet
import xxhash
from datasets import ClassLabel, Dataset, DatasetDict, Value, load_dataset, load_from_disk
from jaxtyping import Float

from generality.errors import UserError, unknown
from generality.home import home

FORMATS = ("csv", "tsv", "jsonl", "ndjson", "json", "parquet", "arrow", "feather")
_VERSION = 1  # of the stored Arrow files; another one makes them again
_BLOCK = 16 << 20  # bytes of a CSV file parsed at once; also the longest row
_ROWS = 10_000  # rows of a JSON or Parquet file converted at once
_MISSING = ("", "#N/A", "N/A", "n/a", "NA", "NULL", "null", "NaN", "nan", "-nan", "-NaN")
_SUM_TOLERANCE = 0.02  # probabilities are often written with two decimals


def read_table(
    path_or_name: str | Path,
    *,
    text: str = "text",
    label: str | None = None,
    weak_label: str | None = None,
    columns: Mapping[str, str] | None = None,
    split: str | None = None,
    allow_missing: bool = False,
) -> Dataset:
    """Read a table of texts, and check what most often goes wrong before anything is trained.

    Reads CSV, TSV, JSON (an array of objects, or one object a line) and those with .gz, Parquet,
    Arrow and Feather files, folders written by `Dataset.save_to_disk`, and `hf:org/name[:config]`
    from the hub. The result has the columns `text` (string), `label` and `weak_label` where named,
    and all others as they are. A column that stands in the way of one of these names is kept as
    `<name>_in_file`. Labels stay what they were: see `encode_labels` and `read_probabilities`.

    Args:
        path_or_name: the file, folder or `hf:` name.
        text: the column of texts; missing ones become "".
        label: the column of true labels.
        weak_label: the column of labels from a weaker source, or of its probabilities.
        columns: further columns to rename, as `{new name: name in the file}`.
        split: which split of a saved `DatasetDict` or hub dataset; None where there is only one.
        allow_missing: rows without a label (blank, NaN, NA, null) are accepted.

    Raises:
        UserError: for anything wrong with the file or its columns, saying what to do.

    >>> read_table("no-such-table.csv")
    Traceback (most recent call last):
    generality.errors.UserError: There is no file no-such-table.csv.
    """
    name = str(path_or_name)
    wanted = dict(columns or {})
    wanted["text"] = text
    wanted |= {k: v for k, v in (("label", label), ("weak_label", weak_label)) if v is not None}
    if name.startswith("hf:"):
        dataset = _from_hub(name, split)
    else:
        dataset = read_rows(path_or_name, split=split, as_text=[text])
    dataset = _rename(dataset, wanted, name)
    dataset = _check_text(dataset, text, name)
    for role in ("label", "weak_label"):
        if role in wanted:
            _check_labels(dataset, role, f"{name}: column '{wanted[role]}'", allow_missing)
    return dataset


def read_rows(
    path: str | Path, *, split: str | None = None, as_text: Collection[str] = ()
) -> Dataset:
    """Read a file, a saved dataset or one on the hub (`hf:org/name`), its columns as they are.

    In CSV and TSV a column whose every value is a whole number, a number, or true/false gets that
    type, and its blanks are missing; names in `as_text` and codes such as 007 stay strings.

    Raises:
        UserError: for a file that is not there, empty, malformed or not in UTF-8.
    """
    if str(path).startswith("hf:"):
        return _from_hub(str(path), split)
    path = Path(path).expanduser()
    if not path.exists():
        raise _not_found(path)
    if path.is_dir():
        return _from_folder(path, split)
    if split is not None:
        raise UserError(f"{path} is one file and has no splits; leave split out.")
    kind = _format(path)
    if path.stat().st_size == 0:
        raise UserError(f"{path} is empty.")
    return _stored(path, kind, frozenset(as_text))


def encode_labels(
    dataset: Dataset, column: str, label_names: Sequence[str] | None = None
) -> tuple[list[int | None], list[str]]:
    """Labels as codes 0 … K−1 and the names of the codes; a missing label is None.

    Classes are in their natural order: numbers by size, false before true, strings sorted (by
    size where all are whole numbers), a `ClassLabel` in its own order. With `label_names`, a label
    is looked up by name, or, where no label is a name, taken as a code.

    Raises:
        UserError: for an unknown column or label, labels that are no classes (fractions, lists),
            no label at all, or more `label_names` than rows.

    >>> data = Dataset.from_dict({"label": ["pos", None, "neg"]})
    >>> encode_labels(data, "label")
    ([1, None, 0], ['neg', 'pos'])
    >>> encode_labels(Dataset.from_dict({"weak": [1, 0, 1]}), "weak", ["neg", "pos"])
    ([1, 0, 1], ['neg', 'pos'])
    """
    if column not in dataset.column_names:
        raise unknown("column", column, dataset.column_names)
    where = f"Column '{column}'"
    values = _labels(dataset, column, where)
    if label_names is None and isinstance(dataset.features[column], ClassLabel):
        label_names = dataset.features[column].names
    present = {v for v in values if v is not None}
    if label_names is None:
        classes = _natural_order(present, where)
        if not classes:
            raise UserError(f"{where} has no labels.")
        codes = {value: code for code, value in enumerate(classes)}
        return [None if v is None else codes[v] for v in values], [_name(v) for v in classes]

    names = list(label_names)
    if len(names) > len(values):
        raise UserError(f"{where}: {len(names)} classes are more than the {len(values)} rows.")
    codes = {value: names.index(_name(value)) for value in present if _name(value) in names}
    if not codes and all(isinstance(v, int) and 0 <= v < len(names) for v in present):
        codes = {value: int(value) for value in present}
    for value in sorted(present - set(codes), key=str):
        raise UserError(f"{where}: {unknown('label', _name(value), names)}")
    return [None if v is None else codes[v] for v in values], names


def read_probabilities(
    dataset: Dataset, columns: str | Sequence[str]
) -> Float[np.ndarray, "n classes"]:
    """Class probabilities of a weak model: rows in [0, 1] that sum to 1.

    Args:
        dataset: where the columns are.
        columns: one float column (the probability of class 1, of two), one column of lists (class
            0 … K−1), or K columns, in the order of the classes.

    Raises:
        UserError: for an unknown column, a value that is missing, no number or outside [0, 1], or
            a row whose sum is further than 0.02 from 1 (nearer ones are scaled to it).

    >>> read_probabilities(Dataset.from_dict({"p": [0.25, 1.0]}), "p")
    array([[0.75, 0.25],
           [0.  , 1.  ]])
    """
    names = [columns] if isinstance(columns, str) else list(columns)
    for name in names:
        if name not in dataset.column_names:
            raise unknown("column", name, dataset.column_names)
    if not names:
        raise ValueError("columns names at least one column")
    if not len(dataset):
        raise UserError("There are no rows to read probabilities from.")
    where = f"Column{'s' if len(names) > 1 else ''} {', '.join(repr(n) for n in names)}"
    arrays = [_floats(dataset, name, where) for name in names]
    if len(names) > 1 and any(a.ndim == 2 for a in arrays):
        raise UserError(f"{where}: give one column of lists, or several columns of numbers.")
    values = arrays[0] if arrays[0].ndim == 2 else np.stack(arrays, axis=1)
    if values.shape[1] == 0:
        raise UserError(f"{where}: the lists are empty.")

    _refuse_rows(np.isnan(values).any(axis=1), f"{where}: a probability is missing", "fill it in")
    _refuse_rows(
        ((values < 0) | (values > 1)).any(axis=1),
        f"{where}: a probability lies outside [0, 1]",
        "divide percentages by 100, or take the softmax of logits",
    )
    if values.shape[1] == 1:
        return np.concatenate([1 - values, values], axis=1)
    sums = values.sum(1)
    _refuse_rows(
        np.abs(sums - 1) > _SUM_TOLERANCE,
        f"{where}: the probabilities of a row do not sum to 1",
        "name one column for each class",
    )
    return values / sums[:, None]


# What a table must be


def _rename(dataset: Dataset, wanted: Mapping[str, str], where: str) -> Dataset:
    for old in wanted.values():
        if old not in dataset.column_names:
            raise UserError(f"{where}: {unknown('column', old, dataset.column_names)}")
    for old, count in Counter(wanted.values()).items():
        if count > 1:
            raise UserError(f"{where}: the column '{old}' is asked for as more than one thing.")
    new_names = {old: new for new, old in wanted.items()}
    aside = {new: f"{new}_in_file" for new, old in wanted.items() if new != old}
    mapping = {c: new_names.get(c, aside.get(c, c)) for c in dataset.column_names}
    if len(set(mapping.values())) < len(mapping):
        raise UserError(f"{where}: rename the columns {', '.join(aside)} in the file first.")
    changed = {old: new for old, new in mapping.items() if old != new}
    return dataset.rename_columns(changed) if changed else dataset


def _check_text(dataset: Dataset, column: str, where: str) -> Dataset:
    if len(dataset) == 0:
        raise UserError(f"{where} has columns but no rows.")
    kind = dataset.features["text"]
    if getattr(kind, "dtype", None) == "null":
        raise UserError(f"{where}: the column '{column}' is blank in every row.")
    if not isinstance(kind, Value) or kind.dtype not in ("string", "large_string"):
        raise UserError(f"{where}: the column '{column}' holds {_describe(kind)}, not text.")
    blank, missing = True, False
    for batch in dataset.select_columns("text").with_format("arrow").iter(_ROWS):
        values = batch["text"]
        missing = missing or values.null_count > 0
        trimmed = pc.utf8_length(pc.utf8_trim_whitespace(values))
        blank = blank and not pc.any(pc.greater(trimmed, 0)).as_py()
    if blank:
        raise UserError(f"{where}: the column '{column}' is blank in every row.")
    return _without_nulls(dataset) if missing else dataset


def _without_nulls(dataset: Dataset) -> Dataset:
    values = pa.chunked_array(
        [pc.fill_null(chunk, "") for chunk in dataset.with_format("arrow")["text"][:].chunks]
    )
    order = dataset.column_names
    return dataset.remove_columns("text").add_column("text", values).select_columns(order)


def _check_labels(dataset: Dataset, column: str, where: str, allow_missing: bool) -> None:
    if column == "weak_label" and _are_probabilities(dataset, column):
        return  # read_probabilities checks them
    values = _labels(dataset, column, where)
    missing = np.array([v is None for v in values])
    if missing.all():
        raise UserError(f"{where} is blank in every row.")
    if missing.any() and not allow_missing:
        _refuse_rows(
            missing,
            f"{where} has no label",
            "fill them in, drop the rows, or allow missing labels if only a part is labelled",
        )
    present = {v for v in values if v is not None}
    _natural_order(present, where)
    labelled = len(values) - int(missing.sum())
    if len(present) == 1:
        raise UserError(
            f"{where} has one class only, '{_name(present.pop())}'; a classifier needs two or more."
        )
    if len(present) > max(2, labelled / 2):
        raise UserError(
            f"{where} has {len(present)} different values in {labelled} rows; it looks like free "
            "text or an id. Name a column of classes."
        )


def _labels(dataset: Dataset, column: str, where: str) -> list[Any]:
    """The column's values: int, bool or stripped string, None where missing."""
    kind = dataset.features[column]
    values = list(dataset[column][:])
    if isinstance(kind, ClassLabel):  # −1 is the hub's word for no label
        return [None if v is None or v < 0 else kind.int2str(v) for v in values]
    if any(isinstance(v, (list, dict, bytes)) for v in values):
        raise UserError(f"{where} holds {_describe(kind)}; a label is a number, a word or a bool.")
    return [_label(v, where) for v in values]


def _label(value: Any, where: str) -> Any:
    if isinstance(value, str):
        value = value.strip()
        return None if value in _MISSING else value
    if isinstance(value, float):
        if np.isnan(value):
            return None
        if not value.is_integer():
            raise UserError(
                f"{where} holds fractions such as {value:g}; a label is a class. Use a column of "
                "classes, or name it as the weak label if these are probabilities."
            )
        return int(value)
    return value


def _are_probabilities(dataset: Dataset, column: str) -> bool:
    kind = dataset.features[column]
    if not isinstance(kind, (Value, ClassLabel)):
        return True
    if not str(kind.dtype).startswith(("float", "double")):
        return False
    return any(v is not None and not float(v).is_integer() for v in dataset[column][:] if v == v)


def _natural_order(values: Collection[Any], where: str) -> list[Any]:
    if len({isinstance(v, str) for v in values}) > 1 or len({type(v) for v in values}) > 1:
        raise UserError(f"{where} mixes kinds of labels (numbers, words, bools); make them one.")
    if values and all(isinstance(v, str) and v.lstrip("-").isdecimal() for v in values):
        return sorted(values, key=lambda v: (int(v), v))
    return sorted(values)


def _name(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _describe(kind: Any) -> str:
    return f"values of type {kind.dtype}" if isinstance(kind, Value) else "lists or objects"


def _floats(dataset: Dataset, column: str, where: str) -> np.ndarray:
    values = list(dataset[column][:])
    if any(isinstance(v, list) for v in values):
        lengths = {len(v) if isinstance(v, list) else None for v in values}
        if len(lengths) > 1:
            raise UserError(f"{where}: the lists have different lengths, or some are missing.")
    try:
        return np.array(values, dtype=np.float64)  # None becomes NaN
    except (TypeError, ValueError):
        raise UserError(f"{where}: not every value is a number.") from None


def _refuse_rows(bad: Any, what: str, advice: str) -> None:
    rows = np.flatnonzero(bad)
    if len(rows):
        listing = ", ".join(str(i + 1) for i in rows[:5]) + (", …" if len(rows) > 5 else "")
        raise UserError(
            f"{what} in {len(rows)} of {len(bad)} rows ({'rows' if len(rows) > 1 else 'row'} "
            f"{listing}, not counting a header); {advice}."
        )


# Where a table comes from


def _not_found(path: Path) -> UserError:
    folder = path.parent
    if not folder.is_dir():
        return UserError(f"There is no file {path}: the folder {folder} does not exist.")
    names = [p.name for p in folder.iterdir() if not p.name.startswith(".")]
    near = difflib.get_close_matches(path.name, names, n=3)
    hint = f" Did you mean {' or '.join(repr(n) for n in near)}?" if near else ""
    return UserError(f"There is no file {path}.{hint}")


def _format(path: Path) -> str:
    suffixes = path.name.lower().split(".")[1:]
    zipped = bool(suffixes) and suffixes[-1] == "gz"
    kind = suffixes[-2 if zipped else -1] if len(suffixes) > zipped else ""
    if kind not in FORMATS:
        raise UserError(
            f"{path}: a table is one of .{', .'.join(FORMATS)} (the first five also .gz), a folder "
            "written by save_to_disk, or hf:org/name; save or export it as one of these."
        )
    if zipped and kind in ("parquet", "arrow", "feather"):
        raise UserError(f"{path}: {kind} files are compressed inside; gunzip this one first.")
    return kind


def _from_folder(path: Path, split: str | None) -> Dataset:
    try:
        found = load_from_disk(str(path))
    except FileNotFoundError:
        raise UserError(
            f"{path} is a folder, but not one written by save_to_disk; name a file in it."
        ) from None
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise UserError(f"{path} is a damaged dataset folder: {error}") from error
    return pick_split(found, split, str(path))


def _from_hub(name: str, split: str | None) -> Dataset:
    repository, _, config = name.removeprefix("hf:").partition(":")
    if not repository:
        raise UserError(f"'{name}' names no dataset; write hf:org/name or hf:org/name:config.")
    return pick_split(hub_dataset(repository, config or None), split, name)


def hub_dataset(
    repository: str, config: str | None = None, revision: str | None = None
) -> DatasetDict:
    """All splits of a hub dataset; what goes wrong there is a `UserError`."""
    try:
        return load_dataset(repository, config, revision=revision)
    except (
        OSError,
        ValueError,
        RuntimeError,
        httpx.HTTPError,
    ) as error:  # not found, offline, no such config
        raise UserError(
            f"Could not load the dataset {repository} from the hub: {error}. Where the hub is out "
            "of reach, read a local copy of its files."
        ) from error


def pick_split(found: Dataset | DatasetDict, split: str | None, where: str) -> Dataset:
    """The named split, or the only one; `where` it is looked for goes into the error."""
    if isinstance(found, Dataset):
        if split is not None:
            raise UserError(f"{where} is one dataset and has no splits; leave split out.")
        return found
    if split is None and len(found) == 1:
        return next(iter(found.values()))
    if split is None:
        raise UserError(f"{where} has the splits {', '.join(found)}; say which one with split.")
    if split not in found:
        raise UserError(f"{where}: {unknown('split', split, found)}")
    return found[split]


# From a file to an Arrow file


def _tables_home() -> Path:
    return home() / "tables"


def forget_tables(*, older_than_days: float) -> int:
    """Remove the Arrow copies of tables not read for this many days; returns bytes freed."""
    freed = 0
    for stored in _tables_home().glob("*"):
        state = stored.stat()
        if time.time() - state.st_mtime > older_than_days * 86_400:
            freed += state.st_size
            stored.unlink(missing_ok=True)
    return freed


def _stored(path: Path, kind: str, as_text: frozenset[str]) -> Dataset:
    state = path.stat()
    key = xxhash.xxh3_128_hexdigest(
        json.dumps(
            [_VERSION, str(path.resolve()), state.st_size, state.st_mtime_ns, sorted(as_text)]
        ).encode("utf-8", "surrogatepass")
    )
    stored = _tables_home() / f"{key}.arrow"
    if stored.exists():
        try:
            with contextlib.suppress(OSError):  # a cache shared read-only
                os.utime(stored)  # when it was last used, for `forget_tables`
            return Dataset.from_file(str(stored))
        except (pa.ArrowException, OSError):
            stored.unlink(missing_ok=True)  # damaged; it is only a copy
    try:
        schema, batches = _open(path, kind, as_text)
        _check_columns(schema.names, path)
        _write(stored, schema, batches, path)
        return Dataset.from_file(str(stored))
    except (pa.ArrowException, EOFError, gzip.BadGzipFile, zlib.error) as error:
        _explain(path, error)
    except OSError as error:
        raise UserError(f"Could not read {path}: {error}") from error
    except (NotImplementedError, ValueError) as error:
        raise UserError(f"{path} has a column of a type that cannot be read: {error}") from error


def _explain(path: Path, error: Exception) -> NoReturn:
    message = str(error).splitlines()[0] if str(error) else type(error).__name__
    if "straddling" in message:
        message = f"a row is longer than {_BLOCK >> 20} MiB; a quote is probably never closed"
    raise UserError(f"{path} is damaged or malformed: {message}") from error


def _write(
    target: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch], source: Path
) -> None:
    """Stream the batches to `target`, atomically; a table without rows is refused."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}.{uuid.uuid4().hex}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        rows = 0
        with temporary.open("wb") as file:
            with pa.ipc.new_stream(file, schema) as writer:
                for batch in batches:
                    rows += batch.num_rows
                    writer.write_batch(batch)
            file.flush()
            os.fsync(file.fileno())
        if rows == 0:
            raise UserError(f"{source} has columns but no rows.")
        os.replace(temporary, target)
    except gzip.BadGzipFile:
        raise  # an OSError that is about the source
    except OSError as error:
        raise UserError(f"Could not read {source} into {target.parent}: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def _check_columns(names: Sequence[str], path: Path) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise UserError(f"{path} has more than one column named '{twice[0]}'; rename all but one.")
    if not names:
        raise UserError(f"{path} has no columns.")


def _open(
    path: Path, kind: str, as_text: frozenset[str]
) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    if kind in ("csv", "tsv"):
        return _open_csv(path, "\t" if kind == "tsv" else _delimiter(path), as_text)
    if kind in ("jsonl", "ndjson", "json"):
        return _open_json(path)
    if kind == "parquet":
        parquet = pa.parquet.ParquetFile(path)
        schema = _plain_schema(parquet.schema_arrow)
        return schema, _cast(parquet.iter_batches(_ROWS), schema)
    return _open_arrow(path)


def _open_arrow(path: Path) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    source = pa.memory_map(str(path))
    if source.read(6) == b"ARROW1":
        reader = pa.ipc.open_file(source)
        batches = (reader.get_batch(i) for i in range(reader.num_record_batches))
        schema = _plain_schema(reader.schema)
        return schema, _cast(batches, schema)
    source.seek(0)
    stream = pa.ipc.open_stream(source)
    schema = _plain_schema(stream.schema)
    return schema, _cast(stream, schema)


def _plain_schema(schema: pa.Schema) -> pa.Schema:
    """Dictionary columns as their values, string views as strings, without the index of pandas."""
    fields = []
    for field in schema:
        kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
        kind = pa.string() if pa.types.is_string_view(kind) else kind
        if not field.name.startswith("__index_level_"):
            fields.append(pa.field(field.name, kind, metadata=field.metadata))
    metadata = {k: v for k, v in (schema.metadata or {}).items() if k == b"huggingface"}
    return pa.schema(fields, metadata=metadata)


def _cast(batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        places = [i for i, n in enumerate(batch.schema.names) if n in schema.names]
        arrays = [
            array if array.type == field.type else array.cast(field.type)
            for array, field in zip((batch.column(i) for i in places), schema, strict=True)
        ]
        yield pa.RecordBatch.from_arrays(arrays, schema=schema)


# Text files


def _zipped(path: Path) -> bool:
    return path.suffix.lower() == ".gz"


def _bytes(path: Path) -> IO[bytes]:
    if _zipped(path):
        return gzip.open(path)  # type: ignore[return-value]
    return path.open("rb")


def _check_utf8(path: Path) -> None:
    """Refuse a file that is blank or not in UTF-8, saying where and how to convert it."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    position, lines, blank = 0, 1, True
    with _bytes(path) as file:
        while True:
            block = file.read(1 << 20)
            pending = len(decoder.getstate()[0])
            try:
                text = decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                at = position - pending + error.start
                line = lines + error.object[: error.start].count(b"\n")
                first = position == 0 and error.object[:2] in (b"\xff\xfe", b"\xfe\xff")
                encoding = "UTF-16" if first else "WINDOWS-1252"
                raise UserError(
                    f"{path} is not in UTF-8: byte {at} (line {line}) is "
                    f"0x{error.object[error.start]:02x}. Save it as UTF-8, or, if it is in "
                    f"{encoding}: iconv -f {encoding} -t UTF-8 {path.name} > new-{path.name}"
                ) from None
            if not block:
                break
            blank = blank and not text.strip("\ufeff \t\r\n")
            lines += block.count(b"\n")
            position += len(block)
    if blank:
        raise UserError(f"{path} is empty.")


def _delimiter(path: Path) -> str:
    """The comma, unless the header has none but has semicolons or tabs."""
    _check_utf8(path)
    with _bytes(path) as file:
        header = file.readline(_BLOCK).decode("utf-8", "replace")
    return next((mark for mark in ",;\t" if mark in header), ",")


def _open_csv(
    path: Path, delimiter: str, as_text: frozenset[str]
) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    """Two passes: the first finds malformed rows and the tightest type of each column."""
    _check_utf8(path)
    names: list[str] = []
    kinds: list[pa.DataType] = []
    last = ""
    for batch in _csv_batches(path, delimiter):
        if not names:
            names = [name or f"column_{i}" for i, name in enumerate(batch.schema.names, start=1)]
            _check_columns(names, path)
            kinds = [pa.string() if name in as_text else pa.null() for name in names]
        kinds = [_tightest(c, kind) for c, kind in zip(batch.columns, kinds, strict=True)]
        if batch.num_rows:
            last = batch.column(batch.num_columns - 1)[-1].as_py()
    if not names:
        raise UserError(f"{path} has columns but no rows.")
    _check_last_quote(path, last)
    kinds = [pa.string() if kind == pa.null() else kind for kind in kinds]
    schema = pa.schema(list(zip(names, kinds, strict=True)))
    return schema, (_typed(batch, schema) for batch in _csv_batches(path, delimiter))


def _csv_batches(path: Path, delimiter: str) -> Iterator[pa.RecordBatch]:
    """Every cell as a string, a block at a time."""
    malformed: list[pa.csv.InvalidRow] = []

    def refuse(row: pa.csv.InvalidRow) -> str:
        malformed.append(row)
        return "error"

    def reader(**types: Any) -> pa.csv.CSVStreamingReader:
        return pa.csv.open_csv(
            pa.input_stream(str(path), compression="gzip" if _zipped(path) else None),
            read_options=pa.csv.ReadOptions(use_threads=False, block_size=_BLOCK),
            parse_options=pa.csv.ParseOptions(
                delimiter=delimiter, newlines_in_values=True, invalid_row_handler=refuse
            ),
            convert_options=pa.csv.ConvertOptions(**types),
        )

    try:
        names = reader().schema.names
        yield from reader(column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False)
    except pa.ArrowInvalid:
        if not malformed:
            raise
        row = malformed[0]
        cells = "1 cell" if row.actual_columns == 1 else f"{row.actual_columns} cells"
        raise UserError(
            f"{path}, line {_line(path, delimiter, row)}: {cells} where the header has "
            f"{row.expected_columns}. Put texts that hold the delimiter, a quote or a line break "
            "in double quotes, or save the table as JSONL or Parquet."
        ) from None


def _line(path: Path, delimiter: str, row: pa.csv.InvalidRow) -> int:
    """The line on which the first row of another length starts; Arrow only counts rows."""
    start = 1
    with io.TextIOWrapper(_bytes(path), encoding="utf-8-sig", newline="") as file:
        rows = csv.reader(file, delimiter=delimiter)
        try:
            for cells in rows:
                if cells and len(cells) != row.expected_columns:
                    return start
                start = rows.line_num + 1
        except csv.Error:  # a cell longer than the module's limit
            pass
    return row.number or start


def _check_last_quote(path: Path, last: str) -> None:
    """An open quote swallows the file's other rows; its cell does not end where a quote does."""
    if "\n" not in last:
        return
    with _bytes(path) as file:
        tail, lines = b"", 0
        while block := file.read(1 << 20):
            tail, lines = (tail + block)[-4096:], lines + block.count(b"\n")
    if not tail.rstrip(b"\r\n").endswith(b'"'):
        raise UserError(
            f"{path}: a quote opened on line {lines - last.count(chr(10)) + 1} is never closed; "
            "close it, or double the quotes inside quoted texts."
        )


def _tightest(values: pa.Array, kind: pa.DataType) -> pa.DataType:
    """The narrowest of `kind` and what is wider that holds these strings too.

    null < int64 < double < string, null < bool < string.
    """
    if kind == pa.string():
        return kind
    values = pc.utf8_trim_whitespace(values)
    values = values.filter(pc.invert(pc.is_in(values, pa.array(_MISSING))))
    if len(values) == 0:
        return kind
    if pc.any(pc.match_substring_regex(values, r"^[+-]?0\d")).as_py():
        return pa.string()  # a code such as 007
    ladder = {
        pa.null(): [pa.int64(), pa.float64(), pa.bool_()],
        pa.int64(): [pa.int64(), pa.float64()],
        pa.float64(): [pa.float64()],
        pa.bool_(): [pa.bool_()],
    }
    return next((k for k in ladder[kind] if _casts(values, k)), pa.string())


def _casts(values: pa.Array, kind: pa.DataType) -> bool:
    if kind == pa.bool_():
        return bool(pc.all(pc.is_in(pc.utf8_lower(values), pa.array(["true", "false"]))).as_py())
    try:
        values.cast(kind)
    except pa.ArrowInvalid:
        return False
    return True


def _typed(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    arrays = []
    for values, field in zip(batch.columns, schema, strict=True):
        if field.type != pa.string():
            values = pc.utf8_trim_whitespace(values)
            blank = pc.is_in(values, pa.array(_MISSING))
            values = pc.if_else(blank, None, values).cast(field.type)
        arrays.append(values)
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _open_json(path: Path) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    """Two passes: the first finds malformed rows and a type for each column."""
    _check_utf8(path)
    schema = pa.schema([])
    for columns in _json_batches(path):
        try:
            found = pa.schema([(name, pa.array(values).type) for name, values in columns.items()])
            schema = pa.unify_schemas([schema, found], promote_options="permissive")
        except (pa.ArrowException, OverflowError, UnicodeEncodeError):
            _refuse_column(path, columns, schema)
    batches = (
        pa.RecordBatch.from_arrays(
            [pa.array(columns.get(f.name, [None] * _height(columns)), f.type) for f in schema],
            schema=schema,
        )
        for columns in _json_batches(path)
    )
    return schema, batches


def _height(columns: Mapping[str, list[Any]]) -> int:
    return len(next(iter(columns.values())))


def _refuse_column(path: Path, columns: Mapping[str, list[Any]], schema: pa.Schema) -> NoReturn:
    for name, values in columns.items():
        try:
            found = pa.schema([(name, pa.array(values).type)])
            pa.unify_schemas([schema, found], promote_options="permissive")
        except UnicodeEncodeError:
            raise UserError(
                f"{path}: the column '{name}' holds half of a surrogate pair (such as \\ud800), "
                "which is no text; remove it."
            ) from None
        except (pa.ArrowException, OverflowError):
            raise UserError(
                f"{path}: the column '{name}' mixes kinds of values (such as numbers and words), "
                "or has a number too large; make them one kind."
            ) from None
    raise UserError(f"{path}: its rows do not agree on their columns.")


def _json_batches(path: Path) -> Iterator[dict[str, list[Any]]]:
    """Columns of `_ROWS` rows at a time; a key that a row lacks is None."""
    rows: list[dict[str, Any]] = []
    for row in _json_rows(path):
        rows.append(row)
        if len(rows) == _ROWS:
            yield _columns(rows)
            rows = []
    if rows:
        yield _columns(rows)


def _columns(rows: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def _json_rows(path: Path) -> Iterator[dict[str, Any]]:
    with _bytes(path) as file:
        start = file.read(4096).lstrip(b"\xef\xbb\xbf \t\r\n")
        file.seek(0)
        if start.startswith(b"["):
            yield from _json_array(path, file.read())
            return
        for number, line in enumerate(file, start=1):
            line = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
            if line.strip():
                yield _json_row(line, f"{path}, line {number}")


def _json_array(path: Path, data: bytes) -> Iterator[dict[str, Any]]:
    try:
        rows = json.loads(data.decode("utf-8-sig"), object_pairs_hook=_Row)
    except json.JSONDecodeError as error:
        raise UserError(f"{path}, line {error.lineno}: not JSON: {error.msg}.") from None
    for number, row in enumerate(rows, start=1):
        yield _checked_row(row, f"{path}, item {number}")


def _json_row(line: bytes, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line, object_pairs_hook=_Row)
    except json.JSONDecodeError as error:
        raise UserError(
            f"{where}: not JSON: {error.msg}. A table is one object a line, or an array of objects."
        ) from None
    return _checked_row(row, where)


class _Row(dict[str, Any]):
    """A JSON object that remembers a key given twice."""

    def __init__(self, pairs: Sequence[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        self.twice = (
            "" if len(self) == len(pairs) else Counter(k for k, _ in pairs).most_common()[0][0]
        )


def _checked_row(row: Any, where: str) -> dict[str, Any]:
    if not isinstance(row, _Row) or not row:
        raise UserError(f'{where}: a row is an object such as {{"text": "…", "label": 1}}.')
    if row.twice:
        raise UserError(f"{where} has more than one '{row.twice}'; rename all but one.")
    return row
