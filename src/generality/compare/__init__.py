"""Tournaments on people's own data: which method wins, how sure that is, and the winner saved.

What belongs here: protocols that put methods side by side on one table of the user's, choose
without peeking at what they report, and save what won. What does not: methods (they are parts of
the other rooms), printing (the command line's). To add a method to an existing tournament: a line
in its table of methods (`methods.py`, `domain_methods.py`). To add a tournament: a file named after
the question, the protocol in its docstring, a run on disk with the same files as a study's.
"""

from generality.compare.domain_methods import DOMAIN_METHODS
from generality.compare.domain_table import DomainTable, read_domain_table
from generality.compare.domains import compare_domains
from generality.compare.leaderboard import Standing, leaderboard
from generality.compare.methods import METHODS
from generality.compare.weak_labels import compare_weak_labels
from generality.compare.winner import load_classifier, predict

__all__ = [
    "DOMAIN_METHODS",
    "METHODS",
    "DomainTable",
    "Standing",
    "compare_domains",
    "compare_weak_labels",
    "leaderboard",
    "load_classifier",
    "predict",
    "read_domain_table",
]
