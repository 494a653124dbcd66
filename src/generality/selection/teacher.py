"""Answers of a teacher to many prompts: an endpoint or a local model, resumable example by example.

Nothing is lost: every request comes back as an `Answer`, with its text or with what went wrong.
"""

from __future__ import annotations

import json
import shutil
import threading
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from generality.errors import UserError
from generality.lab import Lab
from generality.lab.journal import Journal
from generality.models.chat import Chat, Completion, EndpointChat, EndpointError, Message
from generality.selection.training_files import Example

PROBLEMS = {
    "refused": "the teacher would not answer",
    "truncated": "cut at --max-tokens",
    "empty": "nothing was said",
    "repetitive": "the same over and over",
    "too long to ask": "the prompt leaves no room in the model's context",
    "timed out": "no answer in time",
    "rate limited": "the server was too busy, after all attempts",
    "server error": "the server failed, after all attempts",
    "unreachable": "no connection, after all attempts",
    "garbage": "not an answer of a chat endpoint",
    "rejected": "the server, or the model's chat template, did not accept the request",
}
"""What goes wrong with an answer, each with what it means."""

PASSING = ("timed out", "rate limited", "server error", "unreachable", "garbage")
"""Problems that may be over in a while; many in a row end the job."""

AGAIN = (*PASSING, "rejected")
"""Problems that may be over in the next run: such answers are asked for again."""

_REFUSALS = (
    "i'm sorry, but i can", "i am sorry, but i can", "sorry, but i can", "sorry, i can't",
    "i'm sorry, i can", "i cannot", "i can't assist", "i can't help", "i can’t", "i won't",
    "i'm unable to", "i am unable to", "i'm not able to", "as an ai language model, i can",
    "as an ai, i can",
)  # fmt: skip
_LEAST_TEXT, _REPEATED = 400, 12.0  # characters; times that zlib shrinks a text
_PLAIN = "Question: {prompt}\nAnswer:"


@dataclass(frozen=True)
class Answer:
    """What a teacher said, or why there is nothing to use.

    Attributes:
        text: what was said.
        problem: "" for a usable answer, else a key of `PROBLEMS`.
        detail: more about the problem.
    """

    text: str = ""
    problem: str = ""
    detail: str = ""


def judged(completion: Completion) -> Answer:
    """A completion with what is wrong with it, by its form alone.

    A refusal is told by what the server says, or by the usual openings in English.

    >>> judged(Completion("I'm sorry, but I can't help with that.")).problem
    'refused'
    >>> judged(Completion("So 2 + 2 =", finish="length")).problem
    'truncated'
    """
    text = completion.text
    opening = text[:80].casefold().replace("’", "'")
    if completion.refusal or completion.finish == "content_filter":
        return Answer(text, "refused", completion.refusal or "content_filter")
    if not text:
        return Answer(text, "empty")
    if opening.startswith(tuple(each.replace("’", "'") for each in _REFUSALS)):
        return Answer(text, "refused")
    raw = text.encode("utf-8", "replace")
    if len(text) >= _LEAST_TEXT and len(raw) / len(zlib.compress(raw)) > _REPEATED:
        return Answer(text, "repetitive")
    return Answer(text, "truncated" if completion.finish == "length" else "")


class Teacher(Protocol):
    """From conversations to answers, in order."""

    def answer(
        self,
        lab: Lab,
        conversations: Sequence[Sequence[Message]],
        *,
        max_tokens: int = 512,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> list[Answer]:
        """One answer for each conversation."""


class EndpointTeacher:
    """A chat that is asked many things at once; every answer is on the disk when it is there.

    Answers are kept in chunks below the lab's home under the chat, the conversation and the
    options. A chunk that a kill leaves unfinished goes on with the answers it has; what failed for
    a reason that may pass (`AGAIN`) is asked again by the next run. The same question asked several
    times over has a seed of its own each time: a server that minds it would repeat itself.

    Args:
        chat: an `EndpointChat`, or any `Chat` that may be called from several threads.
        workers: questions that are asked at once.
        chunk: questions kept together.
        give_up: failures in a row, without one answer, after which the rest is not asked.
    """

    def __init__(
        self, chat: Chat | EndpointChat, *, workers: int = 8, chunk: int = 64, give_up: int = 20
    ) -> None:
        self.chat, self.workers, self.chunk, self.give_up = chat, workers, chunk, give_up
        self._failed = 0  # in a row

    def answer(
        self,
        lab: Lab,
        conversations: Sequence[Sequence[Message]],
        *,
        max_tokens: int = 512,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> list[Answer]:
        """One answer for each conversation.

        Raises:
            UserError: the endpoint takes no request at all, or failed `give_up` times in a row.
        """
        answers: list[Answer] = []
        options = {"max_tokens": max_tokens, "temperature": temperature}
        seeds: list[int] = []
        times: Counter[str] = Counter()
        for each in conversations:
            times[said := json.dumps(list(each))] += 1
            seeds.append(seed + times[said] - 1)
        with lab.progress.task(f"Asking {len(conversations)} questions") as report:
            for start in range(0, len(conversations), self.chunk):
                rows = slice(start, start + self.chunk)
                part = [
                    (list(each), drawn)
                    for each, drawn in zip(conversations[rows], seeds[rows], strict=True)
                ]

                def tell(done: int, start: int = start) -> None:
                    report(start + done, len(conversations))

                answers += self._chunk(lab, part, options, tell)
        return answers

    def _chunk(
        self, lab: Lab, part: list[tuple[list[Message], int]], options: dict[str, Any], tell: Any
    ) -> list[Answer]:
        key = lab.steps.key(asked, self.chat, part, options)
        partial = lab.steps.partial(key)
        extra = {"teacher": self, "path": partial / "answers.jsonl", "tell": tell}
        try:
            said = lab.step(asked, self.chat, part, options, uncached=extra)
        except _UnfinishedChunk as unfinished:
            said = unfinished.said
        else:
            if lab.steps.folder(key).exists():
                shutil.rmtree(partial, ignore_errors=True)
        return [
            Answer("", problem, detail) if problem else judged(Completion(text, finish, refusal))
            for text, finish, refusal, problem, detail in said
        ]

    def one(self, conversation: list[Message], options: dict[str, Any]) -> list[str]:
        """Ask once: text, finish, refusal, and where there is none, the problem and its detail.

        Raises UserError where the endpoint would take no request at all.
        """
        try:
            if isinstance(self.chat, EndpointChat):
                ended = self.chat.complete(conversation, **options)
                return [ended.text, ended.finish, ended.refusal, "", ""]
            return [self.chat(conversation, **options), "", "", "", ""]
        except EndpointError as error:
            if error.kind == "denied":
                raise
            return ["", "", "", error.kind, str(error)]

    def count(self, said: list[str]) -> None:
        """Keep count of failures in a row. Raises UserError where there are too many."""
        self._failed = self._failed + 1 if said[3] in PASSING else 0
        if self._failed >= self.give_up:
            raise UserError(
                f"{self._failed} questions in a row had no answer; the last one: "
                f"{said[4].rstrip('.')}. "
                "Finished answers are kept: run the same command again when the endpoint is well."
            )


class _UnfinishedChunk(Exception):  # noqa: N818
    def __init__(self, said: list[list[str]]) -> None:
        self.said = said


def asked(
    chat: Chat,
    part: list[tuple[list[Message], int]],
    options: dict[str, Any],
    *,
    teacher: EndpointTeacher,
    path: Path,
    tell: Any,
) -> list[list[str]]:
    """The memoised step: a chunk of answers as `EndpointTeacher.one` gives them.

    Raises `_UnfinishedChunk`, and is not kept, where an answer may come another time.
    """
    journal = Journal(path)
    said = journal.read()
    todo = iter([place for place in range(len(part)) if str(place) not in said])
    tell(len(said))
    running: dict[Future[list[str]], int] = {}

    def keep(place: int, answer: list[str]) -> None:
        said[str(place)] = answer
        if answer[3] not in AGAIN:
            journal.write(str(place), answer)

    try:
        while True:
            while len(running) < teacher.workers and (place := next(todo, None)) is not None:
                conversation, seed = part[place]
                running[_begun(teacher.one, conversation, {**options, "seed": seed})] = place
            if not running:
                break
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                answer = future.result()
                keep(running.pop(future), answer)
                tell(len(said))
                teacher.count(answer)
    finally:
        for future, place in running.items():  # what came in while the work was being stopped
            if future.done() and future.exception() is None:
                keep(place, future.result())
    answers = [said[str(place)] for place in range(len(part))]
    if any(answer[3] in AGAIN for answer in answers):
        raise _UnfinishedChunk(answers)
    return answers


def _begun(work: Callable[..., list[str]], *arguments: Any) -> Future[list[str]]:
    """Work in a thread that ends with the program: Ctrl-C waits for no answer, a pool would."""
    future: Future[list[str]] = Future()

    def run() -> None:
        try:
            future.set_result(work(*arguments))
        except BaseException as error:  # noqa: BLE001 - raised where the answer is looked at
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


class LocalTeacher:
    """A causal language model on this machine, asked in batches; see `Lab.generate`.

    Args:
        model: a name as in `load_model`.
        plain: for a tokenizer without a chat template: "Question: … Answer:". A system message
            comes before it.
        batch: prompts written to together; a killed job repeats no finished batch.
    """

    def __init__(self, model: str, *, plain: bool = False, batch: int = 16) -> None:
        self.model, self.plain, self.batch = model, plain, batch

    def answer(
        self,
        lab: Lab,
        conversations: Sequence[Sequence[Message]],
        *,
        max_tokens: int = 512,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> list[Answer]:
        """One answer for each conversation. Raises UserError for a model that cannot chat."""
        from generality.models import load_tokenizer
        from generality.models.load import CAUSAL, fetch_model

        lab.fetch(self.model)
        config = json.loads((fetch_model(self.model) / "config.json").read_text(encoding="utf-8"))
        if not str((config.get("architectures") or [""])[0]).endswith(CAUSAL):
            raise UserError(f"'{self.model}' writes no text: name a causal language model.")
        tokenizer = load_tokenizer(self.model)
        answers = [Answer("", "too long to ask")] * len(conversations)
        prompts: list[str] = []
        for place, each in enumerate(conversations):
            try:
                prompts.append(render(tokenizer, each, plain=self.plain, name=self.model))
            except TemplateRefusal as error:
                prompts.append("")
                answers[place] = Answer("", "rejected", str(error))
        special = self.plain
        limit = context_of(self.model)
        lengths = [len(row) for row in tokenizer(prompts, add_special_tokens=special)["input_ids"]]
        room = [place for place, length in enumerate(lengths)
                if prompts[place] and length + max_tokens <= limit]  # fmt: skip
        texts = lab.generate(
            self.model, [prompts[place] for place in room], max_tokens=max_tokens,
            temperature=temperature, seed=seed, special_tokens=special, chunk=self.batch,
            batch_size=self.batch,
        )  # fmt: skip
        for place, (text,) in zip(room, texts, strict=True):
            if self.plain:  # such a model goes on with questions of its own
                text, stopped, _ = text.partition("\nQuestion:")
            full = len(tokenizer(text, add_special_tokens=False)["input_ids"]) >= max_tokens - 1
            cut = full and not (self.plain and stopped)
            answers[place] = judged(Completion(text.strip(), "length" if cut else "stop"))
        return answers


class TemplateRefusal(UserError):  # noqa: N818
    """A chat template does not take a conversation, such as roles that it does not know."""


def render(
    tokenizer: Any, conversation: Sequence[Message], *, plain: bool = False, name: str = "model"
) -> str:
    """A conversation as the text that a model continues: its own chat template, or a plain frame.

    Raises:
        UserError: the tokenizer has no chat template and a plain frame is not asked for.
        TemplateRefusal: its template does not take the conversation.

    >>> asked = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]
    >>> print(render(None, asked, plain=True))
    Be brief.
    <BLANKLINE>
    Question: Why?
    Answer:
    """
    if plain:
        first = [said["content"] for said in conversation if said["role"] == "system"]
        said = "\n".join(
            _PLAIN.replace("{prompt}", each["content"]) if each["role"] == "user"
            else f" {each['content']}\n" for each in conversation if each["role"] != "system"
        )  # fmt: skip
        return "\n\n".join([*filter(None, first), said])
    if not getattr(tokenizer, "chat_template", None):
        raise UserError(
            f"The tokenizer of '{name}' has no chat template: name a model tuned to follow "
            "instructions, or ask in a plain frame with --plain-template."
        )
    from jinja2 import TemplateError

    for messages in (list(conversation), _without_system(conversation)):
        try:
            return str(
                tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
            )
        except (TemplateError, ValueError, TypeError) as error:  # it may know no system role
            problem = error
    raise TemplateRefusal(
        f"The chat template of '{name}' does not take this conversation: {problem}"
    )


def _without_system(conversation: Sequence[Message]) -> list[Message]:
    """The system's words at the head of the user's first ones."""
    system = "\n\n".join(said["content"] for said in conversation if said["role"] == "system")
    rest = [dict(said) for said in conversation if said["role"] != "system"]
    if system and rest:
        rest[0]["content"] = f"{system}\n\n{rest[0]['content']}"
    return rest


class Prompter:
    """What a named model is given for an example, as a text.

    Args:
        model: a name as in `load_model`.
        template: "auto" (its chat template if it has one), "chat", or a text with {prompt}.
        lab: fetches the model.

    Attributes:
        chats: whether the chat template is used, which writes opening tokens itself.

    Raises:
        UserError: "chat" is asked for and there is no chat template.
    """

    def __init__(self, model: str, template: str, lab: Lab) -> None:
        from generality.models import load_tokenizer

        lab.fetch(model)
        self.model, self.tokenizer = model, load_tokenizer(model)
        known = bool(getattr(self.tokenizer, "chat_template", None))
        if template == "chat" and not known:
            raise UserError(
                f"The tokenizer of '{model}' has no chat template: leave --template out, or give "
                "a text with {prompt} in it."
            )
        self.chats = template == "chat" or (template == "auto" and known)
        self.frame = "{prompt}" if template in ("auto", "chat") else template

    def __call__(self, example: Example) -> str:
        """The text before the response."""
        if self.chats:
            return render(self.tokenizer, example.before, name=self.model)
        return self.frame.replace("{prompt}", example.prompt)

    def refuses(self, example: Example) -> bool:
        """Whether the chat template does not take the example."""
        try:
            self(example)
        except TemplateRefusal:
            return True
        return False

    def count(self, text: str) -> int:
        """Tokens of a text."""
        return len(self.tokenizer(text, add_special_tokens=False)["input_ids"])


def context_of(model: str) -> float:
    """Tokens that a named model can read, by its configuration; infinite where it does not say."""
    from generality.models import fetch_model

    config = json.loads((fetch_model(model) / "config.json").read_text(encoding="utf-8"))
    return float(config.get("max_position_embeddings") or "inf")


def make_teacher(
    name: str,
    *,
    url: str | None = None,
    key: str | None = None,
    plain: bool = False,
    workers: int = 8,
    batch: int = 16,
    timeout: float = 120.0,
    retries: int = 3,
    give_up: int = 20,
) -> EndpointTeacher | LocalTeacher:
    """A teacher by name: `model@http://host/v1` or a name with `url` is an endpoint's, else local.

    >>> make_teacher("qwen@http://localhost:8000/v1").chat.url
    'http://localhost:8000/v1'
    """
    model, _, address = name.partition("@") if "@http" in name else (name, "", "")
    if name.startswith(("http://", "https://")):
        raise UserError(f"Say which model to ask there: --teacher MODEL@{name}.")
    if address or url:
        if not model:
            raise UserError(f"Say which model to ask there: --teacher MODEL{name}.")
        chat = EndpointChat(
            model, url=address or str(url), key=key, timeout=timeout, retries=retries
        )
        return EndpointTeacher(chat, workers=workers, give_up=give_up)
    return LocalTeacher(model, plain=plain, batch=batch)
