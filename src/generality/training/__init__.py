"""Whole networks trained, searched, pruned, merged or distilled, by one call.

What belongs here: a method that needs more than a loss or a layer, as a function or a small class
that takes your network and your data: a federation's rounds, a search for an architecture, a
pruning that goes block by block, a merge chosen on data, a language model tuned and asked. What
does not: the training loop itself (`lab`), losses (`objectives`), arithmetic on stored weights
(`weights`), classifiers over features (`estimators`). To add one: a file named after it, paper and
equation in the docstring, an example that runs.
"""

from generality.training.architecture_search import (
    SearchPlan,
    search_architecture,
    search_ranking_gap,
)
from generality.training.ensemble_search import (
    SupernetPlan,
    one_shot_accuracy,
    search_ensemble,
    train_supernet,
)
from generality.training.evolution_search import evolution_search
from generality.training.federated_vote import federated_vote
from generality.training.federation import Federation, Round, fedavg
from generality.training.fedka import FederatedVoting, FedKAClient
from generality.training.guidance_training import GuidancePlan, train_guidance
from generality.training.meta_train import MetaHistory, MetaTask, adapt, meta_train
from generality.training.prompt_learner import (
    MetaPlan,
    PromptSpace,
    learn_prompt,
    name_scores,
    tune_prompt,
)
from generality.training.shrinking_sampler import ShrinkingSampler, combo_diversity
from generality.training.skill_experts import (
    adapter_conflict,
    merge_experts,
    train_skill_experts,
    with_adapter,
)
from generality.training.train_steps import train_steps
from generality.training.ways_to_tune import ways_to_tune
from generality.training.writer import Writer

__all__ = [
    "FedKAClient",
    "FederatedVoting",
    "Federation",
    "GuidancePlan",
    "MetaHistory",
    "MetaPlan",
    "MetaTask",
    "PromptSpace",
    "Round",
    "SearchPlan",
    "ShrinkingSampler",
    "SupernetPlan",
    "Writer",
    "adapt",
    "adapter_conflict",
    "combo_diversity",
    "evolution_search",
    "fedavg",
    "federated_vote",
    "learn_prompt",
    "merge_experts",
    "meta_train",
    "name_scores",
    "one_shot_accuracy",
    "search_architecture",
    "search_ensemble",
    "search_ranking_gap",
    "train_guidance",
    "train_skill_experts",
    "train_steps",
    "train_supernet",
    "tune_prompt",
    "ways_to_tune",
    "with_adapter",
]
