"""The groups of options that several commands share."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, get_args

import click

from loadgen.load_records import LoadKind

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]
MODES = get_args(LoadKind)


class Finite(click.FloatRange):
    """A finite number in the range: click's own lets NaN through, since no comparison with it is true."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Raises click.BadParameter for any other."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value} is no finite number", param, ctx)
        return number


FINITE = Finite(min=0, min_open=True)


def server_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that describe one server."""
    for option in reversed(
        [
            click.option(
                "--framework", "-f", default="hf", show_default=True, help="which server: a file in servers/"
            ),
            click.option(
                "--model", "-m", help="preset or checkpoint folder [llama-13b on GPUs, tiny on the CPU]"
            ),
            click.option("--tp", default=1, show_default=True, help="tensor parallel size (GPUs per layer)"),
            click.option(
                "--pp", default=1, show_default=True, help="pipeline parallel size (layers over GPUs)"
            ),
            click.option("--gpus", help="device indices such as 0,1 (default: the first tp·pp)"),
            click.option(
                "--dtype", default=None, help="bfloat16, float16 or float32 (default: the framework's)"
            ),
            click.option("--dummy-weights", is_flag=True, help="random weights even for a checkpoint folder"),
            click.option("--max-batch", type=int, help="largest batch the server takes"),
            click.option("--max-context", type=int, help="let a preset go past its trained context"),
            click.option("--python", "python", help="interpreter of the engine's own installation"),
            click.option("--host", default="127.0.0.1", show_default=True, help="address to bind"),
            click.option("--port", default=0, help="port to bind (default: a free one)"),
            click.option(
                "--ready-timeout", default=600.0, show_default=True, help="seconds to wait for the model"
            ),
            click.option("--option", "-o", "options", multiple=True, help="framework option as key=value"),
        ]
    ):
        command = option(command)
    return command


def workload_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of a load that is bound by time, of a trace's replay and of prompts that begin alike."""
    for option in (
        click.option(
            "--cancel",
            metavar="KEY=VALUE,…",
            help="requests that the client gives up: share=0.1, and after_s=2 or after_tokens=16",
        ),
        click.option(
            "--dataset",
            type=click.Path(dir_okay=False),
            help="prompts of a file (JSONL, ShareGPT, CSV), through --tokenizer; --output-tokens where it tells none",
        ),
        click.option(
            "--think", help="sessions: from a reply to the next turn: 2s, lognormal:median=2s,sigma=1,max=60s"
        ),
        click.option("--turns", help="sessions: requests of each, or a distribution of their number"),
        click.option(
            "--users", type=int, help="sessions: conversations at once; --requests counts their turns"
        ),
        click.option(
            "--prefixes",
            metavar="KEY=VALUE,…",
            help="prompts that begin alike: groups=8,tokens=256 and share=0.5",
        ),
        click.option(
            "--replay",
            metavar="KEY=VALUE,…",
            help="of --trace: format, speed or rate, sample, from, to, spread, too_long (skip, cut), block_tokens",
        ),
        click.option(
            "--lead-in", help="load at the same rate before that, uncounted [a quarter, 30s at most]"
        ),
        click.option("--duration", help="a counted window of so long, such as 120s, in place of --requests"),
    ):
        command = option(command)
    return command


slo_option = click.option(
    "--slo",
    multiple=True,
    metavar="NAME=BOUND",
    help="an objective of every request, from its due time: ttft, tpot, e2e or itl_max, such as ttft=500ms; with a "
    "share of its own tpot=50ms@99%; share=95% is of those that keep all others",
)


def ray_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say which cluster there is."""
    for option in (
        click.option(
            "--ray-without-token",
            is_flag=True,
            help="take a cluster beyond this host that asks for no token: whoever reaches its ports runs code on it",
        ),
        click.option(
            "--ray", metavar="ADDRESS", help="a Ray cluster that is up: HOST:PORT of its head, or auto"
        ),
    ):
        command = option(command)
    return command


def share_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of a host that sends a part of what several send."""
    for option in (
        click.option("--start-at", metavar="TIME", help="when all shares begin, by each host's own clock"),
        click.option(
            "--share",
            metavar="I/N",
            help="send this part of the load alone: 0/2 here, 1/2 elsewhere; loadgen merge makes one trial of them",
        ),
    ):
        command = option(command)
    return command


ray_type_option = click.option(
    "--ray-type",
    metavar="NAME",
    help="with --ray: nodes of this GPU type, as Ray names it, or with this resource of yours [all are of one type]",
)


def target_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say which endpoint is loaded, and how it is spoken to."""
    for option in reversed(
        [
            click.option(
                "--url",
                required=True,
                help="an OpenAI-compatible endpoint: http://127.0.0.1:8000, or the URL of its very route; "
                "grpc://HOST:PORT of Triton or DeepSpeed-MII",
            ),
            click.option(
                "--protocol",
                type=click.Choice(["openai", "triton-grpc", "mii-grpc"]),
                help="what is spoken there (default: by the URL, and by what a gRPC server says)",
            ),
            click.option("--model", help="model name to ask for (default: the first of /v1/models)"),
            click.option(
                "--endpoint",
                type=click.Choice(["chat", "completions", "messages"]),
                help="the route (default: the most exact one that it takes)",
            ),
            click.option(
                "--prompt",
                type=click.Choice(["ids", "text"]),
                help="what completions are sent (default: found out)",
            ),
            click.option(
                "--tokenizer",
                type=click.Path(file_okay=False),
                metavar="DIR",
                help="the model's tokenizer: text of exact length",
            ),
            click.option(
                "--vocab",
                type=int,
                help="prompt ids are below this (default: what the server says, else 1000)",
            ),
            click.option(
                "--exact",
                is_flag=True,
                help="an output that ends early is an error, even where it cannot be helped",
            ),
            click.option(
                "--extra-body", metavar="JSON", help="further fields of each request; null leaves one out"
            ),
            click.option(
                "--header",
                "headers",
                multiple=True,
                metavar="'NAME: VALUE'",
                help="${VARIABLE} is read from the environment",
            ),
            click.option(
                "--option",
                "-o",
                "options",
                multiple=True,
                metavar="KEY=VALUE",
                help="of the driver: extras (true, false, or some of ignore_eos, min_tokens, return_token_ids), "
                "transport, stamps, limit, request_ids; over gRPC variant (a, b), merged",
            ),
        ]
    ):
        command = option(command)
    return command


def load_options(*, requests: int, concurrency: int, modes: Sequence[str] = MODES) -> Decorator:
    """The options that describe one load."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(
            [
                click.option(
                    "--mode",
                    type=click.Choice(modes),
                    default="closed",
                    show_default=True,
                    help="how requests are sent",
                ),
                click.option(
                    "--concurrency", default=concurrency, show_default=True, help="closed: requests in flight"
                ),
                click.option(
                    "--batch-size", default=1, show_default=True, help="static: sequences in one wire call"
                ),
                click.option(
                    "--rate",
                    type=float,
                    help="open loop: requests per second (of a trace in place of its own pace)",
                ),
                click.option("--rate-end", type=float, help="ramp: requests per second at the end"),
                click.option(
                    "--burstiness",
                    default=1.0,
                    show_default=True,
                    help="gamma: 1 is Poisson, smaller is burstier",
                ),
                click.option(
                    "--trace",
                    type=click.Path(dir_okay=False),
                    help="trace: a file of requests (loadgen, azure, burstgpt, mooncake, bailian)",
                ),
                click.option("--max-rate", type=float, help="closed: cap on requests per second"),
                click.option("--input-tokens", default="128", show_default=True, help="prompt length, exact"),
                click.option("--output-tokens", default="64", show_default=True, help="output length, exact"),
                click.option("--requests", default=requests, show_default=True, help="measured requests"),
                click.option("--warmup", type=int, help="requests drained before measuring [concurrency]"),
                click.option(
                    "--stream/--no-stream", default=True, show_default=True, help="stream tokens (TTFT, ITL)"
                ),
                click.option("--seed", default=0, show_default=True, help="seed of prompts and schedule"),
                click.option("--workers", default=1, show_default=True, help="load generator processes"),
                click.option(
                    "--timeout", default=1800.0, show_default=True, help="seconds one request may take"
                ),
            ]
        ):
            command = option(command)
        return command

    return decorate
