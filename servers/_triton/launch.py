"""What every Triton-based framework's command has in common: flags, addresses, options. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from loadgen.errors import BadInput
from loadgen.launch.child import url_host
from loadgen.records import OptionValue, ServerSpec
from loadgen.servers._triton.repository import REPOSITORY

TRUE, FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


@dataclass(frozen=True, slots=True)
class Options:
    """A spec's ``--option`` values, read with one clear error each."""

    framework: str
    values: Mapping[str, OptionValue]

    def known(self, names: Mapping[str, str]) -> None:
        """Raise BadInput for an option that is not among ``names``."""
        for name in self.values:
            if name not in names:
                raise BadInput(f"{self.framework}: unknown option {name!r} (accepted: {', '.join(names)})")

    def flag(self, name: str, default: bool) -> bool:
        """A truth value. Raises BadInput for other words."""
        value = str(self.values.get(name, default)).lower()
        if value not in TRUE + FALSE:
            self._refuse(name, "true, false")
        return value in TRUE

    def number(self, name: str, default: int, low: int) -> int:
        """A whole number from ``low``. Raises BadInput for anything else."""
        value = self.values.get(name, default)
        try:
            number = int(str(value))
        except ValueError:
            number = low - 1
        if isinstance(value, bool) or number < low:
            self._refuse(name, f"a whole number from {low}")
        return number

    def choice(self, name: str, accepted: Sequence[str]) -> str:
        """One of ``accepted``; the first is the default."""
        value = str(self.values.get(name, accepted[0])).lower()
        if value not in accepted:
            self._refuse(name, ", ".join(accepted))
        return value

    def text(self, name: str) -> str | None:
        """Text that is not blank, or ``None`` where the option is absent. Raises BadInput."""
        value = self.values.get(name)
        if value is not None and not str(value).strip():
            self._refuse(name, "a non-empty value")
        return None if value is None else str(value)

    def _refuse(self, name: str, accepted: str) -> None:
        raise BadInput(f"{self.framework}: option {name} = {self.values.get(name)!r} (accepted: {accepted})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Addresses:
    """Where a server listens. The first port, which a user may choose, is the gRPC one: requests go there."""

    host: str
    grpc: int
    http: int
    metrics: int

    @property
    def base_url(self) -> str:
        """Where requests go, ``grpc://HOST:PORT``."""
        return f"grpc://{url_host(self.host)}:{self.grpc}"

    @property
    def ready_url(self) -> str:
        """The page that answers 200 once all models are loaded."""
        return f"http://{url_host(self.host)}:{self.http}/v2/health/ready"

    @property
    def version_url(self) -> str:
        """The page with the server's name and version."""
        return f"http://{url_host(self.host)}:{self.http}/v2"

    @property
    def metrics_url(self) -> str:
        """Triton's Prometheus page."""
        return f"http://{url_host(self.host)}:{self.metrics}/metrics"

    def flags(self) -> tuple[str, ...]:
        """tritonserver's arguments for all three."""
        return (
            f"--grpc-address={self.host}",
            f"--grpc-port={self.grpc}",
            f"--http-address={self.host}",
            f"--http-port={self.http}",
            f"--metrics-address={self.host}",
            f"--metrics-port={self.metrics}",
        )


def addresses(spec: ServerSpec, ports: Sequence[int]) -> Addresses:
    """Addresses on the spec's host, of exactly three ports: gRPC, HTTP, metrics."""
    grpc, http, metrics = ports
    return Addresses(host=spec.host, grpc=grpc, http=http, metrics=metrics)


def server_flags(spec: ServerSpec, run_dir: str, where: Addresses, backends: str) -> tuple[str, ...]:
    """tritonserver's arguments but for those of one backend."""
    return (
        f"--model-repository={Path(run_dir, REPOSITORY)}",
        f"--backend-directory={backends}",
        *where.flags(),
        # Else each model is loaded a first time, only to ask what its configuration might be.
        "--disable-auto-complete-config",
        # Its tables of options come last and would push the cause of a failed start out of the log's tail.
        "--log-info=false",
        f"--allow-gpu-metrics={'true' if spec.gpus else 'false'}",
    )


def visible_gpus(spec: ServerSpec) -> str:
    """The value of CUDA_VISIBLE_DEVICES; empty hides every GPU."""
    return ",".join(map(str, spec.gpus))


def info_url(run_dir: str) -> str:
    """Where the server, or the launcher, writes what really runs: Triton has no page for it."""
    return Path(run_dir, "info.json").as_uri()


def shared_memory(region: str) -> str:
    """The glob of the segments that the Python backend names with the prefix ``region``; SIGKILL leaves them."""
    return f"/dev/shm/{region}*"  # noqa: S108 - where POSIX shared memory appears on Linux
