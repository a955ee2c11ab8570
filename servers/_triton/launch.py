"""What every Triton-based framework's command has in common: flags and addresses. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from loadgen.launch.child import url_host
from loadgen.records import ServerSpec
from loadgen.servers._triton.repository import REPOSITORY


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
