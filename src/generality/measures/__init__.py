"""Numbers about a model, its predictions, its data or its gradients.

What belongs here: a plain function from predictions (or a model and data) to a number or a small
frozen dataclass of numbers; one that streams over batches is a `torchmetrics.Metric`. What does
not: anything that trains, and shares of a gap, which live in `generality.gap`. To add one: a file
named after the number, its unit, range and source in the docstring, a test against values
computed by hand, a line in `__all__`.
"""

from generality.measures.accuracy import accuracy, harden
from generality.measures.agreement import Agreement, student_supervisor_agreement
from generality.measures.calibration import ece
from generality.measures.flips import FlipReport, flip_report
from generality.measures.subspace_overlap import subspace_overlap
from generality.measures.truncation_curve import TruncationPoint, truncation_curve
from generality.measures.view_contributions import ViewContributions, view_contributions

__all__ = [
    "Agreement",
    "FlipReport",
    "TruncationPoint",
    "ViewContributions",
    "accuracy",
    "ece",
    "flip_report",
    "harden",
    "student_supervisor_agreement",
    "subspace_overlap",
    "truncation_curve",
    "view_contributions",
]
