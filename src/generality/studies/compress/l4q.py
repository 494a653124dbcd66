"""L4Q: should a model that must end in a few bits be tuned and rounded together?

Protocol (Jeon et al. 2024, arXiv 2402.04902). A small decoder has read films, shops, newspapers and
tweets; it is tuned on reviews of drugs, which it never saw, and brought to 4, 3 or 2 bits in groups
of 32 inputs. All ways take the same texts, steps and learning rate. Floor: the decoder rounded to
nearest, not tuned. Ceiling: LoRA at full precision. Rivals: GPTQ without tuning; LoRA, then rounded
to nearest or by GPTQ; QLoRA, whose branch stays at full precision, and the same merged and rounded
again; QA-LoRA; L4Q with the scales held; full quantisation-aware training. All but `qlora` end with
every weight of the blocks in a few bits; that row does not compare in size or speed.

Differences from the paper, with their effect: a decoder of 0.3 million weights instead of LLaMA
(its weights are less redundant: two bits cost a lot); groups of 32 instead of 128, rank 4; losses
on one domain instead of common-sense and MMLU accuracy; 80 steps at one learning rate for all ways,
a fortieth of a four-bit step (LoRA moves few weights by half a step, so short training favours what
moves the scales); QLoRA and QA-LoRA with L4Q's symmetric steps instead of number formats of their
own; no OmniQuant.
Memory is bytes saved for the backward pass of one batch, which on so small a decoder are mostly
activations.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from generality.claims import Claim, Row, equivalent, greater, less, monotone
from generality.lab import Lab, TrainConfig
from generality.lab.threads import threads
from generality.studies.study import Paper

if TYPE_CHECKING:
    from generality.experiments.language_domains import LanguageDomains

PAPER = Paper(
    "L4Q: Parameter Efficient Quantization-Aware Training on Large Language Models via LoRA-wise "
    "LSQ",
    arxiv="2402.04902",
    year=2024,
)
FACTORS = ("bits",)


@dataclass(frozen=True)
class Config:
    """Every knob of the study."""

    model: str | None = None  # a name as load_model takes it; None: a decoder trained here
    data_path: str = "data/l4q"  # with a model: DOMAIN.train.jsonl and DOMAIN.test.jsonl
    domain: str = "drugs"  # that is tuned on
    general: tuple[str, ...] = ("movie", "amazon", "nyt", "tweets")
    bits: tuple[int, ...] = (4, 3, 2)
    group: int = 32  # inputs that share a step and an offset
    rank: int = 4
    warmup: int = 10  # steps in which L4Q's scales are held
    size: str = "0.25M"  # of the decoder
    limit: int | None = None  # texts of each domain at most; None: all
    words: int = 40  # of a text
    tokens: int = 300_000  # that the decoder reads before
    base_learning_rate: float = 3e-3
    texts: int = 160  # of the domain, to tune on
    epochs: float = 2  # over them
    batch_size: int = 4
    learning_rate: float = 1e-3
    test: int = 60  # held-out texts of each domain
    seeds: int = 3


SCALES = {
    "smoke": Config(
        general=("nyt",), bits=(2,), size="0.05M", limit=40, words=12, tokens=2000, texts=16,
        epochs=1, test=8, warmup=1, seeds=2,
    ),
    "small": Config(),
    "full": Config(
        model="hf:meta-llama/Llama-2-7b-hf", domain="alpaca", general=("c4",), bits=(4, 3),
        group=128, words=700, texts=50_000, epochs=4, learning_rate=1e-4, test=1000,
    ),
}  # fmt: skip

FEW = {"bits": [3, 2]}
CLAIMS = (
    Claim("Below four bits L4Q beats LoRA rounded after it", greater("l4q", "lora-rtn", where=FEW)),
    Claim("LoRA rounded by GPTQ", greater("l4q", "lora-gptq", where=FEW)),
    Claim("QLoRA merged and rounded again", greater("l4q", "qlora-rtn", where=FEW)),
    Claim("And QA-LoRA", greater("l4q", "qa-lora", where=FEW)),
    Claim("It beats GPTQ without tuning, at all bits", greater("l4q", "gptq")),
    Claim(
        "It beats QLoRA, which keeps a branch of full precision, at three bits or more",
        greater("l4q", "qlora", where={"bits": [4, 3]}),
    ),
    Claim("Learning the scales helps", greater("l4q", "l4q-held", where=FEW)),
    Claim(
        "At four bits it is as good as LoRA at full precision (within 0.03 nats a token)",
        equivalent("l4q", "ceiling", margin=0.03, where={"bits": 4}),
    ),
    Claim(
        "Its lead over LoRA rounded after grows as bits shrink",
        monotone("bits", on="lead", direction="decreasing", where={"method": "l4q"}),
    ),
    Claim(
        "It keeps for its backward pass at most a twentieth more than LoRA",
        less("l4q", 1.05, on="saved_ratio"),
    ),
    Claim(
        "Full quantisation-aware training keeps more", greater("qat", "l4q", on="saved_ratio")
    ),
    Claim(
        "What was known before is kept better than by LoRA rounded after",
        less("l4q", "lora-rtn", on="before_loss", where=FEW),
    ),
)  # fmt: skip


def run(config: Config, lab: Lab) -> Iterator[Row]:
    """Rows of every seed, number of bits and way."""
    world = exams(config, lab)
    for seed in lab.seeds(config.seeds):
        weights = None
        if config.model is None:
            how = TrainConfig(
                batch_size=32, learning_rate=config.base_learning_rate, optimizer="adamw",
                warmup=0.05, max_grad_norm=1.0,
            )  # fmt: skip
            weights = world.trained(lab, config.general, config.tokens, how, seed)
        full, saved = lab.step(lora, config, world, weights, seed)
        for bits in config.bits:
            for row in lab.step(cell, config, world, weights, full, saved, bits, seed):
                yield Row(seed=seed, bits=bits, **row)


def exams(config: Config, lab: Lab) -> LanguageDomains:
    """The decoder's domains, or those of a model by name in files."""
    from generality.experiments.language_domains import model_domains

    return model_domains(
        lab, (*config.general, config.domain), size=config.size, model=config.model,
        folder=config.data_path, words=config.words, test=config.test, limit=config.limit,
    )  # fmt: skip


def ways(config: Config, world: LanguageDomains, weights: Any, bits: int, seed: int) -> Any:
    """What tunes and rounds one model."""
    from generality.training.low_bit_tuning import LowBitTuning

    return LowBitTuning(
        world.model(weights),
        world.read([config.domain], config.texts, seed=seed),
        TrainConfig(
            config.epochs, config.batch_size, learning_rate=config.learning_rate,
            optimizer="adamw", max_grad_norm=1.0, warmup=0.05,
        ),
        bits=bits, group=config.group, rank=config.rank, warmup=config.warmup, seed=seed,
    )  # fmt: skip


def lora(config: Config, world: LanguageDomains, weights: Any, seed: int) -> tuple[Any, int]:
    """LoRA at full precision, which all numbers of bits share: weights, and bytes saved."""
    with threads(1):
        tuned = ways(config, world, weights, 4, seed).lora()
    return dict(tuned.model.state_dict()), tuned.saved


def cell(
    config: Config, world: LanguageDomains, weights: Any, full: Any, saved: int, bits: int,
    seed: int,
) -> list[dict[str, Any]]:  # fmt: skip
    """All ways at one number of bits."""
    with threads(1):
        task = ways(config, world, weights, bits, seed)
        tuned = world.model(full)
        qlora = task.qlora()
        found = {
            "rtn": task.rtn(),
            "gptq": task.gptq(),
            "lora-rtn": task.rtn(tuned),
            "lora-gptq": task.gptq(tuned),
            "qlora": qlora,
            "qlora-rtn": task.rtn(qlora.model),
            "qa-lora": task.qalora(),
            "l4q-held": task.l4q(learn_scales=False),
            "l4q": task.l4q(),
            "qat": task.qat(),
        }
        ceiling = -world.loss(tuned, [config.domain])
        scores = {name: -world.loss(one.model, [config.domain]) for name, one in found.items()}
        return [
            {
                "method": name, "score": scores[name], "floor": scores["rtn"], "ceiling": ceiling,
                "before_loss": world.loss(one.model, config.general),
                "lead": scores[name] - scores["lora-rtn"],
                "saved_ratio": one.saved / saved if one.saved else None,
            }
            for name, one in found.items()
        ]  # fmt: skip
