"""Classifiers over features, as scikit-learn estimators.

What belongs here: a class with `fit`, `predict` and `predict_proba` (or `partial_fit`) that passes
`check_estimator` as far as it applies, so that it works in pipelines and searches; and protocols
that put any such estimators together. What does not: networks that are tuned whole (the lab's
`finetune`), losses (`objectives`). To add one: a file named after it, paper and equation in the
docstring, a line in `tests/test_estimators.py` for scikit-learn's checks, a line in `__all__`.
"""

from generality.estimators.probe_ladder import ProbeLadder
from generality.estimators.soft_probe import SoftProbe
from generality.estimators.weak_to_strong import WeakToStrong, bootstrap_chain

__all__ = ["ProbeLadder", "SoftProbe", "WeakToStrong", "bootstrap_chain"]
