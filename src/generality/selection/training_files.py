"""The files people fine-tune with, read and written as streams: chats, prompts and completions.

Memory does not grow with a file: it is read a line or a batch of rows at a time, and written to a
temporary sibling that becomes the file when all is there.
"""

from __future__ import annotations

import datetime
import gzip
import json
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import xxhash

from generality.errors import UserError
from generality.lab.runs import write_atomically

Message = dict[str, Any]
"""{"role": "system", "user" or "assistant", "content": what is said}, as in `models.chat`; where
tools are called, their `tool_calls`, `tool_call_id` and `name` too."""

PROMPTS = ("prompt", "instruction", "question", "query", "problem", "input")
RESPONSES = ("completion", "response", "responses", "output", "answer", "solution")
CHATS = ("messages", "conversations")
"""Names under which a record's parts are looked for, in this order."""

SUFFIXES = (".jsonl", ".jsonl.gz", ".parquet")
_LINES = (".jsonl", ".ndjson", ".json")
_ROWS = 1_000  # of a Parquet file held at once
_TOOLS = ("tool_calls", "tool_call_id", "name")  # what a message may hold beside role and text
_ROLES = {"human": "user", "gpt": "assistant", "bot": "assistant", "model": "assistant"}


@dataclass(frozen=True)
class Record:
    """What stands on one line or in one row; `problem` says why `content` is none."""

    number: int
    content: dict[str, Any] | None
    problem: str = ""
    raw: str = ""


@dataclass(frozen=True)
class Columns:
    """The names of a record's parts where they are not the usual ones (`PROMPTS`, `RESPONSES`)."""

    prompt: str | None = None
    response: str | None = None
    source: str = "source"


@dataclass(frozen=True)
class Example:
    """What a model is given and one response to it.

    Attributes:
        number: line (or row) in its file, from 1.
        before: the messages that come before the response; one of a user for plain prompts.
        response: what the model is to say.
        record: the whole record, as it was.
        source: who wrote the response, "" where that is not said.
        candidate: the response's place among several of the record; None where it has one.
        column: the part of the record that holds the response.

    >>> chat = {"messages": [{"role": "user", "content": "2 + 2?"},
    ...                      {"role": "assistant", "content": "4"}]}
    >>> (example,) = examples_of(Record(1, chat))
    >>> example.prompt, example.response
    ('2 + 2?', '4')
    """

    number: int
    before: tuple[Message, ...]
    response: str
    record: dict[str, Any]
    source: str = ""
    candidate: int | None = None
    column: str = "completion"

    @property
    def prompt(self) -> str:
        """What comes before the response as one plain text."""
        if len(self.before) == 1 and self.before[0]["role"] == "user":
            return self.before[0]["content"]
        return "\n\n".join(f"{said['role']}: {_told(said)}" for said in self.before)

    @property
    def prompt_key(self) -> int:
        """64 bits that tell prompts apart."""
        return xxhash.xxh3_64_intdigest(self.prompt.encode("utf-8", "surrogatepass"))

    @property
    def key(self) -> int:
        """64 bits that tell examples apart."""
        return pair_key(self.prompt, self.response)


def _told(said: Message) -> str:
    """A message's text, with the tools that it calls."""
    calls = said.get("tool_calls")
    called = json.dumps(calls, ensure_ascii=False, default=str) if calls else ""
    return "\n".join(filter(None, (said["content"], called)))


def pair_key(prompt: str, response: str) -> int:
    """64 bits of a prompt and a response together."""
    return xxhash.xxh3_64_intdigest(f"{prompt}\0{response}".encode("utf-8", "surrogatepass"))


class BadRecord(ValueError):  # noqa: N818
    """A record that is no example; `kind` is one of a few words, for counting."""

    def __init__(self, kind: str, detail: str = "") -> None:
        super().__init__(detail or kind)
        self.kind = kind


# ------------------------------------------------------------------------------ reading


def read_records(source: str | Path, *, split: str | None = None) -> Iterator[Record]:
    """The records of a file, a saved dataset or one on the hub, one after another.

    JSONL (also .gz) is read line by line and Parquet in batches; `hf:org/name[:config]` streams
    from the hub; CSV, TSV, Arrow and saved datasets go through `benchmarks.read_rows`. A line that
    is no JSON object comes out with its problem: whoever reads decides what becomes of it. Blank
    lines are none.

    Raises:
        UserError: there is no such file, it cannot be read at all, or the split is not there.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder, "pairs.jsonl")
    ...     _ = path.write_text('{"prompt": "2 + 2?", "completion": "4"}\\n{"prompt": \\n')
    ...     [(record.number, record.problem) for record in read_records(path)]
    [(1, ''), (2, 'unparseable')]
    """
    if str(source).startswith("hf:"):
        yield from _numbered(_from_hub(str(source), split))
        return
    path = Path(source).expanduser()
    name = path.name.lower().removesuffix(".gz")
    if path.is_file() and split is not None:
        raise UserError(f"{path} is one file and has no splits; leave split out.")
    if path.is_file() and name.endswith(_LINES):
        yield from _lines(path)
    elif path.is_file() and name.endswith(".parquet"):
        yield from _numbered(_parquet_rows(path))
    elif path.is_file() and name.endswith(".txt"):
        yield from _text_lines(path)
    else:
        from generality.benchmarks import read_rows

        yield from _numbered(read_rows(path, split=split))


def _numbered(rows: Iterable[dict[str, Any]]) -> Iterator[Record]:
    for number, row in enumerate(rows, start=1):
        yield Record(number, row)


def _open(path: Path) -> Any:
    return gzip.open(path, "rb") if path.suffix.lower() == ".gz" else path.open("rb")


def _raw_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    try:
        with _open(path) as file:
            for number, line in enumerate(file, start=1):
                yield number, line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{path} is damaged: {error}. Compress or fetch it again.") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error


def _lines(path: Path) -> Iterator[Record]:
    empty = True
    for number, line in _raw_lines(path):
        if not line.strip():
            continue
        if empty and line.lstrip().startswith(b"["):
            yield from _array(path)
            return
        empty = False
        yield _line(number, line)
    if empty:
        raise UserError(f"{path} is empty.")


def _line(number: int, line: bytes) -> Record:
    raw = line.decode("utf-8", "replace").rstrip("\r\n")
    try:
        content = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError):  # UnicodeDecodeError is one too
        return Record(number, None, "unparseable", raw)
    if not isinstance(content, dict):
        return Record(number, None, "not an object", raw)
    return Record(number, content)


def _array(path: Path) -> Iterator[Record]:
    """A JSON array of objects, which has to be read whole."""
    with _open(path) as file:
        try:
            rows = json.loads(file.read().decode("utf-8-sig"))
        except (ValueError, RecursionError) as error:
            raise UserError(
                f"{path} is not JSON: {error}. Save it as JSONL, one object a line."
            ) from None
    for number, row in enumerate(rows, start=1):
        good = isinstance(row, dict)
        raw = "" if good else json.dumps(row)
        yield Record(number, row if good else None, "" if good else "not an object", raw)


def _text_lines(path: Path) -> Iterator[Record]:
    """One prompt a line."""
    for number, line in _raw_lines(path):
        if text := line.decode("utf-8", "replace").strip():
            yield Record(number, {"prompt": text})


def _parquet_rows(path: Path) -> Iterator[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        for batch in pq.ParquetFile(path).iter_batches(_ROWS):
            yield from batch.to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path} is no Parquet file that can be read: {error}") from error


def _from_hub(name: str, split: str | None) -> Iterator[dict[str, Any]]:
    import httpx
    from datasets import load_dataset

    repository, _, config = name.removeprefix("hf:").partition(":")
    if not repository:
        raise UserError(f"'{name}' names no dataset; write hf:org/name or hf:org/name:config.")
    try:
        found = load_dataset(repository, config or None, streaming=True)
        splits = list(found)
        wanted = split or (splits[0] if len(splits) == 1 else "train")
        if wanted not in splits:
            raise UserError(f"{name} has the splits {', '.join(splits)}; choose one with --split.")
        yield from (dict(row) for row in found[wanted])
    except (OSError, ValueError, RuntimeError, httpx.HTTPError) as error:
        raise UserError(
            f"Could not stream the dataset {repository} from the hub: {error}. Where the hub is "
            "out of reach, read a local copy of its files."
        ) from error


# ------------------------------------------------------------------------------ shapes


def examples_of(record: Record, columns: Columns | None = None) -> list[Example]:
    """The examples of one record: one, or one for each response of a column of several.

    Understood are `messages` (or ShareGPT's `conversations`), of which the last is the assistant's
    response; `prompt` and `completion` (texts or lists of messages); and pairs of columns such as
    instruction and output, question and answer, or those that `columns` names.

    Raises:
        BadRecord: the record is unparseable, lacks a part, has an empty one, or its messages are
            not messages.

    >>> [e.response for e in examples_of(Record(1, {"prompt": "2 + 2?", "responses": ["4", "5"]}))]
    ['4', '5']
    """
    before, column, found, source = _parts(record, columns or Columns())
    if found is None:
        raise BadRecord("missing field", "the record has no response")
    several = isinstance(found, list) and not _is_chat(found)
    responses = [_response(each) for each in (found if several else [found])]
    if not responses:
        raise BadRecord("empty response")
    assert record.content is not None
    sources = source if isinstance(source, list) and len(source) == len(responses) else None
    return [
        Example(
            record.number, before, response, record.content,
            str(sources[place] if sources else source if source is not None else ""),
            place if several else None, column,
        )
        for place, response in enumerate(responses)
    ]  # fmt: skip


def plain_pair(record: Record, data: str | Path) -> tuple[str, str]:
    """A record's prompt, its messages line by line without roles, and its first response.

    Raises:
        UserError: the record is no example; `data` is what the message calls its file.

    >>> plain_pair(Record(1, {"prompt": "2 + 2?", "responses": ["4", "5"]}), "sums.jsonl")
    ('2 + 2?', '4')
    """
    try:
        (example, *_) = examples_of(record)
    except BadRecord as error:
        raise UserError(f"Record {record.number} of {data} is no example: {error}.") from error
    return "\n".join(str(message["content"]) for message in example.before), example.response


def read_preferences(source: str | Path) -> list[tuple[str, str, str]]:
    """Prompt, preferred response and other one of each record of a file, as `trl` names them.

    Raises:
        UserError: a record without `prompt`, `chosen` and `rejected`.
    """
    found = []
    for record in read_records(source):
        fields = record.content or {}
        if not {"prompt", "chosen", "rejected"} <= {*fields}:
            raise UserError(f"{source}, record {record.number}: needs prompt, chosen and rejected.")
        found.append((fields["prompt"], fields["chosen"], fields["rejected"]))
    return found


def prompt_of(record: Record, columns: Columns | None = None) -> Example:
    """What a record asks, for data whose responses are still to be written.

    Its own response, where it has one, becomes the `response`, as a reference; else that is "".

    Raises:
        BadRecord: as `examples_of`, but for a missing or empty response.
    """
    before, column, found, source = _parts(record, columns or Columns())
    if isinstance(found, list) and not _is_chat(found):
        found = found[0] if found else None
    assert record.content is not None
    reference = "" if found is None else _response(found)
    return Example(
        record.number, before, reference, record.content, str(source or ""), column=column
    )


def _parts(record: Record, columns: Columns) -> tuple[tuple[Message, ...], str, Any, Any]:
    """Messages before the response, its column, the response as it stands, and its source."""
    content = record.content
    if content is None:
        raise BadRecord(record.problem)
    source = content.get(columns.source)
    if columns.prompt is None and columns.response is None:
        for name in CHATS:
            if content.get(name) is not None:
                before, found = _split_chat(_chat(content[name]))
                return before, name, found, source
    named = _named(content, columns.prompt, PROMPTS)
    if named is None:
        wanted = columns.prompt or ", ".join(PROMPTS)
        raise BadRecord("missing field", f"the record has no prompt ({wanted})")
    prompt = content[named]
    before = _before(prompt)
    if columns.prompt is None and "instruction" in content and content.get("input"):
        if prompt is content["instruction"]:  # Alpaca: the input belongs to the instruction
            before = _before(f"{prompt}\n\n{content['input']}")
    elif content.get("system") and isinstance(content["system"], str) and len(before) == 1:
        before = ({"role": "system", "content": content["system"]}, *before)
    column = _named(content, columns.response, RESPONSES)
    if column is None:
        return before, columns.response or "completion", None, source
    return before, column, content[column], source


def _named(content: Mapping[str, Any], name: str | None, usual: Sequence[str]) -> str | None:
    """The first of the names that the record has a value for."""
    found = ((n, content.get(n)) for n in ((name,) if name else usual))
    return next((n for n, value in found if value is not None and value == value), None)


def _chat(value: Any) -> list[Message]:
    if isinstance(value, str):  # tables hold chats as JSON text
        try:
            value = json.loads(value)
        except ValueError:
            raise BadRecord("malformed messages", "messages are not a list") from None
    if not isinstance(value, list) or not value:
        raise BadRecord("malformed messages", "messages are not a list, or an empty one")
    return [_message(each) for each in value]


def _message(value: Any) -> Message:
    if not isinstance(value, Mapping):
        raise BadRecord("malformed messages", "a message is no object")
    role = value.get("role", value.get("from"))
    found = value.get("content", value.get("value"))
    text = _text("" if found is None and value.get("tool_calls") else found)
    if not isinstance(role, str) or text is None:
        raise BadRecord("malformed messages", "a message lacks its role or its text")
    tools = {name: value[name] for name in _TOOLS if value.get(name) is not None}
    return {"role": _ROLES.get(role, role), "content": text, **tools}


def _text(value: Any) -> str | None:
    if isinstance(value, str):
        return value
    if isinstance(value, list):  # parts; only texts are understood
        texts = [each.get("text") for each in value if isinstance(each, Mapping)]
        if len(texts) == len(value) and all(isinstance(each, str) for each in texts):
            return "".join(each for each in texts if each)
    return None


def _split_chat(chat: list[Message]) -> tuple[tuple[Message, ...], str | None]:
    """What comes before the last message, and that message if the assistant says it."""
    if chat[-1]["role"] != "assistant":
        return _not_blank(tuple(chat)), None
    if chat[-1].get("tool_calls"):
        raise BadRecord("not text", "the response calls a tool")
    return _not_blank(tuple(chat[:-1])), chat[-1]["content"]


def _before(prompt: Any) -> tuple[Message, ...]:
    if isinstance(prompt, list):
        return _not_blank(tuple(_chat(prompt)))
    if not isinstance(prompt, str):
        raise BadRecord("not text", f"the prompt is of type {type(prompt).__name__}")
    return _not_blank(({"role": "user", "content": prompt},))


def _writable(text: str) -> str:
    """The text, if a file in UTF-8 can hold it: JSON can spell half a character (\\ud800)."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadRecord("not text", "it holds half of a surrogate pair") from error
    return text


def _not_blank(before: tuple[Message, ...]) -> tuple[Message, ...]:
    for said in before:
        _writable(said["content"])
    if not any(said["content"].strip() for said in before if said["role"] != "system"):
        raise BadRecord("empty prompt")
    return before


def _is_chat(value: list[Any]) -> bool:
    return bool(value) and isinstance(value[0], Mapping)


def _response(value: Any) -> str:
    if isinstance(value, list) and len(value) > 1:
        raise BadRecord("malformed messages", "the response is of several messages")
    text = _text(_message(value[0])["content"] if isinstance(value, list) and value else value)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        text = str(value)
    if text is None:
        raise BadRecord("not text", f"the response is of type {type(value).__name__}")
    if not text.strip():
        raise BadRecord("empty response")
    return _writable(text)


def with_response(example: Example, response: str) -> dict[str, Any]:
    """The example's record with another response in the place of its own.

    >>> (example,) = examples_of(Record(1, {"question": "2 + 2?", "answer": "5", "id": 7}))
    >>> with_response(example, "4")
    {'question': '2 + 2?', 'answer': '4', 'id': 7}
    """
    record, name = dict(example.record), example.column
    if name not in CHATS:
        several = isinstance(record.get(name), list) and _is_chat(record[name])
        said = [{"role": "assistant", "content": response}] if several else response
        return record | {name: said}
    written = isinstance(record[name], str)  # a chat as JSON text
    chat = json.loads(record[name]) if written else record[name]
    part = "content" if "content" in chat[-1] else "value"
    old = chat[-1][part]  # a text, or a list of parts
    new = [{**old[0], "text": response}] if isinstance(old, list) else response
    chat = [*chat[:-1], {**chat[-1], part: new}]
    return record | {name: json.dumps(chat, ensure_ascii=False) if written else chat}


def with_candidates(record: dict[str, Any], chosen: Sequence[Example]) -> dict[str, Any]:
    """A record of several responses with the chosen ones alone, and what goes with each.

    >>> record = {"prompt": "2 + 2?", "responses": ["4", "5"], "source": ["a", "b"]}
    >>> with_candidates(record, examples_of(Record(1, record))[:1])
    {'prompt': '2 + 2?', 'responses': ['4'], 'source': ['a']}
    """
    places = [each.candidate for each in chosen if each.candidate is not None]
    count = len(record[chosen[0].column])
    lists = {n: v for n, v in record.items() if isinstance(v, list) and not _speaks(v)}
    parallel = {name for name, values in lists.items() if len(values) == count}
    return {n: [v[p] for p in places] if n in parallel else v for n, v in record.items()}


def _speaks(values: list[Any]) -> bool:
    """Whether a list is a conversation, and not one value for each response."""
    return _is_chat(values) and not {"role", "from"}.isdisjoint(values[0])


def as_messages(example: Example) -> dict[str, Any]:
    """`{"messages": […]}`, as chat models are tuned on."""
    return {"messages": [*example.before, {"role": "assistant", "content": example.response}]}


def as_prompt_completion(example: Example) -> dict[str, Any]:
    """`{"prompt", "completion"}`: texts where one user speaks, else lists of messages."""
    if len(example.before) == 1 and example.before[0]["role"] == "user":
        return {"prompt": example.prompt, "completion": example.response}
    answer = [{"role": "assistant", "content": example.response}]
    return {"prompt": list(example.before), "completion": answer}


SHAPES: dict[str, Callable[[Example], dict[str, Any]]] = {
    "messages": as_messages,
    "prompt-completion": as_prompt_completion,
}
"""What records can be written as, beside as they were read."""


# ------------------------------------------------------------------------------ writing


def check_output(path: Path, suffixes: Sequence[str] = SUFFIXES) -> None:
    """Refuse early what could not be written in the end. Raises UserError."""
    folder = path.expanduser().absolute().parent
    if suffixes and not path.name.lower().endswith(tuple(suffixes)):
        raise UserError(f"{path}: the name must end in {', '.join(suffixes)}.")
    if path.expanduser().is_dir():
        raise UserError(f"{path} is a folder; name a file.")
    if not folder.is_dir():
        raise UserError(f"{path}: the folder {folder} does not exist; make it.")
    if not os.access(folder, os.W_OK):
        raise UserError(f"{path}: you may not write to the folder {folder}; name another place.")


def check_outputs(inputs: Mapping[str, Any], outputs: Mapping[str, Path | None]) -> None:
    """Refuse early what could not be written, or would take the place of another file.

    Args:
        inputs: what is read, by what the message calls it; None where there is none.
        outputs: files of any name to write, by their options; None where none is asked for.

    Raises:
        UserError: a folder is not there, or two of the files are one.

    >>> check_outputs({"the data": "a.jsonl"}, {"--out": Path("a.jsonl")})
    Traceback (most recent call last):
    generality.errors.UserError: --out a.jsonl would take the place of the data: name another file.
    """
    taken = {Path(path).expanduser().resolve(): name for name, path in inputs.items() if path}
    for option, path in outputs.items():
        if path is None:
            continue
        check_output(path, ())
        place = path.expanduser().resolve()
        if place in taken:
            raise UserError(
                f"{option} {path} would take the place of {taken[place]}: name another file."
            )
        taken[place] = option


def write_records(
    path: str | Path, records: Iterable[Mapping[str, Any]], *, like: str | Path | None = None
) -> int:
    """Write records to a .jsonl, .jsonl.gz or .parquet file; it appears whole or not at all.

    Args:
        path: the file; an older one is replaced.
        records: one after another; they need not fit in memory.
        like: a Parquet file whose column types the records have, so that none is guessed anew.

    Returns how many there were.

    Raises:
        UserError: for another ending, a folder that is not there, or a disk that is full.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder, "out.parquet")
    ...     count = write_records(path, [{"prompt": "a"}, {"prompt": "b", "completion": "c"}])
    ...     count, [record.content for record in read_records(path)]
    (2, [{'prompt': 'a', 'completion': None}, {'prompt': 'b', 'completion': 'c'}])
    """
    path = Path(path).expanduser()
    check_output(path)
    counts: list[int] = []

    def write(temporary: Path) -> None:
        if path.name.lower().endswith(".parquet"):
            counts.append(_write_parquet(temporary, records, like))
        else:
            zipped = path.suffix.lower() == ".gz"
            counts.append(_write_lines(temporary, records, zipped=zipped))

    write_atomically(path, write)
    return counts[0]


def _write_lines(path: Path, records: Iterable[Mapping[str, Any]], *, zipped: bool) -> int:
    count = 0
    with gzip.open(path, "wb") if zipped else path.open("wb") as file:
        for record in records:
            file.write(_as_line(record).encode("utf-8", "backslashreplace") + b"\n")
            count += 1
    return count


def _as_line(record: Any) -> str:
    try:
        return json.dumps(record, ensure_ascii=False, default=_in_words, allow_nan=False)
    except ValueError:  # NaN is no JSON, and readers other than Python's stop at it
        spelt = json.dumps(record, ensure_ascii=False, default=_in_words)
        plain = json.loads(spelt, parse_constant=lambda _: None)
        return json.dumps(plain, ensure_ascii=False)


def _in_words(value: Any) -> Any:
    """What JSON has no type for. Raises UserError for what would not survive it."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, (datetime.date, datetime.time, datetime.timedelta, Decimal, UUID)):
        return str(value)
    raise UserError(
        f"The records hold values of type {type(value).__name__}, which JSON cannot: leave the "
        "column out, or read and write Parquet."
    )


def _write_parquet(
    path: Path, records: Iterable[Mapping[str, Any]], like: str | Path | None
) -> int:
    """With known types at once; else by way of lines, as the last record may add a column."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if like is not None:
        return _write_batches(path, records, pq.read_schema(like))
    lines = path.with_name(f"{path.name}.lines")
    try:
        _write_lines(lines, records, zipped=False)
        schema = pa.schema([])
        for batch in _batches(_parsed(lines)):
            found = pa.Table.from_pylist(batch).schema
            for row in batch:  # from_pylist takes the columns of its first row alone
                if new := [name for name in row if name not in found.names]:
                    rows = pa.Table.from_pylist([{n: r.get(n) for n in new} for r in batch])
                    found = pa.unify_schemas([found, rows.schema])
            schema = pa.unify_schemas([schema, found], promote_options="permissive")
        return _write_batches(path, _parsed(lines), schema)
    except pa.ArrowException as error:
        raise UserError(
            f"The records do not agree on the types of their columns ({error}); write .jsonl."
        ) from error
    finally:
        lines.unlink(missing_ok=True)


def _write_batches(path: Path, records: Iterable[Mapping[str, Any]], schema: Any) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    count = 0
    with pq.ParquetWriter(path, schema) as writer:
        for batch in _batches(records):
            writer.write_table(pa.Table.from_pylist(batch, schema=schema))
            count += len(batch)
    return count


def _batches(records: Iterable[Mapping[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    stream = iter(records)
    while batch := [dict(record) for record in islice(stream, _ROWS)]:
        yield batch


def _parsed(lines: Path) -> Iterator[dict[str, Any]]:
    with lines.open("rb") as file:
        yield from map(json.loads, file)
