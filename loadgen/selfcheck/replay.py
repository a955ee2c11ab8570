"""One load against the null server, and what came of it: what the client saw, what the server did."""

from __future__ import annotations

import dataclasses
import math
import tempfile
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from loadgen.drivers.find import driver_factory
from loadgen.errors import ServerError
from loadgen.launch import null_log
from loadgen.launch.frameworks import find
from loadgen.launch.process import free_ports, serving
from loadgen.load.client import LoadOutcome
from loadgen.load.run import run_trial_load
from loadgen.load_records import LoadSpec
from loadgen.records import ClientQuality, OptionValue, ServerSpec, Trial
from loadgen.request_records import Reply, Sample
from loadgen.selfcheck.timing_errors import Errors, compare, rate_share, server_share
from loadgen.system import interrupt
from loadgen.theory import models
from loadgen.units import seconds

READY_S = 15.0
REQUESTS = 1000  # of a load that a duration bounds, before it is shortened


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """One load against the null server: what the client saw against what the server did.

    ``rate_share``: see ``timing_errors.rate_share``; None without a schedule, when the client's own pace is the load.
    ``server_share`` is the scheduled length of an answer over its real mean: the null server's own pace.
    """

    load: LoadSpec
    requests: int
    tokens: int
    failed: Mapping[str, int]
    errors: Errors
    rate_share: float | None
    server_share: float | None
    quality: ClientQuality
    took_s: float

    def per_s(self, count: int) -> float | None:
        """So many of it, such as its ``requests`` or ``tokens``, per second from the first send to the last end."""
        return count / self.took_s if self.took_s else None

    @property
    def cpu_s_per_token(self) -> float | None:
        """CPU seconds of the client a received token; ``None`` where they were not measured."""
        cpu = self.quality.cpu_s
        return cpu / self.tokens if cpu is not None and self.tokens else None

    @property
    def cpu_s_per_request(self) -> float | None:
        """CPU seconds of the client a request; ``None`` where they were not measured."""
        cpu = self.quality.cpu_s
        return cpu / self.requests if cpu is not None and self.requests else None

    @property
    def coalesced_share(self) -> float | None:
        """Share of the reads that held more than one chunk, whose earlier arrival times are lost."""
        reads, coalesced = self.quality.reads, self.quality.coalesced_reads
        return coalesced / reads if reads and coalesced is not None else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Null:
    """The null server of one schedule; a fresh one is started for each replay."""

    ttft_ms: float
    itl_ms: float
    vocab: int
    host: str = "127.0.0.1"

    def answer_s(self, load: LoadSpec) -> float:
        """How long one answer takes by the schedule."""
        return (self.ttft_ms + self.itl_ms * (load.output_tokens - 1)) / 1e3

    def replay(
        self,
        load: LoadSpec,
        beside: Callable[[int | None], AbstractContextManager[None]] = lambda _pid: nullcontext(),
        send: Callable[..., LoadOutcome | None] = run_trial_load,
    ) -> Replay:
        """Send ``load`` and compare with the log; ``beside`` is given the server's process id, and lasts meanwhile.
        ``send`` is how it is sent.

        Raises the ServerError of a server that did not last.
        """
        framework = find("null")
        options: dict[str, OptionValue] = {"ttft_ms": self.ttft_ms, "itl_ms": self.itl_ms, "log": "sent.bin"}
        spec = ServerSpec(framework="null", model=models.resolve("tiny"), host=self.host, options=options)
        framework.check(spec)
        seen = Seen()
        with tempfile.TemporaryDirectory(prefix="loadgen-calibrate-") as folder:
            run_dir = Path(folder) / "run"
            command = framework.command(spec, str(run_dir), free_ports(framework.ports, self.host))
            trial = Trial(
                id="calibrate", load=load, url=command.base_url, model_name="null", vocab=self.vocab
            )
            with serving(command, run_dir, Path(folder) / "null.log", ready_timeout_s=READY_S) as server:
                with beside(server.pid):
                    outcome = send(
                        trial,
                        command.base_url,
                        driver_factory(framework.protocol),
                        framework.driver_options(spec),
                        seen.add,
                        stop=lambda: interrupt.asked() or not server.alive(),
                    )
                interrupt.check()
                if outcome is None or not server.alive():
                    raise server.death()
            log = read_log(run_dir / "sent.bin")
        ttft_ns, itl_ns = round(self.ttft_ms * 1e6), round(self.itl_ms * 1e6)
        answers = [log[name] for reply in seen.replies if (name := f"measured-{reply.seq}") in log]
        return Replay(
            load=load,
            requests=len(seen.replies),
            tokens=sum(sum(reply.output_tokens or ()) for reply in seen.replies),
            failed=seen.failed,
            errors=compare(seen.replies, log, ttft_ns, itl_ns),
            rate_share=rate_share(load, seen.replies, seen.due_ns, answers) if ttft_ns or itl_ns else None,
            server_share=server_share(answers, ttft_ns, itl_ns),
            quality=outcome.quality,
            took_s=seen.took_s,
        )


def read_log(path: Path) -> dict[str, null_log.Sent]:
    """The null server's log by request. Raises ServerError when there is none to read."""
    try:
        return {sent.request_id: sent for sent in null_log.read(path.read_bytes())}
    except (OSError, ValueError) as error:
        raise ServerError(f"the null server left no readable log: {error}") from None


class Seen:
    """The measured replies of a replay; failures by their error."""

    def __init__(self) -> None:
        self.replies: list[Reply] = []
        self.due_ns: list[int] = []
        self.failed: dict[str, int] = {}

    @property
    def took_s(self) -> float:
        """From the first send to the last end."""
        if not self.replies:
            return 0.0
        first_ns = min(reply.sent_ns for reply in self.replies)
        return seconds(max(reply.end_ns for reply in self.replies) - first_ns)

    def add(self, sample: Sample, _in_flight: int) -> None:
        """Keep a measured sample, or count its error; the warm-up is passed over."""
        if sample.phase != "measured":
            return
        if sample.error is not None:
            self.failed[sample.error] = self.failed.get(sample.error, 0) + 1
            return
        self.replies.append(sample.reply)
        if sample.due_ns is not None:
            self.due_ns.append(sample.due_ns)


def shorten(load: LoadSpec, answer_s: float, limit_s: float) -> LoadSpec:
    """The same shape with as many requests as ``limit_s`` seconds hold: whole rounds of a closed loop, two at least."""
    places = load.in_flight
    if load.duration_s is not None:
        load = dataclasses.replace(load, duration_s=None, lead_in_s=0.0, requests=REQUESTS)
    if places is None:
        rate = max(load.rate or 1.0, load.rate_end or 0.0)
        return dataclasses.replace(load, requests=min(load.requests, max(2, math.ceil(rate * limit_s))))
    rounds = max(2, math.floor(limit_s / answer_s)) if answer_s else math.ceil(load.requests / places)
    rounds = max(2, min(rounds, math.ceil(load.requests / places)))
    return dataclasses.replace(load, requests=rounds * places, warmup=min(load.warmup, places), max_rate=None)
