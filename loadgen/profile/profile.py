"""Profiles: TOML → a validated Profile. Every error names file, key, value and what is accepted.

::

    name = "exp1"                    # the results folder; the file's name when left out
    description = "…"
    order = "interleaved"            # servers of one model on equally many GPUs are up together and take turns,
                                     # A B B A …, so that drift strikes all alike; "grouped": one after the other
starts = 3                           # fresh servers that each run all of it, A B, B A, A B: what two servers differ by
                                     # is told from what two starts of one differ by. Also in a [[sweep]]; a list
                                     # names the very starts, such as [2] to add a third one later

    [server]                         # what to stand up
    framework = "hf"
    model = "llama-13b"              # a preset, or a folder with config.json and safetensors
    extend_context = 4096            # let a preset's random weights run past the context it was trained for
    dtype = "bfloat16"               # or float16, float32; left out: what the framework takes on GPUs
    tp = 1                           # tensor parallel: every layer split over tp GPUs
    pp = 1                           # pipeline: layers spread over pp GPUs
    gpus = [0, 1]                    # device indices to use; [] is the CPU; all GPUs when left out; "auto": those, or
                                     # the CPU of a machine that has none
    max_batch = 64                   # capacity that the server is started with, where it needs one; "auto": find the
                                     # largest static batch that fits, for every pair of lengths, by bisection
    dummy_weights = true             # random weights: what presets have, and a checkpoint when asked
    python = "…"                     # the interpreter of the server's own installation
    ready_timeout_s = 600
    [server.options]                 # what the framework itself offers: see loadgen serve --help
    engine = "generate"

    [frameworks.hf]                  # laid over [server] for one framework
    python = "…"                     # also: dtype, gpus, max_batch, ready_timeout_s, options

    [load]                           # what to send
    mode = "static"                  # static closed constant poisson gamma ramp trace sessions
    batch_size = 8                   # static: sequences in one wire call
    concurrency = 8                  # closed: requests in flight
    max_rate = 50.0                  # closed: at most so many requests per second
    rate = 5.0                       # constant poisson gamma ramp: requests per second; ramp also takes rate_end;
                                     # trace: the pace at which it is replayed, in place of its own
    burstiness = 1.0                 # gamma: 1 is Poisson, smaller is burstier
    trace = "trace.jsonl"            # trace: a file of loadgen's own format or of one of traces/formats.py
    cancel = { share = 0.1, after_s = 2 }  # this part of the requests is given up: so long behind the send, or with
                                     # after_tokens once so many have come
    dataset = "prompts.jsonl"        # in place of input_tokens: prompts out of a file (see traces/texts.py), sent as
                                     # text or by ids, through the target's tokenizer; it may tell output lengths, too
    users = 8                        # sessions: conversations at once; requests counts their turns
    turns = 6                        # sessions: requests of each, or a distribution of their number
    think = "2s"                     # sessions: from a reply to the next turn; or { kind = "lognormal", median = "2s",
                                     # sigma = 1, max = "60s" }. A prompt is all that was sent and received before, and
                                     # input_tokens more; a session ends before it outgrows the model's context
    input_tokens = 20                # or drawn for each request: { kind = "lognormal", median = 512, sigma = 0.8,
    output_tokens = 100              # max = 4096 }; gamma (mean, cv, max), uniform (min, max), empirical (file, column)
    requests = 5                     # measured wire calls of a trial
    duration = "120s"                # in their place: a counted window of so long. Sending goes on while it drains
    lead_in = "30s"                  # of load at the trial's own rate before it [a quarter of it, 30 s at most]
    warmup = 1                       # wire calls of the same shape before them
    repeat = 3                       # times that each trial is run, each time with other prompts
    stream = true
    seed = 0
    workers = 1                      # load generator processes
    nodes = 1                        # of a Ray cluster, with so many workers each: sweep --ray ADDRESS
    [load.replay]                    # of a trace: how it is taken
    format = "mooncake"              # recognised when left out
    speed = 2.0                      # twice as fast as it was; in place of rate
    sample = 0.25                    # a part of its sessions
    from = "60s"                     # and to: a window of it
    spread = "3s"                    # requests of one instant come within so long, where a trace's clock is coarse
    too_long = "skip"                # or "cut", of what is over max_context (the model's); else it is an error
    block_tokens = 512               # that an id of hash_ids stands for
    [load.prefixes]                  # prompts that begin alike
    groups = 8                       # so many beginnings
    tokens = 256                     # of so many tokens
    share = 0.5                      # that this part of the requests has
    [load.timeouts]                  # connect_s, first_byte_s, between_bytes_s, total_s
    total_s = 1800

    [sweep]                          # or several [[sweep]]: lists in place of the single values above
    tp = [1, 2, 4]
    batch_size = [1, 8, 64]
    combine = "product"              # or "zip": first with first, second with second, …
    exclude = [{ tp = 1, batch_size = 64 }]
    [sweep.options]
    engine = ["generate", "compiled"]

    [bisection]                      # for max_batch = "auto"
    most = 4096                      # the largest batch to try
    within = 0.05                    # how exactly to find it, relative to it

    [slo]                            # what a request must keep, from its due time; decides no trial's id
    ttft = "500ms"                   # also tpot, e2e, itl_max
    tpot = "50ms@99%"                # with a share of its own: so many requests must keep it
    share = 0.95                     # of requests that must keep all the others together

    [capacity]                       # find the highest load that keeps [slo], for every server and pair of lengths. An
                                     # open loop that names no rate (mode = "poisson") stands for its search alone
    variable = "rate"                # or "concurrency"
    window = "90s"                   # counted window of the trials that decide [by goal, rate and E2E latency]
    lead_in = "30s"                  # before it, at the trial's rate [by E2E latency]
    within = 0.05                    # done when the 90 % interval is no wider, relative to the capacity
    confirm = false                  # a long trial at the interval's lower end
    saturating = 256                 # requests in flight of the trial that measures the most there is
    near = 12.9                      # where it is expected: straight to the windows. A further start of a server looks
                                     # where the one before it found

    [target]                         # instead of [server]: an endpoint that already runs
    url = "http://127.0.0.1:8000"
    model = "llama-13b"              # what it calls its model
    vocab = 32000                    # ids of prompts stay below it
    protocol = "triton-grpc"         # for grpc://: triton-grpc or mii-grpc; found out when left out
    endpoint = "chat"                # completions, chat or messages; found out when left out, as all of these
    prompt = "text"                  # what completions are sent: ids or text
    tokenizer = "…"                  # folder of the model's tokenizer: text of exact length
    exact = true                     # an output that ends early is an error, whatever the server can
    [target.extra_body]              # further fields of each request
    top_k = 1
    [target.headers]                 # further headers; ${VARIABLE} is read from the environment
    api-key = "${MY_KEY}"
    [target.options]                 # extras = ["ignore_eos"], transport = "httpx", …: see loadgen run --help
    extras = false

    [[finding]]                      # a claim of your own, decided by the report
    id = "cheap enough"
    claim = "doubling the batch costs less than half again"
    metric = "e2e_s"                 # p50 of a cell, or its ratio to another
    over = { batch = 8 }
    under = { batch = 4 }
    expect = "<= 1.5"

    [telemetry]                      # what devices and server do meanwhile; decides no trial's id
    enabled = true
    period_s = 0.2                   # between scrapes
    sources = ["http://127.0.0.1:9400/metrics"]  # Prometheus text endpoints: dcgm-exporter, Triton, vLLM, …
    prometheus = "http://127.0.0.1:9090"         # a Prometheus server that scrapes them already
    selector = 'job="dcgm"'          # label matchers that narrow what is read from it
    exporter = true                  # loadgen's own, for what those do not have: NVML, the server's process tree
    exporter_port = 0                # its port (0: a free one), for a Prometheus that should scrape it

``--set KEY=VALUE`` lays a value over the file before it is checked. KEY is a dotted path (``load.timeouts.total_s``)
or the bare name of a key above (``tp``), and a bare name replaces that key everywhere: a single value takes it out of
the sweeps, a list (``tp=1,2,4`` or ``tp=[1,2,4]``) sweeps it. Paths of models and traces are relative to the
working directory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from loadgen.load_records import LoadSpec
from loadgen.records import Order, ServerSpec
from loadgen.search_records import CapacitySearch, Search
from loadgen.slo_records import Slo
from loadgen.telemetry_records import TelemetrySpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """An endpoint that already runs. ``driver`` are options of its driver that were set."""

    url: str
    model_name: str | None = None
    vocab: int | None = None
    driver: Mapping[str, Any] = field(default_factory=dict)
    exact: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One point of a sweep: a server (or an endpoint) and a load, and which repeat on which start of it this is.

    ``load.seed`` is still the profile's own. ``trace_digest`` stands for the content of a trace file.
    """

    load: LoadSpec
    server: ServerSpec | None = None
    target: Target | None = None
    repeat: int = 0
    start: int = 0
    trace_digest: str = ""
    slo: Slo | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """A checked profile. ``text`` is the file as it was read and ``sets`` what was laid over it: both are stored.

    ``findings`` are its ``[[finding]]`` tables as they stand: analysis knows what they may say, and who runs a sweep
    has them checked before anything starts.
    """

    name: str
    description: str
    file: str
    text: str
    sets: tuple[str, ...]
    cells: tuple[Cell, ...]
    order: Order = "grouped"
    searches: tuple[Search, ...] = ()
    capacities: tuple[CapacitySearch, ...] = ()
    telemetry: TelemetrySpec = field(default_factory=TelemetrySpec)
    findings: tuple[Mapping[str, Any], ...] = ()
