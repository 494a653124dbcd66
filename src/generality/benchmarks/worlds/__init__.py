"""Procedural tasks with exact checkers, for language models small enough to be trained in a minute.

What belongs here: sources of `Problem`s (a prompt, the states of the task's algorithm, the answer)
in the words of one tokenizer. What does not: models, training, what a study makes of them. To add
a world: a module with a frozen dataclass whose `sample(count, …, seed)` gives problems, its words
in `world_tokenizer` or given as `extra`, a test of its checker, a line below.
"""

from generality.benchmarks.worlds.chain_programs import (
    STYLES,
    Chain,
    ChainPrograms,
    make_chain,
    solution,
    step_flags,
)
from generality.benchmarks.worlds.fact_debate import (
    FactQuestions,
    FactTalk,
    fact_debate,
    fact_questions,
)
from generality.benchmarks.worlds.problem import ANSWER, Problem, answer_of
from generality.benchmarks.worlds.skill_mixture import (
    SKILLS,
    NoisySolvers,
    SkewedGenerator,
    SkillMixture,
    drawn_mixture,
)
from generality.benchmarks.worlds.string_tasks import (
    TASKS,
    StringTask,
    compose,
    mistaken,
    string_task,
    terse,
    trace,
)
from generality.benchmarks.worlds.target_programs import (
    TARGET_WORDS,
    TargetProblem,
    TargetPrograms,
)
from generality.benchmarks.worlds.tokenizer import world_tokenizer
from generality.benchmarks.worlds.two_teachers import (
    Explained,
    TwoTeachers,
    in_form,
    mixed_problems,
    read_explained,
)

__all__ = [
    "ANSWER",
    "SKILLS",
    "STYLES",
    "TARGET_WORDS",
    "TASKS",
    "Chain",
    "ChainPrograms",
    "Explained",
    "FactQuestions",
    "FactTalk",
    "NoisySolvers",
    "Problem",
    "SkewedGenerator",
    "SkillMixture",
    "StringTask",
    "TargetProblem",
    "TargetPrograms",
    "TwoTeachers",
    "answer_of",
    "compose",
    "drawn_mixture",
    "fact_debate",
    "fact_questions",
    "in_form",
    "make_chain",
    "mistaken",
    "mixed_problems",
    "read_explained",
    "solution",
    "step_flags",
    "string_task",
    "terse",
    "trace",
    "world_tokenizer",
]
