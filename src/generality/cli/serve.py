"""`generality serve`: a model, single or fused, behind OpenAI's interface."""

from __future__ import annotations

import ipaddress
import os
import sys
from typing import Annotated, Any

import typer

from generality.cli import options
from generality.cli.fuse import (
    Alpha,
    Dynamic,
    Experts,
    Highest,
    Template,
    check_template,
    fused_model,
)
from generality.errors import UserError


def serve(
    model: Annotated[
        str,
        typer.Argument(help="A model (with --expert the large one): a name, hf:org/name, path."),
    ],
    expert: Experts = None,
    alpha: Alpha = None,
    dynamic: Dynamic = False,
    highest: Highest = 2.0,
    name: Annotated[
        str | None, typer.Option(help="What clients call it; by default the model's own name.")
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen at. Any other than the loopback lets others in.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    key_variable: Annotated[
        str | None,
        typer.Option(help="Environment variable with the key that clients must send."),
    ] = None,
    most: Annotated[int, typer.Option(min=1, help="Texts written at once.")] = 16,
    template: Template = "auto",
    seed: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Of requests that name none: the same ones in the same order are answered alike; "
            "by default at random.",
        ),
    ] = None,
    device: options.Device = "auto",
) -> None:
    """Answer /v1/chat/completions, /v1/completions and /v1/models, streamed or whole.

    Point any OpenAI client's base URL at the address that is printed. Ctrl-C ends it.
    """
    from generality.decoding import CompletionServer
    from generality.models import load_model, load_tokenizer

    check_template(template)
    key = ""
    if key_variable is not None:
        key = os.environ.get(key_variable, "")
        if not key:
            raise UserError(f"The environment variable {key_variable} holds no key.")
    elif not _is_loopback(host):
        raise UserError(
            f"{host} lets other machines in: set a key with --key-variable, or listen at 127.0.0.1."
        )
    lab = options.make_lab(device)
    network: Any
    if expert:
        network = fused_model(model, expert, alpha, dynamic, highest, lab)
    elif alpha or dynamic:
        raise UserError("--alpha and --dynamic are about experts: name them by --expert.")
    else:
        lab.fetch(model)
        network = load_model(model, device=device)
        if not hasattr(network, "generate"):
            raise UserError(f"The model '{model}' does not write text.")
    tokenizer = load_tokenizer(model)
    if template == "chat" and not getattr(tokenizer, "chat_template", None):
        raise UserError(
            f"The tokenizer of '{model}' has no chat template: give a text with {{prompt}} in it "
            "by --template."
        )
    frame = None if template in ("auto", "chat") else template
    try:
        server = CompletionServer(
            network, tokenizer, name or model, host=host, port=port, key=key, most=most,
            frame=frame, seed=seed,
        )  # fmt: skip
    except OSError as error:
        raise UserError(
            f"Cannot listen at {host}, port {port}: {error.strerror}. Name another --port or "
            "--host."
        ) from error
    with server:
        print(f"'{server.name}' at {server.url} (Ctrl-C ends it)", file=sys.stderr, flush=True)
        try:
            server.serve_forever(poll_interval=0.2)
        except KeyboardInterrupt:
            print("Stopped.", file=sys.stderr)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
