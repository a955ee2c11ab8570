"""One point of a sweep → a cell: the server and the load it asks for, checked against model, mode and machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from loadgen.errors import BadInput, ProfileError
from loadgen.labels import spread_text
from loadgen.load_records import LoadSpec, Timeouts
from loadgen.profile.bounds import USED_BY, call_problem, default_lead_in_s, duration_problem, paced
from loadgen.profile.profile import Cell, Target
from loadgen.profile.schema import FrameworkTable, Origins, Path, ServerTable, Tables, together
from loadgen.profile.values import AUTO, did_you_mean
from loadgen.protocols import Framework
from loadgen.records import ModelSpec, ServerSpec
from loadgen.theory import models
from loadgen.traces.datasets import Texts, measure_texts
from loadgen.traces.files import TraceExtent, measure_trace
from loadgen.traces.formats import FORMATS
from loadgen.workload_records import Dataset, Replay, Sessions, Spread


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One value for every key of [server] and [load], where each came from, and the swept options."""

    values: Mapping[str, Any]
    paths: Mapping[str, Path]
    options: Mapping[str, Any]


class Prompts(NamedTuple):
    """A data set, and what was read of it."""

    dataset: Dataset
    texts: Texts


class Problems:
    """Collects what is wrong, to be raised at once."""

    def __init__(self, origins: Origins) -> None:
        self._origins = origins
        self._found: list[ProfileError] = []

    def add(self, path: Sequence[str | int], value: object, why: str, accepted: str | None) -> None:
        """Note one problem of the value at ``path``; raised by ``check``."""
        self._found.append(self._origins.problem(path, value, why, accepted))

    def check(self) -> None:
        """Raise what was found, as one exception with a line for each problem."""
        if self._found:
            raise together(self._found)


class Builder:
    """Makes cells; models and traces are read once."""

    def __init__(
        self,
        tables: Tables,
        problems: Problems,
        gpu_count: int | None,
        frameworks: Sequence[str] | None,
        ask: Callable[[str], Framework] | None,
    ) -> None:
        self._tables, self._problems = tables, problems
        self._gpu_count, self._frameworks, self._ask = gpu_count, frameworks, ask
        self._models: dict[str, ModelSpec | BadInput] = {}
        self._traces: dict[tuple[str, Replay], TraceExtent | BadInput] = {}

    def cells(self, point: Point, repeats: Sequence[int], starts: Sequence[int]) -> list[Cell]:
        """The repeats of a point on each start of its server; none when it has a problem, which is then noted."""
        server = target = None
        if self._tables.target is None:
            server = self._server(point)
            if server is None:
                return []
        else:
            table = self._tables.target
            target = Target(
                url=table.url or "",
                model_name=table.model,
                vocab=table.vocab,
                driver=table.driver(),
                exact=table.exact,
            )
        replay = self._replay(point, server)
        trace = None if replay is None else self._trace(point, replay)
        if isinstance(trace, BadInput):
            return []
        if not self._is_bounded(point):
            return []
        texts = self._texts(point, server)
        if isinstance(texts, BadInput):
            return []
        context = None if server is None else server.model.max_context
        load = _load(point, trace or texts, replay, context, self._tables.load.timeouts.model_dump())
        if (problem := call_problem(load.batch_size, load.input_tokens)) is not None:
            key = "trace" if load.kind == "trace" else "input_tokens" if texts is None else "dataset"
            self._problems.add(point.paths[key], None, problem, None)
            return []
        if server is not None:
            self._check_lengths(point, server, load, trace)
        digest = trace.digest if trace else texts.texts.digest if texts else ""
        return [
            Cell(load=load, server=server, target=target, repeat=repeat, start=start, trace_digest=digest)
            for start in starts
            for repeat in repeats
        ]

    def _is_bounded(self, point: Point) -> bool:
        """Whether either requests or a duration bound the load; a problem is noted of any other."""
        values, paths = point.values, point.paths
        problem = duration_problem(*(values[key] for key in ("mode", "requests", "duration", "lead_in")))
        if problem is not None:
            key, why, accepted = problem
            self._problems.add(paths[key], values[key], why, accepted)
        cancel = values["cancel"]
        if cancel is not None and cancel.after_tokens is not None and not values["stream"]:
            why = "after_tokens: no token comes before the end without streaming"
            self._problems.add(paths["cancel"], None, why, "after_s, or stream = true")
            return False
        drawn = [key for key in ("input_tokens", "output_tokens") if isinstance(values[key], Spread)]
        if drawn and values["mode"] == "static":
            why = "is a distribution: the rows of a static batch are of one length"
            self._problems.add(paths[drawn[0]], spread_text(values[drawn[0]]), why, "a whole number")
        return problem is None and not (drawn and values["mode"] == "static")

    def _replay(self, point: Point, server: ServerSpec | None) -> Replay | None:
        """How the trace is taken; what is over the context of a server that loadgen starts is told by its model."""
        if point.values["mode"] != "trace":
            return None
        replay: Replay = point.values["replay"] or Replay()
        try:
            replay = paced(replay, point.values["rate"])
        except BadInput as error:
            why, _, accepted = str(error).partition(" (accepted: ")
            self._problems.add(point.paths["rate"], point.values["rate"], why, accepted.removesuffix(")"))
        if replay.too_long != "fail" and replay.max_context is None and server is not None:
            return replace(replay, max_context=server.model.max_context)
        return replay

    def _server(self, point: Point) -> ServerSpec | None:
        values = point.values
        name = values["framework"]
        model = self._model(point)
        known = self._frameworks
        if name is None:
            accepted = ", ".join(known) if known else "hf, …"
            self._problems.add(point.paths["framework"], None, "is missing", accepted)
        elif known is not None and name not in known:
            why = "is no known framework" + did_you_mean(name, known)
            self._problems.add(point.paths["framework"], name, why, ", ".join(known))
        gpus = self._gpus(point, model) if model else None
        if name is None or model is None or gpus is None:
            return None
        own = self._tables.frameworks.get(name, FrameworkTable())
        table = self._tables.server or ServerTable()
        capacity = own.max_batch or table.max_batch
        swept_dtype = point.paths["dtype"][0] == "sweep"
        dtype = values["dtype"] if swept_dtype else own.dtype or values["dtype"]
        asked = self._ask(name) if self._ask is not None and (known is None or name in known) else None
        spec = ServerSpec(
            framework=name,
            model=model,
            tp=values["tp"],
            pp=values["pp"],
            gpus=gpus,
            # On the CPU, too: a plan is the same wherever it is made.
            dtype=dtype or (asked.default_dtype(on_gpu=True) if asked else "bfloat16"),
            max_batch=None if capacity == AUTO else capacity,
            dummy_weights=model.checkpoint is None if table.dummy_weights is None else table.dummy_weights,
            python=own.python or table.python,
            ready_timeout_s=own.ready_timeout_s or table.ready_timeout_s,
            options={**table.options, **own.options, **point.options},
        )
        return spec if asked is None else replace(spec, library=asked.library(spec))

    def _model(self, point: Point) -> ModelSpec | None:
        name = point.values["model"]
        if name is None:
            accepted = f"{', '.join(models.PRESETS)}, or a checkpoint folder"
            self._problems.add(point.paths["model"], None, "is missing", accepted)
            return None
        if name not in self._models:
            try:
                spec = models.resolve(name)
                self._models[name] = models.extend_context(spec, point.values["extend_context"] or 1)
            except BadInput as error:
                self._models[name] = error
        found = self._models[name]
        if isinstance(found, BadInput):
            self._problems.add(point.paths["model"], name, str(found), None)
            return None
        if found.checkpoint is None and point.values["dummy_weights"] is False:
            why = f"{name} is a preset, which has random weights only"
            self._problems.add(
                ("server", "dummy_weights"), False, why, "true, or a checkpoint folder as model"
            )
            return None
        return found

    def _gpus(self, point: Point, model: ModelSpec) -> tuple[int, ...] | None:
        """The devices of a server: the first tp × pp of those it may use, none on the CPU."""
        tp, pp, gpus = point.values["tp"], point.values["pp"], point.values["gpus"]
        own, listed = self._tables.frameworks.get(point.values["framework"] or ""), "server.gpus"
        if own is not None and own.gpus is not None:
            gpus, listed = own.gpus, f"frameworks.{point.values['framework']}.gpus"
        if gpus == AUTO:
            gpus = [] if self._gpu_count == 0 else None
        blamed = "pp" if pp > model.layers or tp == 1 < pp else "tp"
        path, value = point.paths[blamed], point.values[blamed]
        problem = models.split_problem(model, tp, pp)
        if problem is not None:
            fits = [n for n in models.valid_tp(model) if n <= 64]
            accepted = f"tp {', '.join(map(str, fits))}; pp up to {model.layers}"
            self._problems.add(path, value, problem, accepted)
            return None
        if gpus == []:
            return ()
        count, need = self._gpu_count, tp * pp
        if gpus is not None and count is not None and max(gpus) >= count:
            accepted = f"indices below {count}" if count else "[] for the CPU"
            self._problems.add(listed.split("."), gpus, f"this machine has {count} GPUs", accepted)
            return None
        have = len(gpus) if gpus is not None else count
        if have is not None and need > have:
            whose = "this machine has" if gpus is None else f"{listed} lists"
            accepted = f"tp × pp up to {have}" if have else "server.gpus = [] to run on the CPU"
            self._problems.add(path, value, f"tp × pp = {need} GPUs are needed, {whose} {have}", accepted)
            return None
        return tuple(gpus[:need]) if gpus is not None else tuple(range(need))

    def _check_lengths(
        self, point: Point, server: ServerSpec, load: LoadSpec, trace: TraceExtent | None
    ) -> None:
        model, length = server.model, load.longest
        if trace is not None:
            length = trace.longest
        if length > model.max_context:
            longest = "input_tokens" if load.input_tokens >= load.output_tokens else "output_tokens"
            self._problems.add(
                point.paths["trace" if load.kind == "trace" else longest],
                point.values["trace" if load.kind == "trace" else longest],
                f"{load.input_tokens} input + {load.output_tokens} output tokens are over the context of "
                f"{model.name}, {model.max_context}",
                f"a sum up to {model.max_context}"
                + ("" if model.checkpoint else "; server.extend_context lets random weights go further"),
            )
        if server.max_batch is not None and load.batch_size > server.max_batch:
            why = f"is over max_batch = {server.max_batch} of the server"
            accepted = f"up to {server.max_batch}"
            self._problems.add(point.paths["batch_size"], load.batch_size, why, accepted)

    def _texts(self, point: Point, server: ServerSpec | None) -> Prompts | BadInput | None:
        """The prompts of the data set, by the target's tokenizer; a problem is noted of one that cannot be."""
        path = point.values["dataset"]
        if path is None:
            return None
        target = self._tables.target
        folder = (target and target.tokenizer) or (server.model.checkpoint if server is not None else None)
        requests = point.values["requests"] if point.values["duration"] is None else None
        try:
            for key in ("input_tokens", "prefixes"):
                if point.values[key] is not None:
                    raise BadInput(
                        f"{path}: {key} stands beside it (accepted: the prompts of the file alone)"
                    )
            if folder is None:
                raise BadInput(
                    f"{path}: no tokenizer of the target (accepted: target.tokenizer, or a checkpoint folder as model)"
                )
            context = None if server is None else server.model.max_context
            dataset = Dataset(path=path, tokenizer=folder, max_context=context)
            found = measure_texts(dataset, requests)
            if requests is not None and len(found.rows) < requests:
                raise BadInput(f"{path}: {len(found.rows)} prompts (accepted: requests up to these)")
            if found.untold and point.values["output_tokens"] is None:
                raise BadInput(
                    f"{path}: {found.untold} rows tell no output length (accepted: output_tokens beside it)"
                )
        except BadInput as error:
            why, _, accepted = str(error).removeprefix(f"{path}: ").partition(" (accepted: ")
            self._problems.add(point.paths["dataset"], path, why, accepted.removesuffix(")") or None)
            return error
        return Prompts(dataset, found)

    def _trace(self, point: Point, replay: Replay) -> TraceExtent | BadInput:
        path = point.values["trace"]
        if (path, replay) not in self._traces:
            try:
                if replay.too_long != "fail" and replay.max_context is None:
                    raise BadInput(f"{path}: too_long = {replay.too_long}: replay.max_context is missing")
                self._traces[path, replay] = measure_trace(path, replay)
            except BadInput as error:
                self._traces[path, replay] = error
        found = self._traces[path, replay]
        if isinstance(found, BadInput):
            why = str(found).removeprefix(f"{path}: ")  # which the problem names as the key's value
            why, _, accepted = why.partition(" (accepted: ")
            accepted = accepted.removesuffix(")") or f"a trace of one of {', '.join(FORMATS)}"
            self._problems.add(point.paths["trace"], path, why, accepted)
        return found


def _load(
    point: Point,
    trace: TraceExtent | Prompts | None,
    replay: Replay | None,
    context: int | None,
    timeouts: Mapping[str, float],
) -> LoadSpec:
    values = dict(point.values)
    for way in ("input", "output"):
        spread = values[f"{way}_tokens"]
        values[f"{way}_spread"] = spread if isinstance(spread, Spread) else None
        if isinstance(spread, Spread):
            values[f"{way}_tokens"] = spread.most
    if isinstance(trace, Prompts):
        told, drawn = trace.texts, values["output_tokens"] or 0
        values |= {"input_tokens": told.input_tokens, "output_tokens": max(told.output_tokens, drawn)}
        values["dataset"] = trace.dataset
    elif trace is not None:
        values |= {
            "input_tokens": trace.input_tokens,
            "output_tokens": trace.output_tokens,
            "requests": trace.requests,
        }
    mode = values["mode"]
    keys = {
        "batch_size",
        "concurrency",
        "max_rate",
        "rate",
        "rate_end",
        "burstiness",
        "trace",
        "prefixes",
        "dataset",
        "cancel",
    }
    used = {key: values[key] for key in keys & USED_BY[mode]}
    if mode == "trace":
        used["rate"] = None  # which the replay has
    requests, warmup = _default_counts(mode, values)
    duration_s = values["duration"]
    lead_in_s = default_lead_in_s(mode, duration_s) if values["lead_in"] is None else values["lead_in"]
    return LoadSpec(
        kind=mode,
        input_tokens=values["input_tokens"],
        output_tokens=values["output_tokens"],
        input_spread=values["input_spread"],
        output_spread=values["output_spread"],
        replay=None if replay == Replay() else replay,
        sessions=_sessions(values, context) if mode == "sessions" else None,
        requests=_at_most(requests, trace) if values["requests"] is None else values["requests"],
        warmup=warmup if values["warmup"] is None else values["warmup"],
        duration_s=duration_s,
        lead_in_s=lead_in_s,
        stream=values["stream"],
        seed=values["seed"],
        workers=values["workers"],
        nodes=values["nodes"],
        timeouts=Timeouts(**timeouts),
        **used,
    )


def _at_most(requests: int, trace: TraceExtent | Prompts | None) -> int:
    """A default number of requests: no more than a data set has."""
    return min(requests, len(trace.texts.rows)) if isinstance(trace, Prompts) else requests


def _sessions(values: Mapping[str, Any], context: int | None) -> Sessions:
    return Sessions(
        users=values["users"], turns=values["turns"], think_ms=values["think"], max_context=context
    )


def _default_counts(mode: str, values: Mapping[str, Any]) -> tuple[int, int]:
    """Measured and warm-up requests when the profile gives none: in open loop, about 30 s of arrivals."""
    if values["duration"] is not None:
        return 0, {"closed": values["concurrency"], "sessions": values["users"]}.get(mode, 1)
    if mode == "sessions":
        return max(16, 4 * values["users"]), values["users"]
    if mode == "static":
        return 5, 1
    if mode == "closed":
        return max(16, 4 * values["concurrency"]), values["concurrency"]
    return max(20, round(30 * (values["rate"] or 0))), 1
