"""Talking to a model: a tiny local one, a server, a recorded talk."""

import json

import httpx
import pytest

import tiny_models
from generality.errors import UserError
from generality.lab import Lab
from generality.models import EndpointChat, LocalChat, RecordedChat, ask

ASKED = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello?"}]


TEMPLATE = "{% for m in messages %}{{ m.content }} {% endfor %}"


@pytest.fixture
def tiny_chat(tmp_path):
    """A folder with a chat model of random weights."""
    tokenizer = tiny_models.tokenizer()
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(tmp_path)
    tiny_models.llama().save_pretrained(tmp_path)
    return tmp_path


def answers(*said):
    """A transport that gives these answers in turn, and what it was asked."""
    asked = []

    def handle(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        answer = said[len(asked) - 1]
        if isinstance(answer, Exception):
            raise answer
        return answer

    return httpx.MockTransport(handle), asked


def completion(text: str) -> httpx.Response:
    return httpx.Response(200, json={"choices": [{"message": {"content": text}}]})


def test_an_endpoint_is_asked_as_it_expects(monkeypatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "abc")
    transport, asked = answers(completion(" Hi. "))
    chat = EndpointChat("tiny", url="http://here/v1/", transport=transport)
    assert chat(ASKED, max_tokens=5, temperature=0.5, seed=3) == "Hi."
    assert str(asked[0].url) == "http://here/v1/chat/completions"
    assert asked[0].headers["authorization"] == "Bearer abc"
    body = json.loads(asked[0].content)
    assert body == {
        "model": "tiny", "messages": ASKED, "max_tokens": 5, "temperature": 0.5, "seed": 3,
    }  # fmt: skip


def test_an_endpoint_that_is_busy_is_asked_again(monkeypatch) -> None:
    waited = []
    monkeypatch.setattr("time.sleep", waited.append)
    transport, asked = answers(
        httpx.Response(429), httpx.ConnectError("down"), httpx.Response(503), completion("Hi.")
    )
    assert EndpointChat("tiny", transport=transport)(ASKED) == "Hi."
    assert len(asked) == 4
    assert waited == [1, 2, 4]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (httpx.Response(401, text="no such key"), "answered 401: no such key"),
        (httpx.Response(200, json={"choices": []}), "did not answer as a chat endpoint"),
        (httpx.Response(200, text="<html>"), "did not answer as a chat endpoint"),
    ],
)
def test_an_endpoint_that_refuses_is_not_asked_again(answer, message) -> None:
    transport, asked = answers(answer)
    with pytest.raises(UserError, match=message):
        EndpointChat("tiny", transport=transport)(ASKED)
    assert len(asked) == 1


def test_a_key_is_taken_without_its_line_end_and_never_said(monkeypatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "abc\n")
    transport, asked = answers(completion("Hi."))
    assert EndpointChat("tiny", transport=transport)(ASKED) == "Hi."
    assert asked[0].headers["authorization"] == "Bearer abc"
    with pytest.raises(UserError, match="holds characters that no key has") as caught:
        EndpointChat("tiny", key="geheim-ü")
    assert "geheim" not in str(caught.value)


def test_answers_are_kept_under_the_chat_and_what_it_was_asked(tmp_path) -> None:
    lab = Lab(home=tmp_path, device="cpu", progress=False)
    transport, asked = answers(completion("one"), completion("two"))
    chat = EndpointChat("tiny", transport=transport)
    assert [lab.step(ask, chat, ASKED, seed=seed) for seed in (0, 0, 1)] == ["one", "one", "two"]
    assert len(asked) == 2


def test_a_recorded_talk_ends() -> None:
    chat = RecordedChat(["a"])
    before = chat.fingerprint
    assert chat(ASKED) == "a"
    assert chat.fingerprint != before
    with pytest.raises(UserError, match="no more than 1 answers"):
        chat(ASKED)


def test_a_local_model_writes_greedily_or_by_seed(tiny_chat) -> None:
    chat = LocalChat(str(tiny_chat), device="cpu")
    greedy = chat(ASKED, max_tokens=8)
    assert greedy == chat(ASKED, max_tokens=8, seed=1)
    drawn = {chat(ASKED, max_tokens=8, temperature=1.0, seed=seed) for seed in (0, 0, 1, 2)}
    assert len(drawn) == 3
    assert chat.fingerprint == LocalChat(str(tiny_chat)).fingerprint


def test_a_model_that_cannot_chat_is_refused(tiny_chat) -> None:
    (tiny_chat / "chat_template.jinja").unlink()
    with pytest.raises(UserError, match="has no chat template"):
        LocalChat(str(tiny_chat), device="cpu")(ASKED)
