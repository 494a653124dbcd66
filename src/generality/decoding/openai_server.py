"""A server that speaks OpenAI's completions, for any model that writes here: single or fused."""

from __future__ import annotations

import hmac
import json
import math
import queue
import secrets
import select
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
from torch import nn

from generality.decoding.text_stream import TextStream

_LARGEST_BODY = 16 * 2**20  # bytes
_UNSUPPORTED = (
    "tools", "functions", "response_format", "logprobs", "top_logprobs", "logit_bias", "echo",
    "suffix", "best_of", "presence_penalty", "frequency_penalty", "audio",
)  # fmt: skip


class RequestError(Exception):
    """A request that gets an error in OpenAI's shape."""

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(message)
        kind = "server_error" if status >= 500 else "invalid_request_error"
        self.status = status
        self.body = {
            "error": {"message": message, "type": kind, "param": param, "code": code}
        }  # fmt: skip


@dataclass
class _Job:
    """One text that is being written; `pieces` ends with None, or with what went wrong."""

    stream: TextStream
    pieces: queue.SimpleQueue[str | Exception | None]
    dropped: bool = False


class _Writer(threading.Thread):
    """The one thread that runs the model: a token for each open request in turn."""

    def __init__(self, most: int) -> None:
        super().__init__(daemon=True, name="generality-writer")
        self.most, self._jobs, self._change = most, list[_Job](), threading.Condition()
        self._closed = False

    def submit(self, streams: Sequence[TextStream]) -> list[_Job]:
        """Begin texts, all or none. Raises RequestError when too many are open."""
        jobs = [_Job(stream, queue.SimpleQueue()) for stream in streams]
        with self._change:
            if len(self._jobs) + len(jobs) > self.most:
                raise RequestError(
                    503, f"{len(self._jobs)} texts are being written already; try again soon.",
                    code="overloaded",
                )  # fmt: skip
            self._jobs += jobs
            self._change.notify()
        return jobs

    def close(self) -> None:
        """End the thread; open texts end where they are."""
        with self._change:
            self._closed = True
            self._change.notify()

    @property
    def open(self) -> int:
        """Texts that are being written."""
        return len(self._jobs)

    def run(self) -> None:
        """Go round until closed."""
        pieces: dict[int, Iterator[str]] = {}
        while True:
            with self._change:
                self._change.wait_for(lambda: self._jobs or self._closed)
                if self._closed:
                    return
                jobs = list(self._jobs)
            for job in jobs:
                source = pieces.setdefault(id(job), iter(job.stream))
                try:
                    if not job.dropped:
                        job.pieces.put(next(source))
                        continue
                    job.pieces.put(None)
                except StopIteration:
                    job.pieces.put(None)
                except Exception as error:  # noqa: BLE001 - told to who asked; others go on
                    job.pieces.put(error)
                del pieces[id(job)]
                with self._change:
                    self._jobs.remove(job)


class CompletionServer(ThreadingHTTPServer):
    """`/v1/chat/completions`, `/v1/completions` and `/v1/models` for one model.

    Requests run side by side, a token each in turn; a client that goes away frees its place at
    once. Errors have OpenAI's shape. Nothing of the requests is kept or logged.

    Args:
        model: a causal language model of transformers or a `FusedCausalLM`, in eval mode.
        tokenizer: its tokenizer; without a chat template or a frame there are no chat completions.
        name: what clients call it.
        host: address to listen at; anything but the loopback lets others in.
        port: 0 takes a free one.
        key: that clients must send as a bearer token; "" asks for none.
        most: texts written at once; further requests are told to come again.
        frame: a text with {prompt} that chats are read in, where their messages stand line by
            line; None: the tokenizer's chat template.
        seed: of requests that name none: the same ones in the same order are answered alike; None:
            at random.

    Use as a context manager, then `serve_forever()`.
    """

    daemon_threads = True
    request_queue_size = 64
    allow_reuse_address = True

    def __init__(
        self, model: nn.Module, tokenizer: Any, name: str, *, host: str = "127.0.0.1",
        port: int = 8000, key: str = "", most: int = 16, frame: str | None = None,
        seed: int | None = None,
    ) -> None:  # fmt: skip
        self.model, self.tokenizer, self.name, self.key = model, tokenizer, name, key
        self.context, self.started = context_of(model), int(time.time())
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.writer, self.frame = _Writer(most), frame
        self._draws = None if seed is None else np.random.default_rng(seed)
        self._drawing = threading.Lock()
        super().__init__((host, port), _Handler)
        self.writer.start()

    @property
    def url(self) -> str:
        """What clients take for their base URL."""
        host = str(self.server_address[0])
        return f"http://{f'[{host}]' if ':' in host else host}:{self.server_port}/v1"

    def draw_seed(self) -> int:
        """For a request that names none."""
        if self._draws is None:
            return secrets.randbits(31)
        with self._drawing:
            return int(self._draws.integers(2**31))

    def server_close(self) -> None:
        """Stop listening and writing."""
        self.writer.close()
        super().server_close()


def context_of(model: Any) -> float:
    """Tokens that all models of a (fused) model can read; infinite where none says."""
    members = getattr(getattr(model, "members", None), "models", [model])
    limits = (getattr(each.config, "max_position_embeddings", None) for each in members)
    return min((float(limit) for limit in limits if limit), default=math.inf)


class _Handler(BaseHTTPRequestHandler):
    server: CompletionServer
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "generality", ""
    timeout = 60  # seconds that a connection may be idle

    def log_message(self, *_: Any) -> None:
        """Nothing of a request is logged."""

    def do_GET(self) -> None:
        """The list of models, or the one model."""
        self._answer(self._models)

    def do_POST(self) -> None:
        """A completion."""
        self._answer(self._complete)

    def send_error(self, code: int, message: str | None = None, _: str | None = None) -> None:
        """What the standard library refuses (a broken request, an unknown method), in JSON."""
        self._begun = False
        self._fail(RequestError(int(code), message or "This is no request that can be answered."))

    def _answer(self, work: Any) -> None:
        self._begun = False
        try:
            content = self._content()
            self._authorise()
            work(content)
        except RequestError as error:
            self._fail(error)
        except (ConnectionError, TimeoutError):
            self.close_connection = True
        except Exception as error:  # noqa: BLE001 - the server outlives one bad request
            self._fail(RequestError(500, f"The model failed: {error}"))

    def _fail(self, error: RequestError) -> None:
        self.close_connection = True
        try:
            if self._begun:
                self._event(error.body)
            else:
                self._json(error.status, error.body)
        except (ConnectionError, TimeoutError):
            pass

    def _content(self) -> bytes:
        """The body, read whole: closing on unread bytes would take our answer with it."""
        length = self.headers.get("content-length", "0")
        if not length.isdigit() or self.headers.get("transfer-encoding"):
            raise RequestError(411, "The request needs a content-length.")
        if int(length) > _LARGEST_BODY:
            left = min(int(length), 4 * _LARGEST_BODY)
            while left > 0 and (read := len(self.rfile.read(min(left, 2**20)))):
                left -= read
            raise RequestError(413, f"The request is larger than {_LARGEST_BODY} bytes.")
        return self.rfile.read(int(length))

    def _authorise(self) -> None:
        sent = self.headers.get("authorization", "").removeprefix("Bearer ")
        if self.server.key and not hmac.compare_digest(sent.encode(), self.server.key.encode()):
            raise RequestError(401, "The API key is missing or wrong.", code="invalid_api_key")

    def _nothing(self) -> None:
        raise RequestError(404, f"There is nothing at {self.command} {self.path}.")

    def _models(self, _: bytes) -> None:
        model = {
            "id": self.server.name, "object": "model", "created": self.server.started,
            "owned_by": "generality",
        }  # fmt: skip
        path = self.path.partition("?")[0].rstrip("/")
        if path == "/v1/models":
            self._json(200, {"object": "list", "data": [model]})
        elif path == f"/v1/models/{self.server.name}":
            self._json(200, model)
        else:
            self._nothing()

    def _complete(self, content: bytes) -> None:
        path = self.path.partition("?")[0].rstrip("/")
        if path not in ("/v1/chat/completions", "/v1/completions"):
            self._nothing()
        chat = path.endswith("/chat/completions")
        asked = Asked(self._body(content), self.server, chat)
        reply = _Reply(self.server.name, chat)
        jobs = self.server.writer.submit(
            [
                TextStream(
                    self.server.model, self.server.tokenizer, prompt, stop=asked.stop,
                    max_tokens=asked.room(prompt), temperature=asked.temperature,
                    top_p=asked.top_p, seed=(asked.seed + place) & 0xFFFF_FFFF,
                )
                for place, prompt in enumerate(asked.prompts)
            ]
        )  # fmt: skip
        try:
            if asked.stream:
                self._stream(reply, jobs, asked)
            else:
                texts = ["".join(self._pieces(job)) for job in jobs]
                choices = [
                    reply.whole(place, text, job.stream.finish)
                    for place, (text, job) in enumerate(zip(texts, jobs, strict=True))
                ]
                self._json(200, reply.body(choices, usage=asked.usage(jobs)))
        finally:
            for job in jobs:
                job.dropped = True

    def _stream(self, reply: _Reply, jobs: list[_Job], asked: Asked) -> None:
        self.close_connection = True
        self.send_response(200)
        self.send_header("content-type", "text/event-stream; charset=utf-8")
        self.send_header("cache-control", "no-cache")
        self.send_header("connection", "close")
        self.end_headers()
        self._begun = True
        for place, job in enumerate(jobs):
            for first, piece in _first(self._pieces(job)):
                if piece or first:
                    self._event(reply.body([reply.part(place, piece, first)], part=True))
            self._event(reply.body([reply.part(place, "", False, job.stream.finish)], part=True))
        if asked.include_usage:
            self._event(reply.body([], usage=asked.usage(jobs), part=True))
        self.wfile.write(b"data: [DONE]\n\n")

    def _pieces(self, job: _Job) -> Iterator[str]:
        """The pieces of a text, for as long as the client is there."""
        while (piece := job.pieces.get()) is not None:
            if isinstance(piece, Exception):
                raise piece
            if self._gone():
                raise ConnectionResetError("the client went away")
            yield piece

    def _gone(self) -> bool:
        readable, _, _ = select.select([self.connection], [], [], 0)
        return bool(readable) and not self.connection.recv(1, socket.MSG_PEEK)

    def _body(self, content: bytes) -> dict[str, Any]:
        kind = self.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":  # which a browser does not send to us unasked
            raise RequestError(415, "The content type must be application/json.")
        try:
            body = json.loads(content)
        except ValueError as error:
            raise RequestError(400, f"The request is not valid JSON: {error}") from error
        if not isinstance(body, dict):
            raise RequestError(400, "The request must be a JSON object.")
        return body

    def _json(self, status: int, body: dict[str, Any]) -> None:
        data = json.dumps(body, ensure_ascii=False).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json; charset=utf-8")
        self.send_header("content-length", str(len(data)))
        if status == 503:
            self.send_header("retry-after", "1")
        if self.close_connection:
            self.send_header("connection", "close")
        self.end_headers()
        self.wfile.write(data)

    def _event(self, body: dict[str, Any]) -> None:
        self.wfile.write(f"data: {json.dumps(body, ensure_ascii=False)}\n\n".encode())
        self.wfile.flush()


class Asked:
    """What a request asks for, checked. Raises RequestError."""

    def __init__(self, body: dict[str, Any], server: CompletionServer, chat: bool) -> None:
        self._body, self._server = body, server
        model = body.get("model")
        if model != server.name:
            raise RequestError(
                404, f"There is no model '{model}' here, only '{server.name}'.", param="model",
                code="model_not_found",
            )  # fmt: skip
        for name in _UNSUPPORTED:
            if body.get(name):
                raise RequestError(
                    400, f"'{name}' is not supported.", param=name, code="unsupported_parameter"
                )
        copies = int(self._number("n", 1, 1, 16, whole=True))
        self.temperature = self._number("temperature", 1.0, 0, 2)
        self.top_p = self._number("top_p", 1.0, 0, 1)
        if self.top_p == 0:  # the one likeliest token
            self.temperature, self.top_p = 0.0, 1.0
        named = body.get("seed") is not None
        seed = self._number("seed", 0, -(2**63), 2**64, whole=True) if named else server.draw_seed()
        self.seed = int(seed) & 0xFFFF_FFFF
        limit = "max_completion_tokens" if body.get("max_completion_tokens") else "max_tokens"
        default = server.context if chat else 16
        self.most = self._number(limit, min(default, 2**31), 1, 2**31, whole=True)
        self.stop = self._texts("stop")
        self.stream = self._flag("stream", body.get("stream"))
        options = body.get("stream_options") or {}
        if not isinstance(options, dict):
            raise RequestError(400, "'stream_options' must be an object.", param="stream_options")
        self.include_usage = self._flag("include_usage", options.get("include_usage"))
        once = [self._chat()] if chat else self._prompts()
        for prompt in once:
            self.room(prompt)
        if copies * len(once) > server.writer.most:
            raise RequestError(
                400, f"At most {server.writer.most} texts can be asked for at once.", param="n"
            )
        self.once, self.prompts = once, [prompt for prompt in once for _ in range(copies)]

    def room(self, prompt: Sequence[int]) -> int:
        """Tokens that may be written after a prompt."""
        left = self._server.context - len(prompt)
        if left < 1:
            raise RequestError(
                400, f"The prompt has {len(prompt)} tokens; the model reads at most "
                f"{self._server.context:.0f}, one of which it must write.",
                param="messages" if "messages" in self._body else "prompt",
                code="context_length_exceeded",
            )  # fmt: skip
        return int(min(left, self.most))

    def usage(self, jobs: Sequence[_Job]) -> dict[str, int]:
        """Tokens read and written."""
        read, written = sum(map(len, self.once)), sum(job.stream.written for job in jobs)
        return {
            "prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written
        }  # fmt: skip

    def _number(
        self, name: str, default: float, low: float, high: float, *, whole: bool = False
    ) -> float:
        value = self._body.get(name)
        if value is None:
            return default
        kinds = (int,) if whole else (int, float)
        if isinstance(value, bool) or not isinstance(value, kinds) or not low <= value <= high:
            kind = "a whole number" if whole else "a number"
            raise RequestError(
                400, f"'{name}' must be {kind} from {low:g} to {high:g}.", param=name
            )
        return value

    def _flag(self, name: str, value: Any) -> bool:
        if value not in (None, True, False):
            raise RequestError(400, f"'{name}' must be true or false.", param=name)
        return bool(value)

    def _texts(self, name: str) -> list[str]:
        value = self._body.get(name)
        texts = [value] if isinstance(value, str) else value or []
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise RequestError(400, f"'{name}' must be a text or a list of texts.", param=name)
        return texts

    def _tokens(self, text: str) -> list[int]:
        tokenizer = self._server.tokenizer
        tokens = list(tokenizer(text)["input_ids"])
        return tokens[:-1] if tokens[-1:] == [tokenizer.eos_token_id] else tokens

    def _prompts(self) -> list[list[int]]:
        value, tokenizer = self._body.get("prompt"), self._server.tokenizer
        several = isinstance(value, list) and not all(isinstance(each, int) for each in value)
        found = []
        for each in value if several and isinstance(value, list) else [value]:
            if isinstance(each, str):
                found.append(self._tokens(each))
            elif isinstance(each, list) and all(
                isinstance(token, int) and 0 <= token < len(tokenizer) for token in each
            ):
                found.append(each)
            else:
                raise RequestError(
                    400, "'prompt' must be a text, a list of texts or tokens.", param="prompt"
                )
        if not found or not all(found):
            raise RequestError(400, "'prompt' has no token.", param="prompt")
        return found

    def _chat(self) -> list[int]:
        from jinja2 import TemplateError

        messages = self._body.get("messages")
        if not isinstance(messages, list) or not messages:
            raise RequestError(400, "'messages' must be a list of messages.", param="messages")
        said = [{"role": _role(each), "content": _content(each)} for each in messages]
        if self._server.frame is not None:
            asked = "\n".join(each["content"] for each in said)
            return self._tokens(self._server.frame.replace("{prompt}", asked))
        tokenizer = self._server.tokenizer
        if not getattr(tokenizer, "chat_template", None):
            raise RequestError(
                400, f"'{self._server.name}' has no chat template; use /v1/completions.",
                code="unsupported_endpoint",
            )  # fmt: skip
        try:
            text = tokenizer.apply_chat_template(said, tokenize=False, add_generation_prompt=True)
        except (TemplateError, ValueError) as error:
            raise RequestError(
                400, f"The chat template does not take these messages: {error}", param="messages"
            ) from error
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _role(message: Any) -> str:
    role = message.get("role") if isinstance(message, dict) else None
    if role not in ("system", "developer", "user", "assistant"):
        raise RequestError(
            400, "Each message has a role: system, user or assistant.", param="messages"
        )
    return "system" if role == "developer" else str(role)


def _content(message: dict[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, list) and all(
        isinstance(part, dict) and isinstance(part.get("text"), str) for part in content
    ):
        return "".join(part["text"] for part in content)
    if not isinstance(content, str):
        raise RequestError(400, "The content of each message is a text.", param="messages")
    return content


class _Reply:
    """The bodies of one answer."""

    def __init__(self, model: str, chat: bool) -> None:
        self.model, self.chat = model, chat
        self.id = f"{'chatcmpl' if chat else 'cmpl'}-{secrets.token_hex(12)}"
        self.created = int(time.time())

    def body(
        self, choices: list[dict[str, Any]], *, usage: dict[str, int] | None = None,
        part: bool = False,
    ) -> dict[str, Any]:  # fmt: skip
        kind = "chat.completion" if self.chat else "text_completion"
        body = {
            "id": self.id, "object": f"{kind}.chunk" if part and self.chat else kind,
            "created": self.created, "model": self.model, "choices": choices,
        }  # fmt: skip
        return {**body, "usage": usage} if usage else body

    def whole(self, place: int, text: str, finish: str) -> dict[str, Any]:
        said: dict[str, Any] = (
            {"message": {"role": "assistant", "content": text}} if self.chat else {"text": text}
        )
        return {"index": place, **said, "logprobs": None, "finish_reason": finish}

    def part(self, place: int, text: str, first: bool, finish: str = "") -> dict[str, Any]:
        delta: dict[str, Any] = {"role": "assistant"} if first else {}
        if text or first:
            delta["content"] = text
        said: dict[str, Any] = {"delta": delta} if self.chat else {"text": text}
        return {"index": place, **said, "logprobs": None, "finish_reason": finish or None}


def _first(pieces: Iterator[str]) -> Iterator[tuple[bool, str]]:
    for number, piece in enumerate(pieces):
        yield number == 0, piece
