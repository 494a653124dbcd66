"""What the arms of studies are made of: tasks with their teachers, students and exams.

What belongs here: the piece between a method and a study that several arms share, such as a school
of tiny decoders with its exams, a ladder of probes, a panel of one real model. A study says which
arms there are and what is claimed of them; how an arm is trained and scored stands here. What does
not: methods for your own model and data (`training`, `estimators`, `objectives`, `modules`).
"""

from generality.experiments.diverse_beliefs import diverse_beliefs, labelling_agreement
from generality.experiments.drm_rules import combine_domain_heads
from generality.experiments.fact_debaters import FactDebaters
from generality.experiments.rich_start import (
    RichPlan,
    construct_starts,
    train_from,
    train_plain,
)
from generality.experiments.shortcut_remedies import fit_remedy
from generality.experiments.simplicity_numbers import remedy_numbers, simplicity_numbers
from generality.experiments.site_strategies import site_scores
from generality.experiments.site_tuning import tune_for_site
from generality.experiments.test_time_arms import TrueLabels, adapter_of, follow_streams
from generality.experiments.view_training import ViewTraining, craft_views, one_copy, view_network

__all__ = [
    "FactDebaters",
    "RichPlan",
    "TrueLabels",
    "ViewTraining",
    "adapter_of",
    "combine_domain_heads",
    "construct_starts",
    "craft_views",
    "diverse_beliefs",
    "fit_remedy",
    "follow_streams",
    "labelling_agreement",
    "one_copy",
    "remedy_numbers",
    "simplicity_numbers",
    "site_scores",
    "train_from",
    "train_plain",
    "tune_for_site",
    "view_network",
]
