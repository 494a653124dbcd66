"""Talking to a language model: one callable, whoever answers."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import cached_property
from typing import Any, Protocol

import httpx
import torch
import xxhash

from generality.errors import UserError
from generality.models.identity import model_identity

Message = dict[str, str]
"""{"role": "system", "user" or "assistant", "content": what is said}."""


class Chat(Protocol):
    """From messages to the model's next one. Anything callable in this way will do.

    `fingerprint` names the model and its weights, so that kept answers are told apart: pass a chat
    and its arguments to `ask` through `Lab.step`, and nothing is asked twice.
    """

    @property
    def fingerprint(self) -> str:
        """What the answers depend on, beside the arguments."""

    def __call__(
        self,
        messages: Sequence[Message],
        *,
        max_tokens: int = 256,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> str:
        """The answer: at most `max_tokens`, the likeliest at temperature 0, else drawn by seed."""


def ask(chat: Chat, messages: Sequence[Message], **options: Any) -> str:
    """`chat(messages, **options)`, as a function that `Lab.step` can keep.

    >>> ask(RecordedChat(["Four."]), [{"role": "user", "content": "2 + 2?"}])
    'Four.'
    """
    return chat(messages, **options)


class LocalChat:
    """An instruction-tuned model of transformers on this machine, with its own chat template.

    It is loaded when first asked. SmolLM2-135M writes about 15 tokens a second on one CPU core.

    Args:
        model: as in `load_model`; a causal language model with a chat template.
        device: "auto", "cpu", "cuda" or "mps".
    """

    def __init__(self, model: str = "smollm2-135m", *, device: str = "auto") -> None:
        self.model, self.device = model, device

    @cached_property
    def fingerprint(self) -> str:
        """The model's identity."""
        return f"local:{model_identity(self.model)}"

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        from generality.models.load import load_model, load_tokenizer

        tokenizer = load_tokenizer(self.model)
        if not getattr(tokenizer, "chat_template", None):
            raise UserError(
                f"The model '{self.model}' has no chat template: name one tuned to follow "
                "instructions."
            )
        network = load_model(self.model, device=self.device)
        if not hasattr(network, "generate"):
            raise UserError(f"The model '{self.model}' does not write text.")
        return network, tokenizer

    @torch.inference_mode()
    def __call__(
        self,
        messages: Sequence[Message],
        *,
        max_tokens: int = 256,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> str:
        """The answer. Raises UserError for a model that cannot chat."""
        network, tokenizer = self._loaded
        prompt = tokenizer.apply_chat_template(
            list(messages), add_generation_prompt=True, return_tensors="pt", return_dict=True
        ).to(network.device)
        drawn = {"do_sample": True, "temperature": temperature, "top_p": 1.0, "top_k": 0}
        greedy = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
        gpus = [network.device] if network.device.type == "cuda" else []
        with torch.random.fork_rng(devices=gpus):
            torch.manual_seed(seed)
            tokens = network.generate(
                **prompt, max_new_tokens=max_tokens, pad_token_id=tokenizer.pad_token_id,
                **(drawn if temperature > 0 else greedy),
            )  # fmt: skip
        said: str = tokenizer.decode(
            tokens[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True
        )
        return said.strip()


@dataclass(frozen=True)
class Completion:
    """An answer with how it ended.

    Attributes:
        text: what was said, stripped.
        finish: "stop", "length" where the limit of tokens cut it, "content_filter", …; "" unknown.
        refusal: what the server says of why it will not answer; "" where it does answer.
    """

    text: str
    finish: str = ""
    refusal: str = ""


class EndpointError(UserError):
    """An endpoint gave no answer.

    Attributes:
        kind: "unreachable", "timed out", "rate limited", "server error", "garbage" (no answer of a
            chat endpoint), "rejected" (this request), "denied" (any request: key, name, address).
    """

    def __init__(self, message: str, kind: str) -> None:
        super().__init__(message)
        self.kind = kind


class EndpointChat:
    """A server that speaks OpenAI's chat completions: vLLM, llama.cpp, Ollama or a service.

    May be called from several threads at a time.

    Args:
        model: the model's name there.
        url: up to and with the version, such as "http://localhost:8000/v1".
        key: sent as a bearer token; None takes it from the environment's `OPENAI_API_KEY`, if set.
        timeout: seconds for one answer.
        retries: further attempts when the server is busy, failing or unreachable: after 1, 2, 4 …
            seconds, or after as many as it asks for in `Retry-After`.
        longest_wait: seconds; a server that asks for more is not asked again.
        transport: of httpx, for tests.
    """

    def __init__(
        self,
        model: str,
        *,
        url: str = "https://api.openai.com/v1",
        key: str | None = None,
        timeout: float = 120.0,
        retries: int = 3,
        longest_wait: float = 120.0,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.model, self.url, self.retries = model, url.rstrip("/"), retries
        self.longest_wait = longest_wait
        self._key = (os.environ.get("OPENAI_API_KEY", "") if key is None else key).strip()
        if not (self._key.isascii() and self._key.isprintable()):
            raise UserError(
                f"The key for {self.url} holds characters that no key has; copy it anew."
            )
        limits = httpx.Limits(max_connections=None)
        try:
            self._client = httpx.Client(timeout=timeout, transport=transport, limits=limits)
            address = httpx.URL(self.url)
        except httpx.InvalidURL as error:
            raise UserError(f"'{url}' is no address of an endpoint: {error}.") from error
        if not address.host or address.scheme not in ("http", "https"):
            raise UserError(f"'{url}' is no address like http://localhost:8000/v1.")

    @property
    def fingerprint(self) -> str:
        """Where it is and what it is called; a server may change what that name means."""
        return f"endpoint:{self.url}:{self.model}"

    def close(self) -> None:
        """End every connection; calls under way fail."""
        self._client.close()

    def __call__(
        self,
        messages: Sequence[Message],
        *,
        max_tokens: int = 256,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> str:
        """The answer. Raises EndpointError, a UserError, where the server gives none."""
        return self.complete(
            messages, max_tokens=max_tokens, temperature=temperature, seed=seed
        ).text

    def complete(
        self,
        messages: Sequence[Message],
        *,
        max_tokens: int = 256,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> Completion:
        """The answer and how it ended. Raises EndpointError where the server gives none."""
        body = {
            "model": self.model, "messages": list(messages), "max_tokens": max_tokens,
            "temperature": temperature, "seed": seed,
        }  # fmt: skip
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        where = f"{self.url}/chat/completions"
        wait = 0.0
        for attempt in range(self.retries + 1):
            if attempt:
                time.sleep(wait)
            wait = 2**attempt
            try:
                answer = self._client.post(where, json=body, headers=headers)
            except httpx.TimeoutException as error:
                problem, kind = f"did not answer in time: {error}", "timed out"
                continue
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                problem, kind = f"cannot be reached: {error}", "unreachable"
                continue
            if answer.status_code == 200:
                try:
                    return _completion(answer.json())
                except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
                    raise EndpointError(
                        f"{where} did not answer as a chat endpoint does.", "garbage"
                    ) from error
            problem = f"answered {answer.status_code}: {answer.text[:200]}"
            kind = _kind(answer.status_code)
            asked = retry_after(answer.headers)
            if kind in ("rejected", "denied") or asked > self.longest_wait:
                break
            wait = max(wait, asked) if asked else wait
        raise EndpointError(f"{where} {problem}", kind)


def _completion(body: Any) -> Completion:
    choice = body["choices"][0]
    message = choice["message"]
    text = message["content"]
    if text is not None and not isinstance(text, str):
        raise TypeError("the answer is no text")
    finish, refusal = choice.get("finish_reason"), message.get("refusal")
    return Completion((text or "").strip(), str(finish or ""), str(refusal or ""))


def _kind(status: int) -> str:
    if status == 429:
        return "rate limited"
    if status in (408, 504):
        return "timed out"
    if status >= 500:
        return "server error"
    return "denied" if status in (401, 403, 404) else "rejected"


def retry_after(headers: Mapping[str, str]) -> float:
    """Seconds that a server asks to wait, by its `Retry-After` (seconds or a date); 0 if none.

    >>> retry_after({"retry-after": "7"}), retry_after({})
    (7.0, 0.0)
    """
    value = headers.get("retry-after", "")
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError):
        return 0.0


class RecordedChat:
    """Answers written down beforehand, given one after another: for tests, and to replay a talk.

    Args:
        answers: in order.

    >>> chat = RecordedChat(["Yes.", "No."])
    >>> [chat([{"role": "user", "content": question}]) for question in ("Is it?", "Sure?")]
    ['Yes.', 'No.']
    >>> chat.heard[1][-1]["content"]
    'Sure?'
    """

    def __init__(self, answers: Sequence[str]) -> None:
        self.answers = list(answers)
        self.heard: list[list[Message]] = []

    @property
    def fingerprint(self) -> str:
        """Of all answers, and how many are already given."""
        content = "\0".join([str(len(self.heard)), *self.answers])
        return f"recorded:{xxhash.xxh3_128_hexdigest(content.encode())}"

    def __call__(
        self,
        messages: Sequence[Message],
        *,
        max_tokens: int = 256,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> str:
        """The next answer. Raises UserError when all are given."""
        if len(self.heard) == len(self.answers):
            raise UserError(f"The recorded talk has no more than {len(self.answers)} answers.")
        self.heard.append(list(messages))
        return self.answers[len(self.heard) - 1]
