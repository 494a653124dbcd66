"""`generality distill`: recipes, endpoints that misbehave, and a kill in the middle."""

import json
import signal
import threading
import time
from pathlib import Path

import httpx
import pytest

import tiny_models
from chat_server import said, serving
from conftest import start
from generality.errors import UserError
from generality.lab import Lab
from generality.lab.journal import Journal
from generality.models.chat import Completion, EndpointChat, EndpointError, retry_after
from generality.selection.distillation import AnswerMatch, Recipe
from generality.selection.solution_steps import checked_steps, final_answer
from generality.selection.teacher import EndpointTeacher, judged, make_teacher, render
from generality.selection.training_files import Record, prompt_of, read_records


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch) -> None:
    monkeypatch.setattr("generality.models.chat.time.sleep", lambda seconds: None)


@pytest.fixture
def lab(tmp_path) -> Lab:
    return Lab(home=tmp_path / "steps", device="cpu", progress=False)


def questions(*texts: str) -> list:
    return [[{"role": "user", "content": text}] for text in texts]


def prompts(path: Path, *rows: dict) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read(path) -> list:
    return [record.content for record in read_records(path)]


# ------------------------------------------------------------------------- endpoints


def unwell(question: str, before: int):
    """Every way in which a server fails, by the question's first word."""
    word = question.split()[0]
    replies = {
        "busy": (429, {"retry-after": "0"}, "wait"),
        "broken": (500, {}, "oops"),
        "html": (200, {}, "<html>"),
        "no-choice": (200, {}, {"choices": []}),
        "number": (200, {}, {"choices": [{"message": {"content": 7}}]}),
        "unwanted": (400, {}, "too long"),
        "cut": said("It begins", "length"),
        "silent": said("  "),
        "unwilling": said("I’m sorry, but I can’t help with that."),
        "filtered": said("", "content_filter"),
        "stuck": said("again and " * 200),
        "once-busy": (503, {}, "") if before == 0 else said("Yes."),
    }
    return replies.get(word, said("Yes."))


EXPECTED = {
    "fine": "", "once-busy": "", "busy": "rate limited", "broken": "server error",
    "html": "garbage", "no-choice": "garbage", "number": "garbage", "unwanted": "rejected",
    "cut": "truncated", "silent": "empty", "unwilling": "refused", "filtered": "refused",
    "stuck": "repetitive",
}  # fmt: skip
PASSING = {"busy", "broken", "html", "no-choice", "number", "unwanted"}


def test_everything_that_goes_wrong_is_told_and_only_what_may_pass_is_asked_again(lab) -> None:
    with serving(unwell) as server:
        chat = EndpointChat("tiny", url=server.url, key="", retries=1)
        teacher = EndpointTeacher(chat, workers=3, chunk=20)
        answers = teacher.answer(lab, questions(*EXPECTED))
        assert {q: a.problem for q, a in zip(EXPECTED, answers, strict=True)} == EXPECTED
        assert answers[0].text == "Yes."
        assert "too long" in answers[list(EXPECTED).index("unwanted")].detail
        tries = {"busy": 2, "broken": 2, "once-busy": 2}
        assert server.asked == {word: tries.get(word, 1) for word in EXPECTED}
        server.asked.clear()
        again = teacher.answer(lab, questions(*EXPECTED))
        assert [a.problem for a in again] == [a.problem for a in answers]
        assert set(server.asked) == PASSING
        server.reply = lambda question, before: said("Now.")
        server.asked.clear()
        healed = teacher.answer(lab, questions(*EXPECTED))
        assert {q for q, a in zip(EXPECTED, healed, strict=True) if a.text == "Now."} == PASSING
        server.asked.clear()
        assert teacher.answer(lab, questions(*EXPECTED)) == healed
        assert not server.asked, "a finished chunk is kept as a whole"
        assert not list(lab.steps.root.glob("partial/*"))


def test_an_endpoint_that_does_not_answer_in_time(lab) -> None:
    gate = threading.Event()

    def late(question, before):
        gate.wait(60)
        return said("At last.")

    with serving(late) as server:
        chat = EndpointChat("tiny", url=server.url, key="", timeout=0.2, retries=1)
        answers = EndpointTeacher(chat, workers=2).answer(lab, questions("a", "b"))
        assert [answer.problem for answer in answers] == ["timed out"] * 2
        assert server.asked == {"a": 2, "b": 2}
        gate.set()
        patient = EndpointChat("tiny", url=server.url, key="")
        answers = EndpointTeacher(patient).answer(lab, questions("a", "b"))
        assert [answer.text for answer in answers] == ["At last."] * 2


def test_an_interruption_waits_for_no_answer_and_keeps_those_there_are(lab, monkeypatch) -> None:
    gate, heard = threading.Event(), []

    class Slow:
        fingerprint = "slow"

        def __call__(self, messages, **_) -> str:
            heard.append(messages[-1]["content"])
            return "At last." if heard[-1] == "b" and not gate.wait(60) else "Yes."

    def interrupted(self, said) -> None:
        raise KeyboardInterrupt

    before = set(threading.enumerate())
    teacher = EndpointTeacher(Slow(), workers=2)
    with monkeypatch.context() as patch:
        patch.setattr(EndpointTeacher, "count", interrupted)
        with pytest.raises(KeyboardInterrupt):
            teacher.answer(lab, questions("a", "b"))
    waiting = set(threading.enumerate()) - before
    assert waiting, "b is not answered yet"
    assert all(thread.daemon for thread in waiting), "the program would not end before it is"
    gate.set()
    assert [said.text for said in teacher.answer(lab, questions("a", "b"))] == ["Yes.", "Yes."]
    assert heard.count("a") == 1, "it was answered and kept before"


def test_options_reach_the_endpoint_and_tell_answers_apart(lab) -> None:
    with serving(lambda question, before: said(f"{question} {before}")) as server:
        teacher = make_teacher(f"tiny@{server.url}", key="secret")
        for _ in range(2):
            first = teacher.answer(lab, questions("a"), max_tokens=5, temperature=0.5, seed=3)
        second = teacher.answer(lab, questions("a"), max_tokens=5, temperature=0.5, seed=4)
    assert [first[0].text, second[0].text] == ["a 0", "a 1"]
    assert server.bodies[0] == {
        "model": "tiny", "messages": questions("a")[0], "max_tokens": 5, "temperature": 0.5,
        "seed": 3,
    }  # fmt: skip


def test_a_question_asked_again_has_another_seed(lab) -> None:
    """A server that minds the seed would say the same each time."""
    with serving(lambda question, before: said("Yes.")) as server:
        teacher = EndpointTeacher(EndpointChat("tiny", url=server.url, key=""), chunk=2)
        teacher.answer(lab, questions("a", "b", "a", "a"), temperature=0.8, seed=5)
    seeds = [(body["messages"][0]["content"], body["seed"]) for body in server.bodies]
    assert sorted(seeds) == [("a", 5), ("a", 6), ("a", 7), ("b", 5)]


@pytest.mark.parametrize(
    ("reply", "message"),
    [((401, {}, "no such key"), "answered 401: no such key"), ((404, {}, ""), "answered 404")],
)
def test_an_endpoint_that_takes_nothing_ends_the_job(lab, reply, message) -> None:
    with serving(lambda question, before: reply) as server:
        teacher = EndpointTeacher(EndpointChat("tiny", url=server.url, key=""), workers=1)
        with pytest.raises(UserError, match=message):
            teacher.answer(lab, questions(*"abcdef"))
    assert server.asked.total() <= 2


def test_an_endpoint_that_always_fails_is_given_up(lab) -> None:
    transport = httpx.MockTransport(lambda request: httpx.Response(500))
    chat = EndpointChat("tiny", retries=0, transport=transport)
    teacher = EndpointTeacher(chat, workers=1, give_up=3)
    with pytest.raises(UserError, match="3 questions in a row had no answer"):
        teacher.answer(lab, questions(*"abcdef"))


def test_a_server_is_waited_for_as_it_asks(monkeypatch) -> None:
    waited = []
    monkeypatch.setattr("generality.models.chat.time.sleep", waited.append)
    replies = [
        httpx.Response(429, headers={"retry-after": "7"}), httpx.Response(503),
        httpx.Response(429, headers={"retry-after": "0.5"}),
        httpx.Response(200, json=said("Hi.")[2]),
    ]  # fmt: skip
    chat = EndpointChat("t", transport=httpx.MockTransport(lambda _: replies.pop(0)))
    assert chat.complete([]) == Completion("Hi.", "stop")
    assert waited == [7, 2, 4], "what it asks for, or twice as long each time"
    replies = [httpx.Response(429, headers={"retry-after": "3600"})] * 2
    with pytest.raises(EndpointError) as caught:
        chat.complete([])
    assert (caught.value.kind, len(replies)) == ("rate limited", 1)
    assert 3500 < retry_after({"retry-after": time.strftime(
        "%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 3600))}) < 3700  # fmt: skip
    assert retry_after({"retry-after": "soon"}) == 0


def test_a_torn_line_of_the_journal_is_dropped(tmp_path) -> None:
    path = tmp_path / "answers.jsonl"
    Journal(path).write("a", ["yes", 1])
    with path.open("ab") as file:
        file.write(b'["b", ["n')
    again = Journal(path)
    assert again.read() == {"a": ["yes", 1]}
    again.write("c", None)
    assert Journal(path).read() == {"a": ["yes", 1], "c": None}


def test_form_is_judged_without_mistaking_answers_for_refusals() -> None:
    assert judged(Completion("I cannot say it better than Euler: e^(iπ) + 1 = 0.")).problem
    assert not judged(Completion("Sorry is an adjective.")).problem
    assert not judged(Completion("1, 2, 3, " * 20)).problem


# ------------------------------------------------------------------------- steps and answers


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Step 1: 2 + 2 = 4\nAnswer: 4.", "4"),
        ("**Answer:** 1,200", "1,200"),
        ("So the answer is 12.", "12"),
        ("Natalia sold 48.\n#### 72", "72"),
        ("a = 3 => 3", "3"),
        ("Thus \\boxed{\\frac{1}{2}}.", "\\frac{1}{2}"),
        ("Answer: first\nAnswer: second", "second"),
        ("I do not know", None),
        ("Answer:", None),
    ],
)
def test_final_answers(text, answer) -> None:
    assert final_answer(text) == answer


@pytest.mark.parametrize(
    ("line", "right"),
    [
        ("3 * 4 = 12", True),
        ("3 × 4 = 13", False),
        ("so 10 / 4 = 2.5 apples and 1 + 1 = 2", True),
        ("10 / 3 = 3.33", True),
        ("10 / 3 = 3.4", False),
        ("$1,200 - $200 = $1,000", True),
        ("(2 + 3) * 4 = 20", True),
        ("x = 4", None),
        ("there are 4", None),
        ("12 = 12", None),
        ("1 / 0 = 4", None),
    ],
)
def test_sums_in_steps_are_worked_out(line, right) -> None:
    assert [step.right for step in checked_steps(f"Step 1: {line}\nAnswer: 1")] == [right]


@pytest.mark.parametrize(
    ("response", "reference", "right"),
    [
        ("Answer: 1,200 dollars", "1200", 1.0),
        ("it is 7, so 8", "8", 1.0),
        ("Answer: Paris.", "paris", 1.0),
        ("Answer: 12", "Natalia … #### 12", 1.0),
        ("Answer: 13", "12", 0.0),
        ("Answer: perhaps", "12", 0.0),
    ],
)
def test_answers_are_matched(response, reference, right) -> None:
    assert AnswerMatch()("", response, reference) == right


# ------------------------------------------------------------------------- recipes


def test_explanations_under_varied_system_messages(generality) -> None:
    rows = [{"prompt": f"{n} + {n}?", "reference": str(2 * n)} for n in range(6)]
    path = prompts(Path("p.jsonl"), *rows, {"prompt": " "}, rows[0])

    def reply(question, before):
        n = int(question.split()[0])
        return said("I can't help with that." if n == 1 else f"Answer: {2 * n + (n == 2)}")

    with serving(reply) as server:
        command = ["distill", path, "-o", "out.jsonl", "--teacher", f"tiny@{server.url}",
                   "--failed", "failed.jsonl", "--rejected", "bad.jsonl", "--json"]  # fmt: skip
        answer = generality(*command)
        assert answer.code == 0, answer.err
        told = json.loads(answer.out)
        again = json.loads(generality(*command).out)
    assert set(server.asked.values()) == {1}
    assert again["steps"]["computed"] == 0
    assert told["written"] == 4
    assert told["failures"] == {"refused": 1, "wrong answer": 1}
    assert [(row["number"], row["reason"]) for row in read("failed.jsonl")] == [
        (2, "refused"), (3, "wrong answer"),
    ]  # fmt: skip
    assert [(row["number"], row["reason"]) for row in read("bad.jsonl")] == [
        (7, "empty prompt"), (8, "duplicate"),
    ]  # fmt: skip
    made = read("out.jsonl")
    assert {row["messages"][-1]["content"] for row in made} == {
        f"Answer: {2 * n}" for n in (0, 3, 4, 5)
    }
    assert len({row["messages"][0]["content"] for row in made if len(row["messages"]) == 3}) > 1
    assert all(row["verified"] for row in made)
    assert "What became of the prompts" in Path("out.report.html").read_text()
    with serving(reply) as server:
        answer = generality("distill", path, "-o", "o.jsonl", "--teacher", f"tiny@{server.url}",
                            "--on-bad", "refuse", "--limit", "3")  # fmt: skip
    assert answer.code == 2
    assert "record 2: refused" in answer.err
    assert not Path("o.jsonl").exists()


def test_rationales_are_tried_again_until_they_hold(generality) -> None:
    path = prompts(Path("p.jsonl"), *({"question": q, "answer": "12"} for q in "abcd"))

    def reply(question, before):
        steps = {
            "a": "Step 1: 3 * 4 = 12\nAnswer: 12",
            "b": "Step 1: 3 * 4 = 12\nAnswer: 13" if before == 0 else "1. 3 * 4 = 12\nAnswer: 12",
            "c": "Step 1: 3 * 4 = 11\nStep 2: 11 + 1 = 12\nAnswer: 12",
            "d": "It is twelve",
        }
        return said(steps[question])

    with serving(reply) as server:
        answer = generality("distill", path, "-o", "out.jsonl", "--teacher", f"t@{server.url}",
                            "--recipe", "rationale", "--samples", "2", "--json")  # fmt: skip
    assert answer.code == 0, answer.err
    assert json.loads(answer.out)["failures"] == {"wrong step": 1, "no final answer": 1}
    assert server.asked == {"a": 1, "b": 2, "c": 2, "d": 2}
    assert [row["messages"][0]["content"] for row in read("out.jsonl")] == ["a", "b"]
    assert read("out.jsonl")[1]["steps"] == [{"text": "3 * 4 = 12", "right": True}]


def test_own_programs_are_run(generality) -> None:
    path = prompts(Path("p.jsonl"), *({"question": q, "answer": 12} for q in "ab"), {"prompt": "c"})
    programs = ["answer = 3 * 4", "answer=3*4", "x = 6\nanswer = x + x", "answer = 13", "answer ="]

    def reply(question, before):
        return said(f"```python\n{programs[before] if question == 'a' else programs[-1]}\n```")

    with serving(reply) as server:
        answer = generality("distill", path, "-o", "out.jsonl", "--student", f"t@{server.url}",
                            "--recipe", "self-sampled", "--samples", "5", "--workers", "1",
                            "--json")  # fmt: skip
    assert answer.code == 0, answer.err
    told = json.loads(answer.out)
    assert told["failures"] == {"wrong answer": 1, "no reference": 1}
    assert [row["messages"][1]["content"] for row in read("out.jsonl")] == [
        "answer = 3 * 4", "x = 6\nanswer = x + x",
    ]  # fmt: skip
    (solved,) = [t for t in told["tables"] if t["title"] == "The student's own solutions"]
    assert solved["rows"] == [["1", "0.2"], ["5", "0.333"]]


def test_the_explanation_that_helps_the_student_is_kept(generality) -> None:
    path = prompts(Path("p.jsonl"), {"prompt": "1 + 1?", "reference": "2"},
                   {"prompt": "2 + 2?", "reference": "4"})  # fmt: skip
    exam = prompts(Path("exam.jsonl"), {"prompt": "2 + 2?", "reference": "4"})

    def reply(question, before):
        return said(f"way {before}\nAnswer: 2")

    def student(question, before):
        return said("Answer: 4")

    with serving(reply) as server, serving(student) as pupil:
        pupil.reply = lambda question, before: said("Answer: 4")
        answer = generality("distill", path, "-o", "out.jsonl", "--teacher", f"t@{server.url}",
                            "--student", f"s@{pupil.url}", "--recipe", "tailored", "--exam", exam,
                            "--pairs", "pairs.jsonl", "--workers", "1", "--json")  # fmt: skip
    assert answer.code == 0, answer.err
    assert json.loads(answer.out)["failures"] == {"held out": 1}
    (row,) = read("out.jsonl")
    assert row["messages"][1]["content"] == "way 0\nAnswer: 2"
    assert (row["technique"], row["student_score"]) == ("step by step", 1.0)
    assert Path("pairs.jsonl").read_text() == "", "equal scores make no pair"


# ------------------------------------------------------------------------- local models


@pytest.fixture
def model(tmp_path) -> str:
    folder = tmp_path / "model"
    tiny_models.tokenizer().save_pretrained(folder)
    tiny_models.llama().save_pretrained(folder)
    return str(folder)


def test_a_local_teacher_needs_a_template_or_a_plain_frame(generality, model) -> None:
    path = prompts(Path("p.jsonl"), {"prompt": "is the film good"}, {"prompt": "the book " * 40})
    command = ["distill", path, "-o", "out.jsonl", "--teacher", model, "--max-tokens", "6"]
    answer = generality(*command)
    assert answer.code == 2
    assert "has no chat template" in answer.err
    assert "--plain-template" in answer.err
    answer = generality(*command, "--plain-template", "--json")
    assert answer.code == 0, answer.err
    failures = json.loads(answer.out)["failures"]
    assert failures["too long to ask"] == 1
    assert sum(failures.values()) + len(read("out.jsonl") if Path("out.jsonl").stat().st_size
                                        else []) == 2  # fmt: skip
    assert json.loads(generality(*command, "--plain-template", "--json").out)["steps"][
        "computed"
    ] == 0  # fmt: skip


def test_one_conversation_that_a_template_refuses_does_not_end_the_job(lab, model) -> None:
    tokenizer = tiny_models.tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role == 'tool' %}{{ raise_exception('no tools') }}"
        "{% endif %}{{ m.content }} {% endfor %}"
    )
    tokenizer.save_pretrained(model)
    asked = [*questions("is the film good"), [{"role": "tool", "content": "4"}]]
    answers = make_teacher(model).answer(lab, asked, max_tokens=3)
    assert answers[0].problem != "rejected"
    assert answers[1].problem == "rejected"
    assert "no tools" in answers[1].detail


def test_a_template_without_system_messages_is_helped() -> None:
    tokenizer = tiny_models.tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}"
        "{% endif %}<{{ m.content }}>{% endfor %}"
    )
    asked = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]
    assert render(tokenizer, asked) == "<Be brief.\n\nWhy?>"


# ------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("", "Name who answers by --teacher"),
        ("--teacher http://here/v1", "--teacher MODEL@http://here/v1"),
        ("--teacher t@http://127.0.0.1:1/v1 --retries 0 --give-up 1", "cannot be reached"),
        ("--teacher t@http://127.0.0.1:1/v1 --retries 0", "1 prompts none was answered (1 unreach"),
        ("--teacher t@http://SERVER", "1 prompts none was answered (1 rejected)"),
        ("--teacher t@http://", "no address like http://localhost"),
        ("--teacher @http://h/v1", "Say which model to ask there"),
        ("--teacher nothing", "There is no model 'nothing'"),
        ("--teacher t@http://h/v1 --recipe explains", "Did you mean 'explain'?"),
        ("--teacher t@http://h/v1 --recipe tailored", "needs a student"),
        ("--teacher t@http://h/v1 --recipe tailored --student s@http://h/v1", "needs an exam"),
        ("--teacher t@http://h/v1 --judge num", "There is no judge 'num'."),
        ("--teacher t@http://h/v1 --prompt nothing", "has no good prompt"),
        ("--teacher t@http://h/v1 --format same", "There is no format 'same'."),
        ("--teacher t@http://h/v1 --wrong-steps no", "drop or keep"),
        ("--teacher t@http://h/v1 --reference no", "No record has the column 'no' of --reference"),
        ("--teacher t@http://h/v1 --key-variable NONE", "variable NONE holds no key"),
        ("--teacher t@http://h/v1 --failed p.jsonl", "would take the place of the prompts"),
        ("--teacher t@http://h/v1 --pairs out.jsonl", "would take the place of --out"),
    ],
)
def test_mistakes_are_one_sentence(generality, options, message) -> None:
    path = prompts(Path("p.jsonl"), {"prompt": "a"})
    with serving(lambda question, before: (400, {}, "no such parameter")) as server:
        options = options.replace("http://SERVER", server.url)
        answer = generality("distill", path, "-o", "out.jsonl", *options.split())
    assert (answer.code, answer.out) == (2, "")
    assert message in answer.err
    assert not Path("out.jsonl").exists()


# ------------------------------------------------------------------------- kills


def test_a_killed_job_repeats_no_finished_example(generality, home, tmp_path) -> None:
    path = prompts(tmp_path / "p.jsonl", *({"prompt": f"question {n}"} for n in range(30)))
    finished, gate = 17, threading.Event()
    started = 0
    lock = threading.Lock()

    def reply(question, before):
        nonlocal started
        with lock:
            started += 1
            late = started > finished
        if late:
            gate.wait(60)
        return said(f"An answer to {question}.")

    def kept() -> int:
        return sum(file.read_bytes().count(b"\n") for file in
                   tmp_path.glob("home/steps/partial/*/answers.jsonl"))  # fmt: skip

    with serving(reply) as server:
        command = ["distill", path, "-o", "out.jsonl", "--teacher", f"t@{server.url}", "--workers",
                   "4", "--json"]  # fmt: skip
        first = start(*command, home=home, cwd=tmp_path)
        deadline = time.monotonic() + 180
        while kept() < finished:
            assert time.monotonic() < deadline
            assert first.poll() is None, first.communicate()
            threading.Event().wait(0.02)
        first.send_signal(signal.SIGKILL)
        first.communicate()
        once = dict(server.asked)
        gate.set()
        assert not (tmp_path / "out.jsonl").exists()
        answer = generality(*command)
    assert answer.code == 0, answer.err
    assert json.loads(answer.out)["written"] == 30
    assert len(read(tmp_path / "out.jsonl")) == 30
    repeated = {question for question, times in server.asked.items() if times > 1}
    assert len(repeated) <= 4, "at most those that were on their way"
    assert len(server.asked) == 30
    assert len(once) - len(repeated) >= finished


def test_a_long_text_is_no_reference() -> None:
    texts = {"4": "4", "word " * 20: "", f"{'word ' * 20}#### 72": f"{'word ' * 20}#### 72"}
    for text, wanted in texts.items():
        example = prompt_of(Record(1, {"prompt": "p", "completion": text}))
        assert Recipe("explain").wanted(example) == wanted
    chinese = prompt_of(Record(1, {"prompt": "p", "completion": "我们先看二，再加上另外一个二。"}))
    assert Recipe("explain").wanted(chinese) == "", "no spaces, and yet long"
    tests = prompt_of(Record(1, {"prompt": "p", "tests": ["assert f(1)", "assert f(2)"]}))
    assert Recipe("explain", reference="tests").wanted(tests) == "assert f(1)\nassert f(2)"
    named = prompt_of(Record(1, {"prompt": "p", "completion": "4", "gold": 5}))
    assert Recipe("explain", reference="gold").wanted(named) == "5"
    assert Recipe("explain", reference="other").wanted(named) == ""
