"""Ways to make examples of a class in a domain; all have `synthesise(spec, label, n, seed)`."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float

from generality.errors import UserError
from generality.models.chat import Chat, ask
from generality.models.diffusion_pipeline import load_pipeline
from generality.selection.domain_proposer import DomainSpec, Keeps, lines
from generality.selection.prompt_writer import PromptWriter, template_prompts


class Synthesiser(Protocol):
    """From a domain and a class to examples."""

    @property
    def name(self) -> str:
        """What made them, for the record."""

    def synthesise(self, spec: DomainSpec, label: str, n: int, seed: int = 0) -> Any:
        """n texts, or images (n, 3, h, w) in [0, 1]; fewer where no more could be made."""


class TextSynthesiser:
    """Short texts of a class in a domain, by a language model.

    Args:
        chat: whom to ask.
        kind: what a text is, such as "customer review".
        temperature: of the answers.
        max_tokens: of each answer, which holds several texts.
        rounds: answers asked for at most.
        lab: keeps the answers, if given.

    >>> from generality.models import RecordedChat
    >>> writer = TextSynthesiser(RecordedChat(["1. The soup was cold.\\n2. Rude, slow waiters."]))
    >>> writer.synthesise(DomainSpec("restaurants"), "negative", 2)
    ['The soup was cold.', 'Rude, slow waiters.']
    """

    def __init__(
        self,
        chat: Chat,
        *,
        kind: str = "review",
        temperature: float = 0.8,
        max_tokens: int = 96,
        rounds: int = 2,
        lab: Keeps | None = None,
    ) -> None:
        self.chat, self.kind, self.temperature = chat, kind, temperature
        self.max_tokens, self.rounds, self.lab = max_tokens, rounds, lab

    @property
    def name(self) -> str:
        """Names the chat."""
        return f"text:{self.chat.fingerprint}"

    def synthesise(self, spec: DomainSpec, label: str, n: int, seed: int = 0) -> list[str]:
        """At most n different texts."""
        asked = (
            f"Write {n} short sentences, each from a {label} {self.kind} about {spec.name}. "
            "Number them. Only the sentences."
        )
        messages = [{"role": "user", "content": asked}]
        found: dict[str, None] = {}
        for attempt in range(self.rounds):
            options: dict[str, Any] = {
                "seed": seed + 1000 * attempt, "temperature": self.temperature,
                "max_tokens": self.max_tokens,
            }  # fmt: skip
            said = (
                self.lab.step(ask, self.chat, messages, **options)
                if self.lab
                else ask(self.chat, messages, **options)
            )
            found.update(dict.fromkeys(item for item in lines(said) if len(item.split()) > 2))
            if len(found) >= n:
                break
        return list(found)[:n]


class TemplateSynthesiser:
    """Texts from sentences that a person wrote, with blanks: the control for a language model.

    Args:
        templates: for each class, sentences in which "{domain}" stands for the domain's name and
            any other "{blank}" for one of its words.
        words: for each blank, what may stand there.

    >>> made = TemplateSynthesiser({"negative": ["a {bad} {domain}"]}, {"bad": ["poor", "dull"]})
    >>> sorted(made.synthesise(DomainSpec("hotel"), "negative", 2))
    ['a dull hotel', 'a poor hotel']
    """

    name = "templates"

    def __init__(
        self,
        templates: Mapping[str, Sequence[str]],
        words: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self.templates, self.words = templates, dict(words or {})

    def synthesise(self, spec: DomainSpec, label: str, n: int, seed: int = 0) -> list[str]:
        """At most n different texts, drawn by the seed."""
        texts: dict[str, None] = {}
        for template in self.templates[label]:
            blanks = [name for name in self.words if f"{{{name}}}" in template]
            for chosen in itertools.product(*(self.words[name] for name in blanks)):
                filled = dict(zip(blanks, chosen, strict=True))
                texts[template.format(domain=spec.name, **filled)] = None
        order = np.random.default_rng(seed).permutation(len(texts))[:n]
        made = list(texts)
        return [made[k] for k in order]


class ProceduralSynthesiser:
    """Images drawn by a program from a domain's parameters.

    Args:
        render: from the class's name, the domain's `parameters` and a generator to an image
            (3, h, w) in [0, 1]; `DigitRenderer` is one.
        name: for the record.

    >>> def grey(label, parameters, rng):
    ...     return np.full((3, 2, 2), parameters["light"], np.float32)
    >>> made = ProceduralSynthesiser(grey)
    >>> made.synthesise(DomainSpec("dusk", parameters={"light": 0.2}), "sky", 5).shape
    (5, 3, 2, 2)
    """

    def __init__(self, render: Callable[..., np.ndarray], name: str = "procedural") -> None:
        self.render, self.name = render, name

    def synthesise(
        self, spec: DomainSpec, label: str, n: int, seed: int = 0
    ) -> Float[np.ndarray, "n 3 height width"]:
        """n images, each by a generator of its own: the first ones stay the same for any n."""
        return np.stack(
            [
                self.render(label, spec.parameters, np.random.default_rng((seed, row)))
                for row in range(n)
            ]
        ).astype(np.float32)


class TextToImage:
    """Images by a text-to-image pipeline of diffusers, from prompts or from a template.

    Args:
        pipeline: what `DiffusionPipeline.from_pretrained` loads, a hub name or a folder; or a
            callable like a loaded pipeline. Its safety checker and licence are the user's matter.
        writer: writes the prompts; None: the template.
        template: a prompt with {label} and, if it shall, {domain}.
        prompts: of each class and domain, by the writer.
        size: images are brought to this side, in pixels.
        guidance: as the paper's 7.5; distilled models such as sd-turbo want 0.
        steps: of denoising; None is the pipeline's own.
        device: the pipeline is moved there.

    The generator has probably seen the public benchmarks: data-free is not knowledge-free.
    """

    def __init__(
        self,
        pipeline: Any,
        *,
        writer: PromptWriter | None = None,
        template: str = "a photo of a {label}, {domain}",
        prompts: int = 4,
        size: int = 224,
        guidance: float = 7.5,
        steps: int | None = None,
        device: str = "cuda",
    ) -> None:
        self.name = f"diffusion:{pipeline}" if isinstance(pipeline, str) else "diffusion"
        if isinstance(pipeline, str):
            pipeline = load_pipeline(pipeline, device=device)
        self.pipeline, self.writer, self.prompts, self.size = pipeline, writer, prompts, size
        self.template = template
        self.options = {"guidance_scale": guidance}
        if steps is not None:
            self.options["num_inference_steps"] = steps

    def synthesise(
        self, spec: DomainSpec, label: str, n: int, seed: int = 0
    ) -> Float[np.ndarray, "n 3 size size"]:
        """n images, the prompts in turn; the seed settles prompts and images."""
        import torch

        prompts = template_prompts(spec, label, [self.template])
        if self.writer is not None:
            prompts = self.writer.write(spec, label, n=self.prompts, seed=seed)
        if not prompts:
            raise UserError(f"No prompt was written for '{label}' in the domain '{spec.name}'.")
        made = []
        for row, prompt in zip(range(n), itertools.cycle(prompts), strict=False):
            generator = torch.Generator().manual_seed(1_000_003 * seed + row)
            image = self.pipeline(prompt, generator=generator, **self.options).images[0]
            pixels = np.asarray(image.convert("RGB").resize((self.size, self.size)))
            made.append(pixels.transpose(2, 0, 1) / np.float32(255))
        return np.stack(made)
