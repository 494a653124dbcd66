"""`generality select` from data to file and page, with a model small enough for a test."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest

import tiny_models
from chat_server import said, serving
from generality.errors import UserError
from generality.lab import Lab
from generality.models import load_model
from generality.selection.data_portrait import DataPortrait, portrait_table
from generality.selection.example_choice import Choice, best_of_each, select_examples
from generality.selection.self_supervised_data import write_self_supervised
from generality.selection.solution_steps import final_answer
from generality.selection.training_files import Record, examples_of, read_records

TEMPLATE = "{% for m in messages %}{{ m.content }} {% endfor %}"
RESPONSES = ("a good film", "the book was long and bad", "very very very very short")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("model")
    tiny_models.tokenizer().save_pretrained(folder)
    tiny_models.llama().save_pretrained(folder)
    return str(folder)


@pytest.fixture
def data(tmp_path) -> Path:
    rows = [
        {"prompt": f"is the {what} good", "completion": said, "source": who, "reference": "good"}
        for what in ("film", "book")
        for said, who in zip(RESPONSES, "xyz", strict=True)
    ]
    path = tmp_path / "data.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in [*rows, rows[0]]) + "broken\n")
    return path


def read(path) -> list:
    return [record.content for record in read_records(path)]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_best_of_each_prompt_by_the_book(count) -> None:
    for seed in range(50):
        rng = np.random.default_rng(seed)
        prompts = rng.integers(4, size=rng.integers(20)).astype(np.uint64)
        scores = rng.choice([0.0, 1.0, 2.0, np.nan], size=len(prompts))
        keep = best_of_each(prompts, scores, count)
        for prompt in set(prompts.tolist()):
            own = [i for i in np.flatnonzero(prompts == prompt) if not np.isnan(scores[i])]
            best = sorted(own, key=lambda i: (-scores[i], i))[:count]
            assert set(np.flatnonzero(keep & (prompts == prompt))) == set(best)


def test_grape_keeps_what_the_model_finds_most_probable(generality, data, model) -> None:
    answer = generality("select", data, "-o", "out.jsonl", "--model", model, "--scores", "s.jsonl",
                        "--rejected", "bad.jsonl", "--json")  # fmt: skip
    assert answer.code == 0, answer.err
    said = json.loads(answer.out)
    from generality.measures import response_logprob

    prompts = [f"is the {what} good" for what in ("film", "book") for _ in RESPONSES]
    expected = response_logprob(
        load_model(model, device="cpu"), tiny_models.tokenizer(), prompts, [*RESPONSES] * 2
    )
    scores = read("s.jsonl")
    np.testing.assert_allclose([row["score"] for row in scores], expected, atol=1e-4)
    best = expected.view(2, 3).argmax(1).tolist()
    assert [row["completion"] for row in read("out.jsonl")] == [RESPONSES[place] for place in best]
    assert sum(row["kept"] for row in scores) == 2
    assert [row["reason"] for row in read("bad.jsonl")] == ["duplicate", "unparseable"]
    assert said["written"] == 2
    page = Path("out.report.html").read_text()
    assert "http" not in page.replace("http-equiv", "")
    assert "Before and after" in page
    again = json.loads(
        generality("select", data, "-o", "out.jsonl", "--model", model, "--json").out
    )
    assert again["steps"]["computed"] == 0
    assert "2 records written to out.jsonl" in generality(
        "select", data, "-o", "out.jsonl", "--model", model
    ).out  # fmt: skip


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ("--method longest", [1, 1]),
        ("--method shortest", [0, 0]),
        ("--method strongest --source y", [1, 1]),
        ("--method longest --per-prompt 2", [1, 2, 1, 2]),
        ("--method dedup", [0, 1, 2, 0, 1, 2]),
        ("--method dedup --judge exact", []),
        ("--method longest --keep 1", [1]),
    ],
)
def test_controls(generality, data, options, kept) -> None:
    answer = generality("select", data, "-o", "out.jsonl", *options.split())
    if not kept:
        assert answer.code == 2
        assert "6 wrong response" in answer.err
        return
    assert answer.code == 0, answer.err
    assert [row["completion"] for row in read("out.jsonl")] == [RESPONSES[p] for p in kept]


def test_gradients_spread_the_choice(generality, data, model) -> None:
    options = ["--model", model, "--dim", "32", "--clusters", "3"]
    answer = generality("select", data, "-o", "a.jsonl", "--method", "g-vendi", "--keep", "3",
                        *options, "--json")  # fmt: skip
    assert answer.code == 0, answer.err
    said = json.loads(answer.out)
    assert len(read("a.jsonl")) == 3
    assert len(said["picture"]["dots"]) == 6
    assert sum(kept for *_, kept in said["picture"]["dots"]) == 3
    assert Path("a.report.html").read_text().count("<circle") == 6
    answer = generality("select", data, "--report-only", "--method", "prismatic", *options)
    assert answer.code == 0, answer.err
    assert "Regions with few examples" in answer.out
    Path("new.jsonl").write_text(
        "".join(json.dumps({"prompt": "is it", "completion": said}) + "\n" for said in RESPONSES)
    )
    answer = generality("select", data, "-o", "new-out.jsonl", "--method", "prismatic",
                        "--candidates", "new.jsonl", *options, "--json")  # fmt: skip
    assert answer.code == 0, answer.err
    assert json.loads(answer.out)["written"] == len(read("new-out.jsonl")) <= 3
    answer = generality("select", data, "-o", "one.jsonl", "--method", "prismatic", "--sparse", "1",
                        "--candidates", "new.jsonl", *options, "--keep", "1", "--scores", "s.jsonl",
                        "--json")  # fmt: skip
    assert answer.code == 0, answer.err
    assert json.loads(answer.out)["written"] == len(read("one.jsonl")) == 1
    assert [row["kept"] for row in read("s.jsonl")] == [True, False, False]


def test_a_teacher_writes_what_the_data_have_few_of(generality, data, model) -> None:
    def reply(question: str, before: int):
        if question.startswith("Here are problems"):
            return said(("is the tree good", "IS the film good?", "is it", "I cannot.")[asked()])
        if question.startswith("is the tree good"):
            return said(f"Step 1: look\nAnswer: {'no' if before == 1 else 'yes'}")
        return said(f"Answer: {before}") if before else said("cut", "length")

    with serving(reply) as server:
        asked = itertools.count().__next__
        options = [
            "select", data, "-o", "out.jsonl", "--method", "prismatic", "--model", model, "--dim",
            "32", "--clusters", "3", "--sparse", "1", "--teacher", f"tiny@{server.url}", "--new",
            "4", "--json",
        ]  # fmt: skip
        answer = generality(*options)
        assert answer.code == 0, answer.err
        table = json.loads(answer.out)["tables"][1]
        assert dict(table["rows"]) == {
            "written and solved": "1", "left out: written before": "1",
            "left out: its solutions do not agree": "1",
            "a solution lost: cut at --max-tokens": "1",
            "not written: the teacher would not answer": "1",
        }  # fmt: skip
        [new] = read("out.candidates.jsonl")
        assert (new["prompt"], final_answer(new["completion"])) == ("is the tree good", "yes")
        assert [row["prompt"] for row in read("out.jsonl")] in ([], ["is the tree good"])
        server.asked.clear()
        assert generality(*options).code == 0
        assert not server.asked, "every answer is kept"


def test_own_answers_replace_given_ones_where_right(generality, data, model) -> None:
    answer = generality("select", data, "-o", "out.jsonl", "--method", "s3ft", "--model", model,
                        "--judge", "exact", "--max-tokens", "3", "--template", "{prompt}",
                        "--json")  # fmt: skip
    assert answer.code == 0, answer.err
    rows = read("out.jsonl")
    assert len(rows) == 6
    assert {row["target_source"] for row in rows} == {"gold"}
    assert [row["completion"] for row in rows] == [*RESPONSES] * 2


class Accepts:
    """Takes what the test says, and notes what it was given to compare with."""

    def __init__(self, *right: str) -> None:
        self.right, self.references = right, []

    def __call__(self, prompt, response, reference) -> float:
        self.references.append(reference)
        return float(response in self.right)


def own_words(data, model, tmp_path, monkeypatch, judge, said=None, **options):
    """s3ft by a model that says what it is told to; the report, and what was written."""
    lab = Lab(home=tmp_path / "steps", device="cpu", progress=False)
    asked = []

    def generate(name, prompts, **_):
        asked.extend(prompts)
        return [[said or "mine"] for _ in prompts]

    monkeypatch.setattr(lab, "generate", generate)
    found = write_self_supervised(
        data, tmp_path / "out.jsonl", model=model, judge=judge, lab=lab, max_tokens=5, **options
    )
    return found, read(tmp_path / "out.jsonl"), asked


def test_references_of_own_answers_are_as_they_stand(tmp_path, model, monkeypatch) -> None:
    """A list of assertions made a text by str() is a program that always passes."""
    path = tmp_path / "data.jsonl"
    rows = [
        {"prompt": "the film", "completion": "f = abs", "tests": ["assert f(-1)", "assert f(2)"]},
        {"prompt": "the book", "completion": "it is zero", "tests": 0},
        {"prompt": "the", "completion": "none is given"},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    judge = Accepts()
    own_words(path, model, tmp_path, monkeypatch, judge, reference="tests")
    wanted = ["assert f(-1)\nassert f(2)", "0", "none is given"]
    assert list(dict.fromkeys(judge.references)) == wanted
    with pytest.raises(UserError, match="No record has the column 'test' of --reference"):
        own_words(path, model, tmp_path, monkeypatch, judge, reference="test")


def test_an_own_answer_is_written_once_however_many_responses_a_prompt_has(
    data, tmp_path, model, monkeypatch
) -> None:
    found, rows, _ = own_words(data, model, tmp_path, monkeypatch, Accepts("mine"))
    assert [(row["prompt"], row["completion"]) for row in rows] == [
        ("is the film good", "mine"), ("is the book good", "mine"),
    ]  # fmt: skip
    assert found.written == 2
    assert found.reasons["left out: said to the same prompt before"] == 4


def test_prompts_without_room_keep_the_given_answer(tmp_path, model, monkeypatch) -> None:
    path = tmp_path / "data.jsonl"
    rows = [{"prompt": "the film " * 30, "completion": "good"}, {"prompt": "it", "completion": "x"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found, rows, asked = own_words(path, model, tmp_path, monkeypatch, Accepts("mine"))
    assert [row["target_source"] for row in rows] == ["gold", "self"]
    assert asked == ["it"]
    assert "2 times the model was not asked" in found.report["notes"][-1]


def test_what_a_chat_template_refuses_is_a_bad_record(generality, tmp_path) -> None:
    tokenizer = tiny_models.tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role == 'tool' %}{{ raise_exception('no tools') }}"
        "{% endif %}{{ m.content }} {% endfor %}"
    )
    for part in (tokenizer, tiny_models.llama()):
        part.save_pretrained(tmp_path / "strict")
    asked, answer = {"role": "user", "content": "is it"}, {"role": "assistant", "content": "good"}
    chats = [[asked, answer], [asked, {"role": "tool", "content": "4"}, answer]]
    Path("c.jsonl").write_text("".join(json.dumps({"messages": c}) + "\n" for c in chats))
    told = generality("select", "c.jsonl", "-o", "out.jsonl", "--model", tmp_path / "strict",
                      "--rejected", "bad.jsonl", "--json")  # fmt: skip
    assert told.code == 0, told.err
    assert [row["messages"] for row in read("out.jsonl")] == chats[:1]
    assert [row["reason"] for row in read("bad.jsonl")] == ["not for the template"]


def test_several_responses_in_one_record_and_other_shapes(generality, model) -> None:
    Path("pool.jsonl").write_text(
        json.dumps({"id": 7, "question": "is it", "responses": list(RESPONSES)}) + "\n"
    )
    answer = generality("select", "pool.jsonl", "-o", "out.parquet", "--method", "longest",
                        "--per-prompt", "2")  # fmt: skip
    assert answer.code == 0, answer.err
    assert read("out.parquet") == [{"id": 7, "question": "is it", "responses": [*RESPONSES[1:]]}]
    generality("select", "pool.jsonl", "-o", "out.jsonl", "--method", "longest", "--format",
               "messages")  # fmt: skip
    assert read("out.jsonl")[0]["messages"][1]["content"] == RESPONSES[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("", "Name the file to write by -o OUT, or ask for --report-only."),
        ("-o out.csv --method random", "must end in .jsonl, .jsonl.gz, .parquet"),
        ("-o nowhere/out.jsonl --method random", "does not exist"),
        ("-o out.jsonl", "The method grape looks through a model: name it by --model."),
        ("-o out.jsonl --method grap", "There is no method 'grap'. Did you mean 'grape'?"),
        ("-o out.jsonl --method random --on-bad refuse", "record 7: duplicate"),
        ("-o out.jsonl --method random --on-bad no", "There is no choice for --on-bad 'no'."),
        ("-o out.jsonl --method random --judge num", "There is no judge 'num'."),
        ("-o out.jsonl --method random --prompt nothing", "has no good example"),
        ("-o out.jsonl --method random --format xml", "There is no format 'xml'."),
        ("-o out.jsonl --method strongest", "needs --source"),
        ("-o out.jsonl --method s3ft", "s3ft needs --model"),
        ("-o out.jsonl --method dedup --duplicates keep", "leaves duplicates out"),
        ("-o out.jsonl --method s3ft --model MODEL --judge exact --keep 2", "keeps every prompt"),
        ("-o out.jsonl --method prismatic --model MODEL --candidates x --keep 0.5", "no share"),
        ("-o out.jsonl --method random --candidates x.jsonl", "go with --method prismatic"),
        ("-o out.jsonl --method random --teacher a@http://x/v1", "go with --method prismatic"),
        ("--report-only --method prismatic --model MODEL --teacher a@http://x/v1", "needs -o OUT"),
        ("-o data.jsonl --method random", "would take the place of the data"),
        ("-o out.jsonl --method random --scores out.jsonl", "would take the place of --out"),
        ("-o out.jsonl --method random --rejected data.jsonl", "take the place of the data"),
        ("-o out.jsonl --method random --report nowhere/page.html", "does not exist; make it"),
        ("-o home.jsonl --method random", "is a folder; name a file"),
        ("-o out.jsonl --method random --keep nan", "--keep is a finite number, not nan"),
        ("-o out.jsonl --method random --keep 1.5", "a whole number, or a share below 1"),
        ("-o out.jsonl --method g-vendi --model MODEL --clusters 0", "--clusters is a whole"),
        ("-o out.jsonl --method prismatic --model MODEL --sparse 2", "--sparse is a share"),
        ("-o out.jsonl --method random --max-length 1", "7 over-long, 1 unparseable. Allow"),
        ("-o out.jsonl --method random --prompt no", "Its columns: prompt, completion, source"),
        ("-o out.jsonl --model MODEL --template chat", "has no chat template"),
        ("-o out.jsonl --model MODEL --template none", "a text with {prompt} in it"),
    ],
)
def test_mistakes_are_one_sentence(generality, data, model, options, message) -> None:
    Path("home.jsonl").mkdir()
    answer = generality("select", data, *options.replace("MODEL", model).split())
    assert (answer.code, answer.out) == (2, "")
    assert message in answer.err
    assert not list(Path.cwd().glob("out*"))


def test_data_that_change_meanwhile_are_noticed(data, tmp_path, monkeypatch) -> None:
    lab = Lab(home=tmp_path / "steps", device="cpu", progress=False)
    passes = []

    def changing(source, *, split=None):
        passes.append(source)
        records = list(read_records(source))
        return iter(records if len(passes) == 1 else records[1:])

    monkeypatch.setattr("generality.selection.example_choice.read_records", changing)
    with pytest.raises(UserError, match="changed while it was read"):
        select_examples(data, tmp_path / "out.jsonl", Choice("random"), lab=lab)
    assert not (tmp_path / "out.jsonl").exists()


def test_a_portrait_compares_equally_many_texts() -> None:
    one, two = DataPortrait(), DataPortrait()
    for number in range(40):
        record = {"prompt": f"p{number}", "completion": f"word{number} and more"}
        (example,) = examples_of(Record(number, record))
        one.add(example)
        if number < 10:
            two.add(example)
    table = portrait_table(one, two)
    rows = {row[1]: row[2:] for row in table["rows"]}
    assert rows["examples"] == ["40", "10"]
    assert "on 10 examples of each" in table["note"]
    assert rows["words of a response, median"] == ["3", "3"]


def test_a_stopped_choice_scores_no_chunk_again(data, tmp_path, model, monkeypatch) -> None:
    monkeypatch.setattr("generality.selection.example_choice._CHUNK", 2)
    choice = Choice("grape", model=model)
    lab = Lab(home=tmp_path / "steps", device="cpu", progress=False)
    step, calls = lab.step, []

    def stops(*arguments, **options):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return step(*arguments, **options)

    monkeypatch.setattr(lab, "step", stops)
    with pytest.raises(KeyboardInterrupt):
        select_examples(data, tmp_path / "out.jsonl", choice, lab=lab)
    assert not (tmp_path / "out.jsonl").exists()
    again = Lab(home=tmp_path / "steps", device="cpu", progress=False)
    chosen = select_examples(data, tmp_path / "out.jsonl", choice, lab=again)
    assert (again.steps.reused, again.steps.computed, chosen.written) == (2, 1, 2)


def test_small_to_large_keeps_some_of_every_kind(generality, data, model) -> None:
    options = f"--method s2l --model {model} --looks 3 --clusters 3 --keep 3".split()
    answer = generality("select", data, "-o", "out.jsonl", *options, "--json")
    assert answer.code == 0, answer.err
    said = json.loads(answer.out)
    assert said["written"] == len(read("out.jsonl")) == 3
    [table] = [each for each in said["tables"] if "how the small model" in each["title"]]
    assert sum(int(row[1]) for row in table["rows"]) == 6
    assert [int(row[2]) for row in table["rows"]].count(0) == 0
    assert all(row[3].count("→") == 2 for row in table["rows"])
    again = json.loads(generality("select", data, "-o", "out.jsonl", *options, "--json").out)
    assert again["steps"]["computed"] == 0
    none = generality("select", data, "-o", "out.jsonl", "--method", "s2l")
    assert none.code == 2
    assert "name it by --model" in none.err
