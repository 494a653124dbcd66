"""A served model, as clients see it: EndpointChat, the openai package, and rude ones."""

from __future__ import annotations

import concurrent.futures
import http.client
import json
import socket
import sys
import threading
import time
from collections.abc import Iterator

import httpx
import pytest

from conftest import start
from fusion_models import save_models
from generality.decoding import CompletionServer, FusedCausalLM, KLMatchedFusion, TextStream
from generality.models import EndpointChat, LocalChat, load_model, load_tokenizer

ASKED = [{"role": "user", "content": "a = 3 ; a ?"}]


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> list[str]:
    return save_models(tmp_path_factory.mktemp("models"), "large", "tuned", "base")


@pytest.fixture(scope="module")
def server(models) -> Iterator[CompletionServer]:
    large, tuned, base = models
    model = FusedCausalLM.load(large, [(tuned, base)], KLMatchedFusion(), device="cpu")
    with CompletionServer(model, load_tokenizer(large), "fused", port=0, most=4) as made:
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield made
        made.shutdown()
        thread.join()


def post(server, body, path="/chat/completions", **options) -> httpx.Response:
    body = {"model": "fused", "temperature": 0, **body} if isinstance(body, dict) else body
    how = {"json": body} if isinstance(body, dict) else {"content": body}
    headers = {"content-type": "application/json"}
    return httpx.post(f"{server.url}{path}", headers=headers, timeout=60, **how, **options)


def idle(server, seconds: float = 30.0) -> bool:
    deadline = time.monotonic() + seconds
    while server.writer.open and time.monotonic() < deadline:
        time.sleep(0.01)
    return not server.writer.open


def test_our_own_client_hears_what_the_model_says(server, models):
    with_server = EndpointChat("fused", url=server.url)(ASKED, max_tokens=6)
    tokens = server.tokenizer.apply_chat_template(ASKED, add_generation_prompt=True)["input_ids"]
    stream = TextStream(server.model, server.tokenizer, tokens, max_tokens=6)
    assert with_server == "".join(stream).strip()
    completion = EndpointChat("fused", url=server.url).complete(ASKED, max_tokens=6)
    assert completion.finish == stream.finish


def test_a_single_model_says_what_it_says_here(models):
    network, tokenizer = load_model(models[0], device="cpu"), load_tokenizer(models[0])
    with CompletionServer(network, tokenizer, "alone", port=0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        said = EndpointChat("alone", url=server.url)(ASKED, max_tokens=6)
        server.shutdown()
        thread.join()
    assert said == LocalChat(models[0], device="cpu")(ASKED, max_tokens=6)


def test_the_openai_client(server):
    openai = pytest.importorskip("openai")
    client = openai.OpenAI(base_url=server.url, api_key="none", max_retries=0)
    assert [model.id for model in client.models.list()] == ["fused"]
    asked = {"model": "fused", "messages": ASKED, "temperature": 0, "max_tokens": 6}
    whole = client.chat.completions.create(**asked)
    assert whole.usage.prompt_tokens + whole.usage.completion_tokens == whole.usage.total_tokens
    chunks = list(
        client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True})
    )
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason
    assert chunks[-1].usage == whole.usage
    plain = client.completions.create(
        model="fused", prompt=["a ?", "c ?"], n=2, seed=1, temperature=1, max_tokens=4
    )
    assert [choice.index for choice in plain.choices] == [0, 1, 2, 3]
    again = client.completions.create(
        model="fused", prompt=["a ?", "c ?"], n=2, seed=1, temperature=1, max_tokens=4, stream=True
    )
    parts = ["", "", "", ""]
    for chunk in again:
        parts[chunk.choices[0].index] += chunk.choices[0].text
    assert parts == [choice.text for choice in plain.choices]
    with pytest.raises(openai.NotFoundError, match="only 'fused'"):
        client.chat.completions.create(**{**asked, "model": "gpt"})
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model="fused", prompt="a " * 100)
    assert caught.value.code == "context_length_exceeded"


def test_stop_texts_end_an_answer_and_are_not_part_of_it(server):
    body = {"prompt": "a ?", "max_tokens": 12}
    text = post(server, body, "/completions").json()["choices"][0]["text"]
    words = text.split()
    assert len(words) > 3
    stop = f"{words[1]} {words[2]}"
    cut = post(server, {**body, "stop": ["nothing", stop]}, "/completions").json()["choices"][0]
    assert cut["text"] == text[: text.find(stop)]
    assert cut["finish_reason"] == "stop"


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (b"{", 400, "not valid JSON"),
        (b"[]", 400, "JSON object"),
        ({}, 400, "'messages'"),
        ({"messages": [{"role": "user"}]}, 400, "content"),
        ({"messages": [{"role": "x", "content": "a"}]}, 400, "role"),
        ({"messages": [{"role": "assistant", "content": "a"}]}, 400, "chat template"),
        ({"messages": ASKED, "temperature": "hot"}, 400, "'temperature' must be a number"),
        ({"messages": ASKED, "max_tokens": 0}, 400, "'max_tokens'"),
        ({"messages": ASKED, "n": 99}, 400, "'n'"),
        ({"messages": ASKED, "stream": "yes"}, 400, "'stream'"),
        ({"messages": ASKED, "stop": [1]}, 400, "'stop'"),
        ({"messages": ASKED, "tools": [{}]}, 400, "'tools' is not supported"),
        ({"messages": ASKED, "model": "other"}, 404, "no model 'other'"),
        ({"messages": ASKED, "n": 5}, 400, "At most 4"),
        ({"messages": [{"role": "user", "content": "a " * 70}]}, 400, "71 tokens"),
    ],
)
def test_bad_requests_have_the_shape_of_openais_errors(server, body, status, said):
    answer = post(server, body)
    assert answer.status_code == status
    error = answer.json()["error"]
    assert said in error["message"]
    assert {"type", "param", "code"} <= error.keys()
    assert idle(server)


def test_other_methods_paths_and_types(server):
    base = server.url
    found = [
        httpx.post(f"{base}/chat/completions", content=b"{}"),
        httpx.post(f"{base}/nowhere", json={}),
        httpx.get(f"{base}/models/other"),
        httpx.put(f"{base}/models", json={}),
        httpx.post(f"{base}/completions", json={"model": "fused", "prompt": []}),
        httpx.post(
            f"{base}/completions", content=b"x" * (17 * 2**20),
            headers={"content-type": "application/json"},
        ),
    ]  # fmt: skip
    assert [answer.status_code for answer in found] == [415, 404, 404, 501, 400, 413]
    assert all(answer.json()["error"]["message"] for answer in found)
    with socket.create_connection(server.server_address[:2]) as raw:
        raw.sendall(b"nonsense\r\n\r\n")
        assert b'"error"' in raw.recv(4096)


def test_a_key_is_asked_for(models):
    network, tokenizer = load_model(models[0], device="cpu"), load_tokenizer(models[0])
    with CompletionServer(network, tokenizer, "alone", port=0, key="secret") as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        wrong = httpx.get(f"{server.url}/models", headers={"authorization": "Bearer x"})
        right = httpx.get(f"{server.url}/models", headers={"authorization": "Bearer secret"})
        server.shutdown()
        thread.join()
    assert (wrong.status_code, right.status_code) == (401, 200)
    assert wrong.json()["error"]["code"] == "invalid_api_key"


def test_a_frame_and_a_seed_of_the_server(models):
    network, tokenizer = load_model(models[0], device="cpu"), load_tokenizer(models[0])
    said = []
    for _ in range(2):
        options = {"port": 0, "seed": 3, "frame": "so {prompt}"}
        with CompletionServer(network, tokenizer, "fused", **options) as server:
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
            thread.start()
            chat = {"messages": [*ASKED, {"role": "user", "content": "b ?"}], "max_tokens": 8}
            asked = post(server, {**chat, "temperature": 2}).json()
            plain = {"prompt": f"so {ASKED[0]['content']}\nb ?", "max_tokens": 8, "temperature": 2}
            other = post(server, plain, "/completions").json()
            same = post(server, {**chat, "temperature": 0}).json()
            greedy = post(server, {**plain, "temperature": 0}, "/completions").json()
            server.shutdown()
            thread.join()
        assert asked["usage"]["prompt_tokens"] == other["usage"]["prompt_tokens"]
        assert same["choices"][0]["message"]["content"] == greedy["choices"][0]["text"]
        said.append([asked["choices"][0]["message"]["content"], other["choices"][0]["text"]])
    assert said[0] == said[1]  # the same requests in the same order
    assert said[0][0] != said[0][1]  # though each draws anew


def test_requests_at_once_are_each_answered_as_alone(server):
    bodies = [{"prompt": f"{letter} ?", "max_tokens": 20} for letter in "abcd"]
    alone = [post(server, body, "/completions").json()["choices"] for body in bodies]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda body: post(server, body, "/completions"), bodies))
    assert [answer.json()["choices"] for answer in together] == alone


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_away_frees_its_place(server, stream):
    class Endless(TextStream):
        def __iter__(self):
            while True:
                time.sleep(0.005)
                yield "word "

    original = sys.modules[CompletionServer.__module__].TextStream
    sys.modules[CompletionServer.__module__].TextStream = Endless
    try:
        connection = http.client.HTTPConnection(*server.server_address[:2], timeout=30)
        body = {"model": "fused", "prompt": "a ?", "max_tokens": 50, "stream": stream, "n": 4}
        connection.request(
            "POST", "/v1/completions", json.dumps(body), {"content-type": "application/json"}
        )
        if stream:
            response = connection.getresponse()
            assert response.read(6) == b"data: "
        else:
            while not server.writer.open:
                time.sleep(0.01)
        full = post(server, {"prompt": "a ?"}, "/completions")
        assert (full.status_code, full.json()["error"]["code"]) == (503, "overloaded")
        assert full.headers["retry-after"] == "1"
        if stream:
            response.close()
        connection.close()
    finally:
        sys.modules[CompletionServer.__module__].TextStream = original
    assert idle(server)
    assert post(server, {"messages": ASKED, "max_tokens": 2}).status_code == 200


def test_a_model_that_fails_is_an_error_and_the_server_goes_on(server, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("no memory")

    with monkeypatch.context() as patch:
        patch.setattr(server.model, "forward", broken)
        answer = post(server, {"messages": ASKED})
        streamed = post(server, {"messages": ASKED, "stream": True})
    assert answer.status_code == 500
    assert "no memory" in answer.json()["error"]["message"]
    assert "no memory" in streamed.text
    assert "[DONE]" not in streamed.text
    assert post(server, {"messages": ASKED, "max_tokens": 2}).status_code == 200


def test_the_command_serves_a_fused_model(models, tmp_path):
    large, tuned, base = models
    process = start(
        "serve", large, "--expert", f"{tuned}:{base}", "--dynamic", "--port", 0, "--name", "mine",
        "--device", "cpu", home=tmp_path / "home", cwd=tmp_path,
    )  # fmt: skip
    try:
        line = next(line for line in process.stderr if " at http" in line)
        url = line.split(" at ")[1].split()[0]
        assert EndpointChat("mine", url=url)(ASKED, max_tokens=3) is not None
    finally:
        process.terminate()
        process.communicate(timeout=30)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--host", "0.0.0.0"), "set a key"),
        (("--key-variable", "NO_SUCH_KEY"), "holds no key"),
        (("--dynamic",), "about experts"),
        (("--template", "none"), "{prompt} in it"),
    ],
)
def test_mistakes_are_said(generality, models, arguments, said):
    answer = generality("serve", models[0], "--device", "cpu", *arguments)
    assert answer.code == 2
    assert said in answer.err


def test_a_port_in_use_is_said(generality, models, server):
    answer = generality("serve", models[0], "--port", server.server_port, "--device", "cpu")
    assert answer.code == 2
    assert "Name another --port" in answer.err
