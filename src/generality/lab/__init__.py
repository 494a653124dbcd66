"""Where work is done: memoised steps, features, training, replicas, executors, runs on disk.

What belongs here: machinery that knows nothing of any paper. What does not: losses, models, data
sets, anything a reader of a study should see. A study needs only `Lab`; the pieces under it also
work alone (`replicate` on your tensors, `train` on your model, `embed` on your backbone).
"""

from typing import TYPE_CHECKING

from generality.lazy import lazy_names

if TYPE_CHECKING:
    from generality.lab.cosine_power import CosinePowerAnnealingLR, cosine_power_factors
    from generality.lab.features import embed
    from generality.lab.finetune import FineTuned
    from generality.lab.fit import Fitted
    from generality.lab.lab import Lab
    from generality.lab.replicate import Replicas
    from generality.lab.replicate_domains import DomainReplicas
    from generality.lab.runs import (
        RunRecord,
        RunWriter,
        find_runs,
        open_run,
        query,
        read_run,
        run_directory,
        write_json,
    )
    from generality.lab.sft import TunedLM
    from generality.lab.steps import StepStore
    from generality.lab.train import EarlyStop, TrainConfig

__all__ = [
    "CosinePowerAnnealingLR",
    "DomainReplicas",
    "EarlyStop",
    "FineTuned",
    "Fitted",
    "Lab",
    "Replicas",
    "RunRecord",
    "RunWriter",
    "StepStore",
    "TrainConfig",
    "TunedLM",
    "cosine_power_factors",
    "embed",
    "find_runs",
    "open_run",
    "query",
    "read_run",
    "run_directory",
    "write_json",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "DomainReplicas": "replicate_domains",
        "EarlyStop": "train",
        "FineTuned": "finetune",
        "Fitted": "fit",
        "Lab": "lab",
        "Replicas": "replicate",
        "RunRecord": "runs",
        "RunWriter": "runs",
        "StepStore": "steps",
        "TrainConfig": "train",
        "TunedLM": "sft",
        "embed": "features",
        "find_runs": "runs",
        "open_run": "runs",
        "query": "runs",
        "read_run": "runs",
        "run_directory": "runs",
        "write_json": "runs",
        "CosinePowerAnnealingLR": "cosine_power",
        "cosine_power_factors": "cosine_power",
    },
)
