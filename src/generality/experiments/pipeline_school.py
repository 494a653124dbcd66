"""The steps of SELMA on a diffusers pipeline: pictures, skill adapters in its U-Net, a judge."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from generality.benchmarks.worlds.scenes import Question, scene_questions
from generality.errors import UserError
from generality.measures.dependency_graph_score import dependency_graph_scores
from generality.models.diffusion_pipeline import load_pipeline
from generality.models.load import HUB_FAILURES

Pairs = tuple[Sequence[str], Sequence[Any]]
Answer = Callable[[Any, str], bool]
_ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]


class PipelineExperts:
    """Skill adapters in the U-Net of a text-to-image pipeline, trained on its own pictures.

    The pipeline is one with `unet`, `vae`, `text_encoder`, `tokenizer` and `scheduler`, as Stable
    Diffusion 1 and 2 have. Adapters stay in it by name, and any number of them work together, each
    with its share: the mean of what they add to the weights.

    Args:
        pipeline: of diffusers.
        rank: of adapters, on the attention layers; their scale is 1.
        seed: of pictures, noise and adapters.
        resolution: pixels on a side, a multiple of 8.
        micro_batch: pairs in one pass.

    Source: Li et al. 2024 (arXiv 2403.06952), section 3; noise-prediction error at a constant rate.
    Pictures are not mirrored in training as theirs are: that would turn left into right.
    """

    def __init__(
        self, pipeline: Any, *, rank: int = 128, seed: int = 0, resolution: int = 512,
        micro_batch: int = 4,
    ) -> None:  # fmt: skip
        lacking = [
            part
            for part in ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
            if getattr(pipeline, part, None) is None
        ]
        if lacking:
            raise UserError(f"This pipeline has no {', '.join(lacking)}: take a Stable Diffusion.")
        self.pipeline, self.rank, self.seed = pipeline, rank, seed
        self.resolution, self.micro_batch = resolution, micro_batch
        for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
            part.requires_grad_(False)

    def paint(self, captions: Sequence[str], adapters: Sequence[str] = ()) -> list[Any]:
        """One PIL picture a caption, with these adapters at equal shares, or none."""
        self.use(adapters)
        pictures = []
        for place, caption in enumerate(captions):
            generator = torch.Generator().manual_seed(self.seed + (place << 16))
            pictures += self.pipeline(
                caption, height=self.resolution, width=self.resolution, generator=generator
            ).images
        return pictures

    def use(self, adapters: Sequence[str]) -> None:
        """Let these adapters work, each with its share, and no other."""
        unet = self.pipeline.unet
        if adapters:
            unet.enable_adapters()
            unet.set_adapters(list(adapters), weights=[1 / len(adapters)] * len(adapters))
        elif getattr(unet, "peft_config", None):
            unet.disable_adapters()

    def train(
        self, name: str, captions: Sequence[str], pictures: Sequence[Any], *, steps: int,
        learning_rate: float = 3e-4, batch: int = 64,
    ) -> float:  # fmt: skip
        """Add an adapter of this name and train it alone; the mean loss of the last tenth."""
        from peft import LoraConfig

        unet = self.pipeline.unet
        torch.manual_seed(self.seed)
        lora = LoraConfig(r=self.rank, lora_alpha=self.rank, target_modules=_ATTENTION)
        unet.add_adapter(lora, adapter_name=name)
        unet.enable_adapters()
        unet.set_adapters([name], weights=[1.0])
        trained = [p for key, p in unet.named_parameters() if f".{name}." in key]
        for parameter in trained:
            parameter.requires_grad_(True)
        optimizer = torch.optim.AdamW(trained, lr=learning_rate)
        generator = torch.Generator().manual_seed(self.seed)
        losses = []
        unet.train()
        for _ in range(steps):
            optimizer.zero_grad()
            total, passes = 0.0, max(1, batch // self.micro_batch)
            for _ in range(passes):
                size = (min(batch, self.micro_batch),)
                rows = torch.randint(len(captions), size, generator=generator).tolist()
                loss = self.loss(
                    [captions[i] for i in rows], [pictures[i] for i in rows], generator
                )
                (loss / passes).backward()
                total += loss.item() / passes
            optimizer.step()
            losses.append(total)
        unet.eval()
        unet.requires_grad_(False)
        return float(np.mean(losses[-max(1, steps // 10) :]))

    def loss(
        self, captions: Sequence[str], pictures: Sequence[Any], generator: torch.Generator
    ) -> Float[Tensor, ""]:
        """Mean squared error of the predicted noise (or velocity, where the model predicts it)."""
        from diffusers import DDPMScheduler

        pipe = self.pipeline
        pixels = torch.stack([_pixels(picture, self.resolution) for picture in pictures])
        with torch.no_grad():
            latents = pipe.vae.encode(pixels.to(pipe.vae.device, pipe.vae.dtype)).latent_dist.mode()
            latents = latents * pipe.vae.config.scaling_factor
            tokens = pipe.tokenizer(
                list(captions), padding="max_length", truncation=True, return_tensors="pt",
                max_length=pipe.tokenizer.model_max_length,
            ).input_ids  # fmt: skip
            told = pipe.text_encoder(tokens.to(pipe.text_encoder.device))[0]
        schedule = DDPMScheduler.from_config(pipe.scheduler.config)
        noise = torch.randn(latents.shape, generator=generator).to(latents)
        times = torch.randint(
            schedule.config.num_train_timesteps, (len(latents),), generator=generator
        ).to(latents.device)
        noisy = schedule.add_noise(latents, noise, times)
        predicted = pipe.unet(noisy, times, encoder_hidden_states=told).sample
        velocity = schedule.config.prediction_type == "v_prediction"
        target = schedule.get_velocity(latents, noise, times) if velocity else noise
        return nn.functional.mse_loss(predicted.float(), target.float())

    def save(self, name: str, folder: str | Path) -> None:
        """Write one adapter as `pipeline.load_lora_weights` reads it."""
        from peft.utils import get_peft_model_state_dict

        layers = get_peft_model_state_dict(self.pipeline.unet, adapter_name=name)
        self.pipeline.save_lora_weights(str(folder), unet_lora_layers=layers)


def question_text(question: Question) -> str:
    """A question about a scene in words.

    >>> question_text(Question("colour", (0,), ("red", "ring")))
    'Is there a red ring?'
    """
    about = question.about
    if question.kind == "shape":
        return f"Is there a {about[0]}?"
    if question.kind == "colour":
        return f"Is there a {about[0]} {about[1]}?"
    if question.kind == "count":
        number, colour, shape = about
        several = "is" if number == "one" else "are"
        plural = "" if number == "one" else ("es" if shape == "cross" else "s")
        return f"{several.capitalize()} there exactly {number} {colour} {shape}{plural}?"
    relation, *things = about
    return f"Is the {things[0]} {things[1]} {relation} the {things[2]} {things[3]}?"


def visual_judge(name: str) -> Answer:
    """Whether a visual question answering model (ViLT and the like) says yes about a picture.

    Args:
        name: on the hub (`hf:org/name`) or of a folder.

    Raises:
        UserError: there is no such model, or it answers no questions about pictures.
    """
    from transformers import AutoModelForVisualQuestionAnswering, AutoProcessor

    place = name.removeprefix("hf:")
    try:
        processor = AutoProcessor.from_pretrained(place, trust_remote_code=False)
        model = AutoModelForVisualQuestionAnswering.from_pretrained(
            place, use_safetensors=True, trust_remote_code=False
        ).eval()
    except (*HUB_FAILURES, ValueError, KeyError) as error:
        reason = str(error).strip().split("\n")[0].rstrip(".")
        raise UserError(
            f"'{name}' cannot judge pictures: {reason}. Name a model for visual question answering "
            "with safetensors weights, such as hf:dandelin/vilt-b32-finetuned-vqa."
        ) from error

    def answer(picture: Any, question: str) -> bool:
        with torch.no_grad():
            logits = model(**processor(picture, question, return_tensors="pt")).logits
        return bool(model.config.id2label[int(logits.argmax())].casefold() == "yes")

    return answer


class PipelineSchool:
    """The study's steps on `config.painter`, judged by `config.judge`."""

    def __init__(self, config: Any, folder: Path, seed: int) -> None:
        self.config, self.folder, self.seed = config, folder, seed
        self.painter = PipelineExperts(
            load_pipeline(config.painter), rank=config.rank, seed=seed, resolution=config.resolution
        )
        self.answer = visual_judge(config.judge)

    def paint(self, captions: Sequence[str]) -> list[Any]:
        """The pipeline's own pictures."""
        return self.painter.paint(captions)

    def experts(self, data: Mapping[str, Pairs]) -> list[str]:
        """The names of an adapter for each skill."""
        for skill, pairs in data.items():
            self.painter.train(
                skill, *pairs, steps=self.config.steps, learning_rate=self.config.learning_rate
            )
        return list(data)

    def union(self, data: Mapping[str, Pairs]) -> str:
        """The name of one adapter on all of them, for as many steps as the experts together."""
        captions = [caption for captions, _ in data.values() for caption in captions]
        pictures = [picture for _, pictures in data.values() for picture in pictures]
        self.painter.train(
            "union", captions, pictures, steps=self.config.steps * len(data),
            learning_rate=self.config.learning_rate,
        )  # fmt: skip
        return "union"

    def scores(
        self, captions_of: Callable[[str, int, int], list[str]], adapters: Sequence[str] = ()
    ) -> dict[str, float]:
        """Share of questions about held-out captions of each skill that pictures fulfil."""
        found = {}
        for skill in self.config.skills:
            captions = captions_of(skill, self.config.test, self.seed + (1 << 16))
            marks: list[float] = []
            for caption, picture in zip(
                captions, self.painter.paint(captions, adapters), strict=True
            ):
                asked = scene_questions(caption)
                answers = [self.answer(picture, question_text(q)) for q in asked]
                marks += dependency_graph_scores(answers, [q.parents for q in asked])
            found[skill] = float(np.mean(marks))
        return found


def _pixels(picture: Any, resolution: int) -> Float[Tensor, "3 height width"]:
    sized = picture.convert("RGB").resize((resolution, resolution))
    return torch.from_numpy(np.asarray(sized).copy()).permute(2, 0, 1).float() / 127.5 - 1
