"""What a person looks at: one HTML page, terminal tables, one picture, all from a run's files.

What belongs here: turning the rows and verdicts of a finished (or still running) study into
something readable. What does not: anything that trains, scores or tests; a report computes means
and intervals with `generality.gap` and shows the rest as it finds it. To add a view: a file
named after it that takes a `RunRecord` or a `Summary`, a test with an empty and a hostile run, a
line in `__all__`. What is said (the headline, the words for no gap, one seed, no truth) is
decided once, in `summary.py`, so that the page and the terminal never disagree.

Nothing here is trusted to be harmless: names and statements come from files and are escaped.
"""

from typing import TYPE_CHECKING

from generality.lazy import lazy_names

if TYPE_CHECKING:
    from generality.report.html import write_report
    from generality.report.picture import write_picture
    from generality.report.summary import Line, Summary, summarise, summarise_run
    from generality.report.terminal import show_claims, show_summary, to_json

__all__ = [
    "Line",
    "Summary",
    "show_claims",
    "show_summary",
    "summarise",
    "summarise_run",
    "to_json",
    "write_picture",
    "write_report",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "Line": "summary",
        "Summary": "summary",
        "show_claims": "terminal",
        "show_summary": "terminal",
        "summarise": "summary",
        "summarise_run": "summary",
        "to_json": "terminal",
        "write_picture": "picture",
        "write_report": "html",
    },
)
