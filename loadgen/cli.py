"""The commands. Each body reads as a table of contents; heavy rooms are entered only by those that need them."""

from __future__ import annotations

from loadgen.system import interrupt

interrupt.end_quietly()  # the imports below take a moment, in which Ctrl-C would be a traceback

import contextlib
import errno
import io
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from loadgen import __version__, urls
from loadgen.cli_tools import TOOLS
from loadgen.commands.options import (
    FINITE,
    load_options,
    ray_options,
    ray_type_option,
    server_options,
    share_options,
    slo_option,
    target_options,
    workload_options,
)
from loadgen.errors import BadInput, LoadgenError
from loadgen.report import FILES, FORMATS
from loadgen.system import streams

EXIT_OK, EXIT_FAILED, EXIT_BAD_INPUT, EXIT_INTERRUPTED = 0, 1, 2, 130
NO_THREAD = "can't start new thread"  # Python's words, without a class of their own
CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 110}


class Commands(click.Group):
    """Turns every LoadgenError into one message and the right exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; every LoadgenError becomes one line on stderr and the exit code that README.md lists."""
        try:
            return super().invoke(ctx)
        except BadInput as error:
            click.echo(f"loadgen: {urls.shown(str(error))}", err=True)
            raise SystemExit(EXIT_BAD_INPUT) from None
        except LoadgenError as error:
            click.echo(f"loadgen: {urls.shown(str(error))}", err=True)
            raise SystemExit(EXIT_FAILED) from None
        except MemoryError:
            click.echo("loadgen: out of memory, or at the limit that `ulimit -v` sets", err=True)
            raise SystemExit(EXIT_FAILED) from None
        except RuntimeError as error:
            if str(error) != NO_THREAD:
                raise
            click.echo(
                "loadgen: no thread can be started: at the limit that `ulimit -v` or `-u` sets", err=True
            )
            raise SystemExit(EXIT_FAILED) from None
        except OSError as error:  # of a disk or a folder, which an edge of ours forgot: no trace tells more
            if error.errno == errno.EPIPE or error.strerror is None:
                raise
            where = f"{error.filename}: " if error.filename else ""
            click.echo(f"loadgen: {urls.shown(f'{where}{error.strerror}')}", err=True)
            raise SystemExit(EXIT_FAILED) from None
        except KeyboardInterrupt:
            click.echo("\nloadgen: interrupted; what had finished is on disk", err=True)
            raise SystemExit(EXIT_INTERRUPTED) from None


@click.group(cls=Commands, context_settings=CONTEXT)
@click.version_option(__version__, prog_name="loadgen")
def main() -> None:
    """Stand up llama inference servers, load them exactly, and say what the numbers mean.

    \b
    Start with:   loadgen doctor               what can this machine run?
    Then:         loadgen sweep quick          servers, load, live view, report
    Your own:     loadgen run --url http://127.0.0.1:8000 --concurrency 8

    Exit codes: 0 ok, 1 a trial failed, 2 bad input, 130 interrupted.
    """
    interrupt.install()
    streams.open_closed_ones()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(
                errors="replace"
            )  # a terminal without our letters shows others, and costs no result
    for where, word in texts_from_outside():
        if not word.isascii() and word.encode("utf-8", "surrogateescape").decode("utf-8", "replace") != word:
            raise BadInput(f"{word!a}: not UTF-8 (accepted: UTF-8 {where})")


def texts_from_outside() -> Iterator[tuple[str, str]]:
    """What may be stored as it is: words of the command line, names of folders; and where each stands."""
    yield from (("on the command line", word) for word in sys.argv[1:])
    with contextlib.suppress(OSError):  # of a folder that is gone, which matters to some commands alone
        yield "as the name of the folder that this runs in", os.getcwd()
    yield from ((f"in {name}", os.environ.get(name, "")) for name in ("TMPDIR", "HOME", "XDG_CACHE_HOME"))


@main.command()
@server_options
@click.option(
    "--log", type=click.Path(dir_okay=False, path_type=Path), help="server log (default: beside its files)"
)
@click.option("--dry-run", is_flag=True, help="print what would be started: command, environment, files")
def serve(log: Path | None, dry_run: bool, **given: Any) -> None:
    """Start one server, print its URLs, and keep it until Ctrl-C.

    \b
    loadgen serve --framework hf --model llama-13b --tp 4
    loadgen serve --framework hf --model ./my-llama -o engine=compiled
    """
    from loadgen.commands import serve as command

    spec = command.server_spec(**given, dry_run=dry_run)
    if dry_run:
        click.echo(command.dry_run(spec))
        return
    raise SystemExit(command.serve(spec, log, click.echo))


have_option = click.option(
    "--have", multiple=True, metavar="DIR", help="results folders, or a glob, whose trials count as done"
)


@main.command()
@click.argument("profile")
@click.option(
    "--set", "sets", multiple=True, metavar="KEY=VALUE", help="override a key: model=llama-65b, tp=1,2,4"
)
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="results folder [results/NAME]")
@click.option("--resume", is_flag=True, help="go on where a sweep stopped: run only what is missing")
@click.option("--retry-failed", is_flag=True, help="with --resume: run failed trials again, too")
@have_option
@click.option(
    "--dry-run", is_flag=True, help="print trials, server starts, predicted memory and time; start nothing"
)
@click.option(
    "--noise-from",
    multiple=True,
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="with --dry-run: results that say how noisy these engines are",
)
@click.option("--live/--no-live", default=None, help="live view (default: when this is a terminal)")
@click.option("--strict", is_flag=True, help="count a trial that the load generator limited as failed")
@click.option(
    "--metrics-port",
    type=click.IntRange(0, 65534),
    help="live figures for Prometheus there, on 127.0.0.1, the exporter on the port after it; 0: free ports",
)
@click.option("--probe", is_flag=True, help="first measure this machine's ceilings, unless they are known")
@click.option("--refine", is_flag=True, help="then run the cells that would settle open findings")
@click.option(
    "--time-limit",
    "time_limit_s",
    type=FINITE,
    metavar="SECONDS",
    help="start only what is expected to end in time; --resume goes on",
)
@click.option("--cpus", metavar="CORES", help="run all of it on these cores, such as 0-15,32")
@click.option("--report/--no-report", "report_after", default=True, help="what won, and pages, at the end")
@ray_options
@ray_type_option
def sweep(
    profile: str,
    sets: tuple[str, ...],
    dry_run: bool,
    noise_from: tuple[Path, ...],
    cpus: str | None,
    live: bool | None,
    metrics_port: int | None,
    report_after: bool,
    **given: Any,
) -> None:
    """Run all trials of a PROFILE (a TOML file, or a shipped one by name: quick, exp1 to exp5).

    Servers are started and stopped as the profile asks; every finished trial is on disk at once. With --ray, groups of
    trials (a server and its trials) run on the cluster's nodes, each on one; where the load says nodes = 2 or more,
    servers run here, and those nodes send it together.

    \b
    loadgen sweep profiles/exp1.toml --dry-run
    loadgen sweep profiles/exp1.toml --set model=llama-65b --set tp=2,4
    loadgen sweep profiles/exp1.toml --resume --time-limit 540
    """
    if cpus is not None:
        from loadgen.system.cpus import confine

        confine(cpus)
    from loadgen.api.nodes import reached
    from loadgen.api.sweeps import SweepOptions, make
    from loadgen.commands import plan_tables
    from loadgen.commands import sweep as command

    if noise_from and not dry_run:
        raise BadInput("--noise-from: only says what a plan can tell (accepted: together with --dry-run)")
    options = SweepOptions(argv=tuple(sys.argv), **given)
    with reached(options.ray, options.ray_without_token) as cluster:
        checked, plan = make(profile, sets, dry_run=dry_run, cluster=cluster, gpu_type=options.ray_type)
        if dry_run:
            plan_tables.print_plan(command.missing(checked, plan, options), noise_from)
            return
        code = command.run(
            checked, plan, options, live=live, metrics_port=metrics_port, report_after=report_after
        )
    raise SystemExit(code)


@main.command()
@target_options
@load_options(requests=64, concurrency=1)
@workload_options
@slo_option
@click.option("--nodes", default=1, show_default=True, help="of the cluster of --ray, --workers on each")
@ray_options
@share_options
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), help="keep results and samples there"
)
@click.option(
    "--export",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help=f"write the results there, too, in the format of its name: .{', .'.join(FILES)}",
)
@click.option("--live/--no-live", default=None, help="live view (default: when this is a terminal)")
@click.option("--strict", is_flag=True, help="exit 1 when the load generator limited the trial")
@click.pass_context
def run(context: click.Context, /, **given: Any) -> None:
    """Load an endpoint that already runs, once, and print its figures.

    It is asked first: a few pages and requests of a few tokens tell which route and which fields it takes, its
    context, and whether lengths can be exact. A line says what was chosen.

    The API key, if one is needed, is read from LOADGEN_API_KEY; it is never stored.

    \b
    loadgen run --url http://127.0.0.1:8000 --concurrency 8 --input-tokens 128 --output-tokens 64
    loadgen run --url http://127.0.0.1:8000 --mode poisson --rate 20 --duration 120s
    loadgen run --url http://127.0.0.1:8000 --input-tokens lognormal:median=512,sigma=0.8,max=4096
    loadgen run --url http://127.0.0.1:8000 --mode trace --trace azure.csv --replay speed=2,too_long=skip --requests 0
    loadgen run --url https://example.com/v1 --endpoint chat --header 'api-key: ${MY_KEY}'
    """
    from loadgen.commands import run as command

    if context.get_parameter_source("requests") == ParameterSource.DEFAULT:
        given["requests"] = None  # a duration may bound the load instead
    raise SystemExit(command.run(argv=tuple(sys.argv), **given))


@main.command()
@target_options
@slo_option
@click.option(
    "--variable", type=click.Choice(["rate", "concurrency"]), default="rate", show_default=True,
    help="what is searched: requests per second, or requests in flight",
)  # fmt: skip
@click.option("--input-tokens", default=128, show_default=True, help="prompt length, exact")
@click.option("--output-tokens", default=64, show_default=True, help="output length, exact")
@click.option(
    "--burstiness", default=1.0, show_default=True, help="of arrivals: 1 is Poisson, smaller is burstier"
)
@click.option("--seed", default=0, show_default=True, help="seed of prompts and schedules")
@click.option("--workers", default=1, show_default=True, help="load generator processes")
@click.option(
    "--window", help="counted window of the trials that decide (default: 90s or more, by goal and rate)"
)
@click.option("--lead-in", help="before it, at the trial's own rate (default: 30s or more)")
@click.option("--within", default=0.05, show_default=True, help="done when the 90 % interval is no wider")
@click.option("--confirm", is_flag=True, help="a long trial at the interval's lower end")
@click.option(
    "--saturating", default=256, show_default=True, help="in flight of the trial of most throughput"
)
@click.option("--near", type=float, help="where it is expected: straight to the longer trials")
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), help="results folder [results/capacity]"
)
@click.option(
    "--resume", is_flag=True, help="go on where a search stopped: its stored trials are not run again"
)
def capacity(**given: Any) -> None:
    """Find the highest load at which an endpoint keeps its objectives, with a 90 % interval.

    Up to 12 trials: one request at a time, a saturating load, short ones up or down, six of 30 + 90 s about the
    capacity. A profile's [capacity] table does it for every server of a sweep.

    \b
    loadgen capacity --url http://127.0.0.1:8000 --slo ttft=500ms --slo tpot=50ms
    loadgen capacity --url http://127.0.0.1:8000 --slo e2e=5s@99% --variable concurrency --confirm
    """
    from loadgen.commands import capacity as command

    raise SystemExit(command.run(argv=tuple(sys.argv), **given))


WITH_FAILURES = click.option(
    "--with-failures",
    is_flag=True,
    help="let trials speak that lost requests; what is said is then of the served ones",
)


@main.command()
@click.argument(
    "folders", nargs=-1, required=True, metavar="DIR [DIR…]", type=click.Path(file_okay=False, path_type=Path)
)
@click.option(
    "--format", "formats", multiple=True, type=click.Choice(FORMATS), help="what to write [html and md]"
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="where to write, the format by the file's name (default: beside the results)",
)
@click.option(
    "--price", "prices", multiple=True, metavar="[GPU=]PRICE",
    help="of a GPU hour: of all machines, or of those whose GPU's name holds GPU",
)  # fmt: skip
@WITH_FAILURES
def report(
    folders: tuple[Path, ...],
    formats: tuple[str, ...],
    out: Path | None,
    prices: tuple[str, ...],
    with_failures: bool,
) -> None:
    """Print the tables and findings of results folders, and write one self-contained HTML report.

    With --out, Markdown is one file of all folders. A file that has the lines <!-- findings: begin --> and
    <!-- findings: end --> keeps its text, and gets the findings between them.

    \b
    loadgen report results/exp1
    loadgen report results/exp1 results/exp3 --format csv
    loadgen report results/exp1 results/exp3 --out study.md
    loadgen report results/h100 results/h200 --price H100=2.1 --price H200=3.4
    """
    from loadgen.commands import report as command

    raise SystemExit(command.run(folders, formats, out, prices, with_failures))


@main.command()
@click.argument(
    "sources", nargs=-1, required=True, metavar="SRC [SRC…]", type=click.Path(file_okay=False, path_type=Path)
)
@click.argument("target", metavar="DEST", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--samples-limit", default=10_000, show_default=True, metavar="N", help="token times kept of each trial"
)
def keep(sources: tuple[Path, ...], target: Path, samples_limit: int) -> None:
    """Copy results folders in compact form, for a repository: the same report from small files.

    One SRC becomes DEST, several become folders in it. Every file stays under 5 MB; paths, host and user names are
    redacted; there are no logs. What was left out stands in sweep.json and in the report.

    \b
    loadgen keep results/exp1 docs/results/exp1
    loadgen report docs/results/exp1
    """
    from loadgen.commands import keep as command

    raise SystemExit(command.run(sources, target, samples_limit))


@main.command()
@click.argument(
    "parts", nargs=-1, required=True, metavar="DIR [DIR…]", type=click.Path(file_okay=False, path_type=Path)
)
@click.argument("target", metavar="DEST", type=click.Path(file_okay=False, path_type=Path))
def merge(parts: tuple[Path, ...], target: Path) -> None:
    """Make one trial of the shares of a load that several hosts sent (loadgen run --share), and print its figures.

    All shares of one run must be there, each once. They are laid upon each other where each host's own clock had the
    common start; its figures are those of all requests together.

    \b
    loadgen run --url http://10.0.0.5:8000 --rate 4000 --mode poisson --share 0/2 --start-at 09:30:00 --out part0
    loadgen merge part0 part1 whole
    """
    from loadgen.commands import run as command

    raise SystemExit(command.merge(parts, target))


@main.command()
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("results/reproduction"),
    show_default=True,
    help="results folder of each part in there",
)
@click.option(
    "--parts", "wanted", multiple=True, metavar="NAMES", help="ids or globs of parts: core/*, *-tp1 [all]"
)
@click.option("--time-limit", type=FINITE, metavar="SECONDS", help="end by then")
@click.option("--part-limit", type=FINITE, metavar="SECONDS", help="for each part")
@click.option("--sequential", is_flag=True, help="one part at a time, with all cores: no neighbours")
@click.option("--gpus", help="device indices such as 0,1 (default: all)")
@click.option("--set", "sets", multiple=True, metavar="KEY=VALUE", help="override a key in every part")
@click.option("--retry-failed", is_flag=True, help="run failed trials again, too")
@have_option
@click.option("--dry-run", is_flag=True, help="print which part would run where and when; start nothing")
@click.option(
    "--profiles",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="folder of parts [profiles/reproduce]",
)
@ray_options
@ray_type_option
def reproduce(**given: Any) -> None:
    """Run the experiments of the reproduction on the GPUs there are; what is stored already is not run again.

    Its parts, a profile for each server, run side by side on GPUs and CPU cores of their own, with --ray on those of a
    cluster. What needs more GPUs, or a library that is missing, is named and not run.

    \b
    loadgen reproduce --dry-run
    loadgen reproduce --parts 'brief/*' --time-limit 540 --part-limit 90
    loadgen reproduce --parts 'core/*' --have docs/results/h200
    loadgen report results/reproduction/10-hf-generate-tp1 results/reproduction/11-hf-compiled-tp1
    """
    from loadgen.commands import reproduce as command

    raise SystemExit(command.run(**given))


@main.command()
@click.argument("a", type=click.Path(file_okay=False, path_type=Path))
@click.argument("b", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--gate", "gates", multiple=True, metavar="RULE",
    help="such as 'e2e_p50<=+3%' (B against A) or 'ttft_p99<=300ms' (B alone); exit 1 when it fails",
)  # fmt: skip
@click.option("--gate-strict", "strict", is_flag=True, help="a gate that is not shown to be kept fails, too")
@click.option(
    "--gate-cells", "every_cell", is_flag=True, help="a gate passes by every cell, not by their mean"
)
@click.option("--server-a", metavar="NAME", help="of A one server alone, such as hf/compiled")
@click.option("--server-b", metavar="NAME", help="of B one server alone, such as vllm")
@WITH_FAILURES
def compare(a: Path, b: Path, server_a: str | None, server_b: str | None, **given: Any) -> None:
    """Say how results folder B differs from A: paired by cell, with intervals, equal work proven first.

    What differs between starts of one server is in every interval: give each side two starts or more (three are much
    better). Ratios from one start a side are shown and not judged. Starts may lie in several folders: a side that is a
    folder of results folders is all of them.

    \b
    loadgen compare results/before results/after --gate 'e2e_p50<=+3%'
    loadgen compare docs/results/h200-blocks/tp1 docs/results/h200-engines/tp1 --server-b vllm
    """
    from loadgen.commands import report as command

    raise SystemExit(command.compare(a, b, servers=(server_a, server_b), **given))


for tool in TOOLS:
    main.add_command(tool)


if __name__ == "__main__":
    main(prog_name=os.environ.get("LOADGEN_PROG"))
