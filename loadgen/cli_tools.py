"""The commands about a machine rather than an experiment: what it can do, and how exact its client is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from loadgen.commands.options import MODES, Finite, load_options, ray_options
from loadgen.errors import BadInput
from loadgen.profile.bounds import MOST_WORKERS


@click.command()
@click.option("--like", metavar="PROFILE", help="replay the load of a profile that asks most of the client")
@click.option("--set", "sets", multiple=True, metavar="KEY=VALUE", help="with --like: override a key")
@load_options(requests=256, concurrency=64, modes=[mode for mode in MODES if mode != "sessions"])
@click.option(
    "--ttft-ms",
    type=Finite(),
    default=200.0,
    show_default=True,
    help="the null server's time to the first token",
)
@click.option(
    "--itl-ms", type=Finite(), default=20.0, show_default=True, help="its time between tokens; 0: no pause"
)
@click.option("--bound-ms", default=1.0, show_default=True, help="the error that is still good")
@click.option(
    "--nodes", type=click.IntRange(1, MOST_WORKERS), help="with --ray: so many, --workers on each [all]"
)
@ray_options
@click.pass_context
def calibrate(context: click.Context, /, **given: Any) -> None:
    """Measure this client on this machine, against a server without a model that logs its true times.

    Prints the errors of TTFT, ITL and E2E, send and stamp lag, CPU per token and request, and the highest load at
    which every error stays under the bound. With --ray it is the nodes of a cluster that send:
    all the whole load, 1, 2, 4, … of them their part of it. So it shows what more of them cost, and how exact they are.

    \b
    loadgen calibrate --concurrency 256 --output-tokens 100
    loadgen calibrate --like profiles/exp1.toml
    loadgen calibrate --mode poisson --rate 400 --requests 8000 --workers 4 --ray auto
    """
    from loadgen.commands import calibrate as command

    named = {
        option.name: option.opts[0]
        for option in context.command.params
        if context.get_parameter_source(option.name or "") == ParameterSource.COMMANDLINE
    }
    if given["like"] and (beside := named.keys() & command.OF_LOAD):
        option = named[min(beside)]
        raise BadInput(
            f"{option}: has no effect beside --like (accepted: --set, which overrides a key of it)"
        )
    if given["sets"] and not given["like"]:
        raise BadInput("--set: has no effect without --like (accepted: the options of a load)")
    if given["mode"] != "closed" and "concurrency" not in named:
        given["concurrency"] = 1  # the default is of the default mode
    raise SystemExit(command.run(**given))


@click.command()
@click.argument("model", required=False)
@click.option("--to", default="ft", show_default=True, help="whose layout: ft (FasterTransformer)")
@click.option("--tp", default=1, show_default=True, help="tensor parallel size to split for")
@click.option(
    "--variant", type=click.Choice(["a", "b"]), default="a", show_default=True, help="backend variant"
)
@click.option("--dtype", default="fp16", show_default=True, help="fp16 or fp32")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="folder to write into")
@click.option("--check", type=click.Path(path_type=Path), help="check the checkpoint there, file by file")
@click.option("--seed", default=0, show_default=True, help="seed of a preset's random weights")
@click.option("--replace", is_flag=True, help="overwrite a checkpoint that was made otherwise")
def convert(**given: Any) -> None:
    """Write MODEL (a checkpoint folder or a preset) in a framework's own layout, on any machine; or check one.

    \b
    loadgen convert --to ft ./my-llama --tp 2 --variant a --out ./my-llama-ft
    loadgen convert --check ./my-llama-ft
    """
    from loadgen.commands import convert as command

    raise SystemExit(command.run(**given))


@click.command()
@click.option("--gpus", help="device indices such as 0,1 (default: all; empty text: the CPU)")
@click.option("--python", "python", help="an interpreter with torch (default: loadgen's own)")
def probe(**given: Any) -> None:
    """Measure this machine's ceilings: memory bandwidth, matrix rates, all-reduce, launches.

    About a minute for each kind of GPU. Reports draw them beside the measurements, instead of the datasheet's.
    """
    from loadgen.commands import probe as command

    raise SystemExit(command.run(**given))


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="address to bind")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=9835,
    show_default=True,
    help="port to bind; 0: a free one",
)
@click.option("--pid", "pids", type=int, multiple=True, help="a server whose process tree is told too")
@click.option("--links", is_flag=True, help="PCIe rates too, which take NVML 40 ms per GPU")
@click.option(
    "--pss", is_flag=True, help="servers' PSS too; each reading stalls their mmap for 14 ms per GiB"
)
def exporter(**given: Any) -> None:
    """Export GPUs, server processes and host memory for Prometheus, until Ctrl-C.

    For hosts without dcgm-exporter, whose names and units it follows. A sweep starts one by itself.

    \b
    loadgen exporter --port 9835
    loadgen exporter --pid 4711
    """
    from loadgen.commands import exporter as command

    raise SystemExit(command.run(**given))


@click.command()
@click.option("--json", "as_json", is_flag=True, help="for an issue: without paths, host and user names")
def doctor(as_json: bool) -> None:
    """Say what this machine can run, what is missing, and the command that mends it.

    \b
    loadgen doctor
    loadgen doctor --json
    """
    from loadgen.commands import doctor as command

    command.run(as_json)


@click.command("check-framework")
@click.argument("name")
def check_framework(name: str) -> None:
    """Check that the framework NAME keeps the contract of protocols.Framework; no server is started.

    For authors of a servers/NAME.py, or of a package with an entry point in the group loadgen.servers.

    \b
    loadgen check-framework hf
    """
    from loadgen.commands import check_framework as command

    raise SystemExit(command.run(name))


@click.command()
@click.argument("what", type=click.Choice(["profile", "trials", "page"]))
def schema(what: str) -> None:
    """Print the JSON Schema of a profile or of a line of trials.jsonl, or the page of what a results folder holds.

    An editor with taplo completes and checks a profile whose first line is #:schema ./profile.json

    \b
    loadgen schema profile > profile.json
    """
    from loadgen.commands import schema as command

    command.run(what)


TOOLS = (calibrate, convert, probe, exporter, doctor, check_framework, schema)
