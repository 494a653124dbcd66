import dataclasses
import functools
import json
from pathlib import Path

import pytest
import torch

from generality.benchmarks.worlds import ChainPrograms, solution, world_tokenizer
from generality.benchmarks.worlds.wrong_chains import slipped
from generality.lab import Lab
from generality.measures import response_logprob
from generality.models import tiny_decoder
from generality.modules import preference_trainer
from generality.objectives import dpo_loss, simpo_loss
from generality.studies.supervise import superficial_alignment as study

TOKENIZER = world_tokenizer()
TINY = functools.partial(tiny_decoder, "0.05M", vocabulary=len(TOKENIZER))
CHAINS = ChainPrograms().sample(12, (1, 3), seed=0)
PAIRS = (
    [chain.prompt for chain in CHAINS],
    [solution(chain) for chain in CHAINS],
    [slipped(chain, seed) for seed, chain in enumerate(CHAINS)],
)


@pytest.mark.parametrize("kind", ["dpo", "simpo"])
def test_losses_are_those_of_trl(kind: str, tmp_path: Path) -> None:
    model, reference = TINY(1), TINY(0)
    further = {"ref_model": reference} if kind == "dpo" else {}
    trainer = preference_trainer(
        model, TOKENIZER, PAIRS, folder=str(tmp_path), kind=kind,
        per_device_train_batch_size=len(CHAINS), max_length=128, **further,
    )  # fmt: skip
    [batch] = trainer.get_train_dataloader()
    with torch.no_grad():
        theirs = trainer.compute_loss(trainer.model, batch)
    reduce = "sum" if kind == "dpo" else "mean"
    score = functools.partial(response_logprob, tokenizer=TOKENIZER, reduce=reduce)
    sides = [
        score(each, prompts=PAIRS[0], responses=responses)
        for each in ((model, reference) if kind == "dpo" else (model,))
        for responses in PAIRS[1:]
    ]
    ours = (dpo_loss if kind == "dpo" else simpo_loss)(*sides).mean()
    torch.testing.assert_close(theirs.cpu(), ours, atol=1e-5, rtol=1e-5)


def test_the_study_tunes_named_models_by_trl(tmp_path: Path) -> None:
    rows = [
        {"prompt": prompt, "chosen": chosen, "rejected": rejected}
        for prompt, chosen, rejected in zip(*PAIRS, strict=True)
    ]
    for name in ("pairs", "other"):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    names = []
    for seed in (0, 1):
        folder = tmp_path / f"model-{seed}"
        TINY(seed).save_pretrained(folder)
        TOKENIZER.save_pretrained(folder)
        names.append(str(folder))
    config = dataclasses.replace(
        study.SCALES["smoke"], policy_data=str(tmp_path), policies=tuple(names), pairs=4,
        pairs_test=4, policy_seeds=1,
    )  # fmt: skip
    lab = Lab(home=tmp_path / "steps", device="cpu", progress=False)
    rows = list(study.policy_rows(config, lab, "dpo"))
    assert [row["method"] for row in rows] == ["no-conflict", "implicit"]
    assert all(0 <= row["score"] <= 1 for row in rows)
    done = lab.environment()["steps"]
    assert rows == list(study.policy_rows(config, lab, "dpo"))
    assert lab.environment()["steps"]["computed"] == done["computed"] == 4
