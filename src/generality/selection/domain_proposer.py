"""Asking a language model in which further domains a class could be met."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from generality.errors import UserError
from generality.models.chat import Chat, Message, ask


class Keeps(Protocol):
    """What keeps the results of steps: `generality.lab.Lab`."""

    def step(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """The function's result, or the kept one."""


@dataclass(frozen=True)
class DomainSpec:
    """A domain that examples are to be made of.

    Args:
        name: a few words.
        description: more of them, for whoever writes prompts.
        label: the class it was proposed for; None: all.
        parameters: numbers and words for a procedural synthesiser.
    """

    name: str
    description: str = ""
    label: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)


class DomainProposer:
    """Novel domains for classes, by a language model that answers in JSON.

    The answer must be a JSON list of strings or of {"name", "description"}. One that is not is
    asked for again with another seed; after `retries` a plain list (a line each, numbered or with
    dashes) is taken too. Known domains and repetitions are dropped.

    Args:
        chat: whom to ask; see `generality.models.Chat`.
        kind: what an example is, such as "photograph" or "customer review".
        mode: "class": a question for each class; "dataset": one for all.
        reasoning: ask to think first about what can vary (on a further line before the list).
        temperature: of the answers.
        max_tokens: of each.
        retries: further questions where an answer cannot be read.
        lab: keeps the answers, if given.

    Source: "Beyond Finite Data", arXiv 2403.05523, section 4: role, task, classes, JSON. Its
    prompts are not released; the words are ours.

    >>> from generality.models import RecordedChat
    >>> chat = RecordedChat(['Here: ["cave painting", {"name": "sketch"}, "stained glass"]'])
    >>> proposer = DomainProposer(chat, kind="picture", mode="dataset")
    >>> [spec.name for spec in proposer.propose(["dog", "cat"], known=["Sketch"], n=3)]
    ['cave painting', 'stained glass']
    """

    def __init__(
        self,
        chat: Chat,
        *,
        kind: str = "photograph",
        mode: Literal["class", "dataset"] = "class",
        reasoning: bool = True,
        temperature: float = 0.7,
        max_tokens: int = 256,
        retries: int = 2,
        lab: Keeps | None = None,
    ) -> None:
        if mode not in ("class", "dataset"):
            raise ValueError(f"mode is 'class' or 'dataset', not '{mode}'")
        self.chat, self.kind, self.mode, self.reasoning = chat, kind, mode, reasoning
        self.temperature, self.max_tokens, self.retries = temperature, max_tokens, retries
        self.lab = lab

    def propose(
        self, classes: Sequence[str], *, known: Sequence[str] = (), n: int = 5, seed: int = 0
    ) -> list[DomainSpec]:
        """At most n domains for each class (in all, by data set).

        Raises:
            UserError: no answer could be read.
        """
        if self.mode == "dataset":
            return self._of(None, ", ".join(classes), known, n, seed)
        return [spec for name in classes for spec in self._of(name, name, known, n, seed)]

    def _of(
        self, label: str | None, what: str, known: Sequence[str], n: int, seed: int
    ) -> list[DomainSpec]:
        avoided = f" They differ from: {', '.join(known)}." if known else ""
        thought = "First say in one sentence what can vary. Then give" if self.reasoning else "Give"
        messages = [
            {
                "role": "system",
                "content": f"You are an expert in where and how {self.kind}s are made.",
            },
            {
                "role": "user",
                "content": f"List {n} plausible and different domains (places, styles, conditions, "
                f"viewpoints) of a {self.kind} of: {what}.{avoided} {thought} a JSON list of "
                'objects, each with "name" and "description".',
            },
        ]
        items = read_list(
            self.chat, messages, lab=self.lab, retries=self.retries, seed=seed,
            temperature=self.temperature, max_tokens=self.max_tokens,
        )  # fmt: skip
        taken = {name.casefold() for name in known}
        found: list[DomainSpec] = []
        for item in items:
            name = str(item.get("name", "") if isinstance(item, dict) else item).strip()
            if name and name.casefold() not in taken and len(found) < n:
                taken.add(name.casefold())
                more = str(item.get("description", "")) if isinstance(item, dict) else ""
                found.append(DomainSpec(name, more.strip(), label))
        return found


def read_list(
    chat: Chat,
    messages: Sequence[Message],
    *,
    lab: Keeps | None = None,
    retries: int = 2,
    seed: int = 0,
    **options: Any,
) -> list[Any]:
    """Ask for a JSON list until one comes; at last take lines for items.

    Raises:
        UserError: not even lines could be read from any answer.
    """
    answers: list[str] = []
    for attempt in range(retries + 1):
        chance = {**options, "seed": seed + 1000 * attempt}
        said = lab.step(ask, chat, messages, **chance) if lab else ask(chat, messages, **chance)
        if (items := json_list(said)) is not None:
            return items
        answers.append(said)
    longest = max((lines(said) for said in answers), key=len)
    if not longest:
        raise UserError(
            f"The language model gave no list in {retries + 1} answers. The last was: "
            f"{answers[-1][:200]!r}"
        )
    return longest


def json_list(said: str) -> list[Any] | None:
    """The first JSON list of strings or objects within a text, or None.

    >>> json_list('Sure! ```json\\n["a", "b"]\\n```')
    ['a', 'b']
    """
    for start in re.finditer(r"\[", said):
        try:
            found, _ = json.JSONDecoder().raw_decode(said[start.start() :])
        except ValueError:
            continue
        if found and all(
            isinstance(item, str) or (isinstance(item, dict) and isinstance(item.get("name"), str))
            for item in found
        ):
            return list(found)
    return None


def lines(said: str) -> list[str]:
    """The items of a list that a person would write: numbered, or with dashes, a line each.

    >>> lines("Here are two:\\n1. A cave.\\n2) **A boat**: at sea\\n- a lake")
    ['A cave.', 'A boat: at sea', 'a lake']
    """
    items = re.findall(r"^\s*(?:\d+[.)]|[-*•])\s+(.+)$", said, flags=re.MULTILINE)
    return [item.replace("*", "").strip().strip('"') for item in items if item.strip()]
