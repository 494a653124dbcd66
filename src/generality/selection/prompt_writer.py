"""Prompts that describe a class in a domain, by a language model or by a template."""

from __future__ import annotations

from collections.abc import Sequence

from generality.models.chat import Chat
from generality.selection.domain_proposer import DomainSpec, Keeps, read_list


class PromptWriter:
    """Descriptive prompts for a text-to-image model, written by a language model.

    Args:
        chat: whom to ask.
        temperature: of the answers.
        max_tokens: of each.
        retries: further questions where an answer cannot be read.
        lab: keeps the answers, if given.

    Source: "Beyond Finite Data", arXiv 2403.05523, section 4; the words are ours.

    >>> from generality.models import RecordedChat
    >>> writer = PromptWriter(RecordedChat(['["a dog asleep on wet stones", "a dog at dusk"]']))
    >>> writer.write(DomainSpec("harbour"), "dog", n=2)
    ['a dog asleep on wet stones', 'a dog at dusk']
    """

    def __init__(
        self,
        chat: Chat,
        *,
        temperature: float = 0.7,
        max_tokens: int = 256,
        retries: int = 2,
        lab: Keeps | None = None,
    ) -> None:
        self.chat, self.temperature, self.max_tokens = chat, temperature, max_tokens
        self.retries, self.lab = retries, lab

    def write(self, spec: DomainSpec, label: str, *, n: int = 1, seed: int = 0) -> list[str]:
        """At most n prompts. Raises UserError where no answer could be read."""
        where = f"{spec.name} ({spec.description})" if spec.description else spec.name
        asked = (
            f"Write {n} different prompts for an image generator. Each shows a {label} in this "
            f"domain: {where}. Describe the scene in one sentence each. Answer with a JSON list "
            "of strings."
        )
        found = read_list(
            self.chat, [{"role": "user", "content": asked}], lab=self.lab, retries=self.retries,
            seed=seed, temperature=self.temperature, max_tokens=self.max_tokens,
        )  # fmt: skip
        return [str(item["name"] if isinstance(item, dict) else item) for item in found][:n]


def template_prompts(
    spec: DomainSpec, label: str, templates: Sequence[str] = ("a photo of a {label}, {domain}",)
) -> list[str]:
    """The control: the same sentence for every class and domain.

    >>> template_prompts(DomainSpec("harbour"), "dog")
    ['a photo of a dog, harbour']
    """
    return [each.format(label=label, domain=spec.name) for each in templates]
