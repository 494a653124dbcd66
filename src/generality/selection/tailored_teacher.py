"""A teacher that drafts training examples, aligned with what its student learns from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

from generality.errors import UserError
from generality.models.chat import Chat
from generality.selection.demonstration_worth import ExamItem, Student, Template, one_shot
from generality.selection.draft_pool import Draft, DraftPool
from generality.selection.judge import Judge

Level = Literal["question", "rationale"]


class Drafter(Protocol):
    """A teacher: it writes questions, explains them, and can be tuned on preferences.

    `question_prompt` and `rationale_prompt` are what it is asked when it is tuned ("{question}"
    stands for the question); what it is asked when it drafts may be richer.
    """

    @property
    def question_prompt(self) -> str:
        """Asks for questions."""

    @property
    def rationale_prompt(self) -> str:
        """Asks for a rationale of "{question}"."""

    def questions(self, count: int, seed: int) -> list[Draft]:
        """At most `count` questions, drawn by `seed`, as drafts without rationale."""

    def rationales(
        self, questions: Sequence[Draft], count: int, seed: int, *, greedy: bool = False
    ) -> list[Draft]:
        """`count` rationales for each question; `greedy` takes the likeliest instead of drawing."""

    def aligned(self, pairs: Sequence[Mapping[str, Any]], seed: int) -> Drafter:
        """The teacher tuned on pairs of `DraftPool.preference_pairs`."""


@dataclass(frozen=True)
class TailoredTeacher:
    """Drafts, the student's preferences among them, a teacher tuned on these, and its examples.

    1. `draft`: the teacher writes questions and several rationales for each; a draft is worth what
       the student gets right of the exam with it as the only example in context.
    2. `align`: the teacher is tuned by preference optimisation to write what scored high.
    3. `generate`: the aligned teacher writes training examples for the student.

    Source: Liu et al. 2024 (arXiv 2406.19227), ARTE, with its numbers as defaults.

    Args:
        teacher: writes; tuned by `align` where it can be.
        student: answers prompts, greedily.
        exam: questions with known answers, never those of a test; `discriminative_subset` of about
            a hundred makes a good short one.
        judge: of the student's answers.
        questions: drafted.
        rationales: of each question.
        question_pairs: preference pairs between questions.
        rationale_pairs: preference pairs between rationales of one question.
        template: how the student is shown a draft.
        seed: of all that is drawn.
    """

    teacher: Drafter
    student: Student = field(repr=False)
    exam: Sequence[ExamItem] = field(repr=False)
    judge: Judge
    questions: int = 250
    rationales: int = 4
    question_pairs: int = 50
    rationale_pairs: int = 250
    template: Template = one_shot
    seed: int = 0

    def draft(self) -> DraftPool:
        """Scored drafts of the teacher as it is."""
        asked = self.teacher.questions(self.questions, self.seed)
        drafts = self.teacher.rationales(asked, self.rationales, self.seed)
        return DraftPool(drafts).score(self.student, self.exam, self.judge, template=self.template)

    def pairs(
        self, pool: DraftPool, levels: Sequence[Level] = ("question", "rationale")
    ) -> list[dict[str, Any]]:
        """The preference pairs of these levels, mixed into one set."""
        prompts = {
            "question": (self.teacher.question_prompt, self.question_pairs),
            "rationale": (self.teacher.rationale_prompt, self.rationale_pairs),
        }
        return [
            pair
            for level in levels
            for pair in pool.preference_pairs(
                level, prompt=prompts[level][0], count=prompts[level][1], seed=self.seed
            )
        ]

    def align(
        self,
        pool: DraftPool | None = None,
        levels: Sequence[Level] = ("question", "rationale"),
    ) -> TailoredTeacher:
        """The same with its teacher tuned on the pool's preferences; without any, as it is."""
        pairs = self.pairs(self.draft() if pool is None else pool, levels)
        return replace(self, teacher=self.teacher.aligned(pairs, self.seed)) if pairs else self

    def generate(self, count: int, *, seed: int | None = None) -> list[Draft]:
        """Training examples: drawn questions, each with the teacher's likeliest rationale."""
        seed = self.seed if seed is None else seed
        asked = self.teacher.questions(count, seed)
        return self.teacher.rationales(asked, 1, seed, greedy=True)


TECHNIQUES = {
    "step by step": "Answer step by step, then give the answer.",
    "simply": "Explain the answer as to a five-year-old, then give the answer.",
    "recall": "First recall the facts that are needed, then reason from them to the answer.",
    "symbols": "Write the question in symbols, solve it in symbols, then give the answer.",
}
"""Ways of explaining, after the four of the paper."""

_ASK = (
    "Here are some questions:\n\n{examples}\n\nWrite one more question of this kind, nothing else."
)


@dataclass
class ChatDrafter:
    """A teacher that is a language model, local or behind an endpoint.

    Args:
        chat: whom to ask.
        examples: questions of the task, shown when a new one is asked for.
        techniques: how rationales are asked for, by name; drafts go through them in turn.
        tune: from preference pairs to a tuned chat, such as a training with `trl.DPOTrainer` and a
            `LocalChat` of what it saved. None: the teacher cannot be tuned.
        max_tokens: of an answer.
        temperature: of drafts.

    Attributes:
        dropped: answers left out so far, by reason: "empty" or "repeated".

    >>> from generality.models import RecordedChat
    >>> teacher = ChatDrafter(RecordedChat(["3 + 3 ?", "Three more than three. 6"]), ["1 + 2 ?"])
    >>> [draft] = teacher.rationales(teacher.questions(1, seed=0), 1, seed=0)
    >>> draft.question, draft.rationale, draft.technique
    ('3 + 3 ?', 'Three more than three. 6', 'step by step')
    """

    chat: Chat
    examples: Sequence[str] = ()
    techniques: Mapping[str, str] = field(default_factory=lambda: TECHNIQUES)
    tune: Callable[[Sequence[Mapping[str, Any]]], Chat] | None = None
    max_tokens: int = 512
    temperature: float = 1.0
    dropped: dict[str, int] = field(default_factory=lambda: {"empty": 0, "repeated": 0})

    @property
    def question_prompt(self) -> str:
        """What it is asked for a question."""
        return _ASK.format(examples="\n\n".join(self.examples))

    @property
    def rationale_prompt(self) -> str:
        """What it is asked for a rationale once it is aligned: no technique is named."""
        return "{question}\n\nAnswer step by step, then give the answer."

    def questions(self, count: int, seed: int) -> list[Draft]:
        """New questions; empty and repeated ones are counted and left out."""
        found: dict[str, Draft] = {}
        for place in range(count):
            said = self._say(self.question_prompt, seed * 1_000_003 + place)
            if said in found or said in self.examples:
                self.dropped["repeated"] += 1
            elif said:
                found[said] = Draft(said, "")
        return list(found.values())

    def rationales(
        self, questions: Sequence[Draft], count: int, seed: int, *, greedy: bool = False
    ) -> list[Draft]:
        """Rationales by the techniques in turn; `greedy` asks plainly, at temperature 0."""
        found = []
        names = list(self.techniques)
        for place, draft in enumerate(questions):
            for turn in range(count):
                name = "" if greedy else names[turn % len(names)]
                how = f"{{question}}\n\n{self.techniques[name]}" if name else self.rationale_prompt
                prompt = how.replace("{question}", draft.question)
                said = self._say(prompt, seed * 1_000_003 + place * count + turn, greedy=greedy)
                if said:
                    found.append(replace(draft, rationale=said, technique=name))
        return found

    def aligned(self, pairs: Sequence[Mapping[str, Any]], seed: int) -> ChatDrafter:
        """With the chat that `tune` makes. Raises UserError where there is no `tune`."""
        if self.tune is None:
            raise UserError(
                "This teacher cannot be tuned: give a way to tune it, or take the best-scoring "
                "rationale of each question (DraftPool.best)."
            )
        return replace(self, chat=self.tune(pairs), dropped={"empty": 0, "repeated": 0})

    def _say(self, prompt: str, seed: int, *, greedy: bool = False) -> str:
        message = {"role": "user", "content": prompt}
        temperature = 0.0 if greedy else self.temperature
        said = self.chat(
            [message], max_tokens=self.max_tokens, temperature=temperature, seed=seed
        ).strip()
        self.dropped["empty"] += not said
        return said


def chat_student(chat: Chat, **options: Any) -> Student:
    """A student that answers through a chat, one prompt after another; `options` as of the chat.

    >>> from generality.models import RecordedChat
    >>> chat_student(RecordedChat(["Four.", "Five."]))(["2 + 2 ?", "2 + 3 ?"])
    ['Four.', 'Five.']
    """
    return lambda prompts: [
        chat([{"role": "user", "content": prompt}], **options) for prompt in prompts
    ]
