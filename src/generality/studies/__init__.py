"""One file per paper: a configuration at three scales, a `run` that yields rows, the claims.

What belongs here: `studies/<family>/<paper>.py`, read top to bottom in under 200 lines, composing
parts from the other rooms. What does not: methods, losses, data sets, loops; they are parts.
To add one: write the module (its docstring's first line is the title) with `Config`, `SCALES`,
`run(config, lab)`, `CLAIMS` and `PAPER`; it is found by its file name, and its `smoke` scale runs
in the test suite from then on. CONTRIBUTING.md has the steps.
"""

from typing import TYPE_CHECKING

from generality.lazy import lazy_names

if TYPE_CHECKING:
    from generality.studies.execute import run_study
    from generality.studies.study import Paper, Study, configure, find_studies, find_study

__all__ = ["Paper", "Study", "configure", "find_studies", "find_study", "run_study"]

__getattr__, __dir__ = lazy_names(
    __name__, {name: "execute" if name == "run_study" else "study" for name in __all__}
)
