"""Measure this machine's ceilings: memory bandwidth, matrix rates, all-reduce, launches. About a minute per GPU kind.

torch runs in child processes only; here their figures become Ceilings. They are kept beside results
(``ceilings.json``), and in the user's cache so that later sweeps on the same machine need not measure again.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson

from loadgen.errors import BadInput, LoadgenError, MissingDependency, StoreError
from loadgen.input_files import read_input
from loadgen.launch.child import child_argv
from loadgen.launch.process import GUARD, free_ports
from loadgen.results.writing import write_whole
from loadgen.system.environment import cpu_model, read_gpus
from loadgen.theory.ceilings import CEILINGS_FILE, Ceilings, fit_all_reduce, from_dict, to_dict

MODULE = "loadgen.servers._torch.probe"
DEVICE_S = 25.0  # what one device's figures may take, beside the child's start
DEVICE_TIMEOUT_S = 300.0
LADDER_TIMEOUT_S = 180.0
STOP_S = 2.0
MAX_CPU_RANKS = 4


class ProbeFailed(LoadgenError):
    """A measuring child failed; carries its last lines."""


def probe(
    *,
    gpus: Sequence[int] | None = None,
    python: str | None = None,
    seconds: float = DEVICE_S,
    on_step: Callable[[str], None] = lambda _words: None,
) -> list[Ceilings]:
    """The ceilings of every kind of GPU here, or of the CPU where there is none (or ``gpus`` is empty).

    One GPU of each kind is measured, and all-reduces over 2, 4, … and all GPUs of the kind. ``python`` is an
    interpreter with torch. Raises ProbeFailed, BadInput for GPUs that are not there, MissingDependency without torch.
    """
    known, driver, _cuda = read_gpus()
    chosen = range(len(known)) if gpus is None else gpus
    for index in chosen:
        if not 0 <= index < len(known):
            raise BadInput(f"gpus = {index}: no such GPU (accepted: {_range(len(known))})")
    kinds: dict[str, list[int]] = {}
    for index in chosen:
        kinds.setdefault(str(known[index]["name"]), []).append(index)
    if not kinds:
        return [_probe_cpu(python, seconds, on_step)]
    return [_probe_gpus(name, found, python, seconds, on_step, driver) for name, found in kinds.items()]


def _range(count: int) -> str:
    return "none" if count == 0 else f"0 to {count - 1}"


def _probe_cpu(python: str | None, seconds: float, on_step: Callable[[str], None]) -> Ceilings:
    on_step(f"{cpu_model()}: bandwidth, matrix products, launches")
    figures = _one("cpu", python, seconds, {"CUDA_VISIBLE_DEVICES": ""})
    cpus = len(os.sched_getaffinity(0))
    lines = []
    for ranks in (each for each in (2, 4) if each <= min(max(cpus, 2), MAX_CPU_RANKS)):
        on_step(f"{cpu_model()}: all-reduce over {ranks} processes")
        threads = {"OMP_NUM_THREADS": str(max(1, cpus // ranks)), "CUDA_VISIBLE_DEVICES": ""}
        lines.append(_ladder("cpu", ranks, python, threads))
    return ceilings_from(cpu_model(), figures, lines, shared=True)


def _probe_gpus(
    name: str,
    indices: Sequence[int],
    python: str | None,
    seconds: float,
    on_step: Callable[[str], None],
    driver: str | None,
) -> Ceilings:
    on_step(f"{name}: bandwidth, matrix products, launches")
    figures = _one("cuda:0", python, seconds, {"CUDA_VISIBLE_DEVICES": str(indices[0])})
    lines = []
    for ranks in ladder_sizes(len(indices)):
        on_step(f"{name}: all-reduce over {ranks} GPUs")
        visible = ",".join(map(str, indices[:ranks]))
        # NVLink multicast (NVLS) is not to be had in every virtual machine, where asking for it hangs.
        env = {"CUDA_VISIBLE_DEVICES": visible, "NCCL_NVLS_ENABLE": "0"}
        lines.append(_ladder("cuda", ranks, python, env))
    found = ceilings_from(name, figures, lines)
    return replace(found, facts={**found.facts, "driver": driver, "gpus": list(indices)})


def ladder_sizes(count: int) -> list[int]:
    """2, 4, 8, … and all of them."""
    sizes = []
    size = 2
    while size < count:
        sizes.append(size)
        size *= 2
    return [*sizes, count] if count > 1 else []


def ceilings_from(
    device: str,
    figures: Mapping[str, Any],
    ladders: Sequence[Mapping[str, Any]],
    *,
    shared: bool = False,
) -> Ceilings:
    """A child's figures as ceilings: the best rate seen is the ceiling; of copies and reads, whichever was faster.

    The bandwidth itself is that of the largest working set; smaller ones, which a cache may hold, make the ladder.
    """
    by_size: dict[int, float] = {}
    for each in figures["bandwidth"]:
        by_size[each["bytes"]] = max(by_size.get(each["bytes"], 0.0), each["best"])
    matrix: dict[str, float] = {}
    for each in figures["matrix"]:
        matrix[each["dtype"]] = max(matrix.get(each["dtype"], 0.0), each["best"])
    return Ceilings(
        device=device,
        source="measured",
        bandwidth=by_size[max(by_size)],
        matrix=matrix,
        ladder=tuple(sorted(by_size.items())),
        all_reduce=tuple(
            fit_all_reduce(ladder["ranks"], how, [(size, seconds) for size, seconds in points])
            for ladder in ladders
            for how, points in ladder["lines"].items()
        ),
        launch_s=figures["launch_s"],
        shared=shared,
        facts={
            "torch": figures["torch"],
            "threads": figures["threads"],
            "took_s": round(figures["took_s"], 1),
            "bandwidth": figures["bandwidth"],
            "matrix": figures["matrix"],
        },
    )


def _one(device: str, python: str | None, seconds: float, env: Mapping[str, str]) -> dict[str, Any]:
    argv = child_argv(python, MODULE, "device", device, str(seconds))
    return _collect([argv], env, DEVICE_TIMEOUT_S + seconds)


def _ladder(kind: str, ranks: int, python: str | None, env: Mapping[str, str]) -> dict[str, Any]:
    (port,) = free_ports(1)
    argvs = [
        child_argv(python, MODULE, "all-reduce", kind, str(rank), str(ranks), str(port))
        for rank in range(ranks)
    ]
    return _collect(argvs, env, LADDER_TIMEOUT_S)


def _collect(argvs: Sequence[Sequence[str]], env: Mapping[str, str], timeout_s: float) -> dict[str, Any]:
    """Run the children together; the first one's last line of output is its figures. None is left behind."""
    children: list[subprocess.Popen[bytes]] = []
    with tempfile.TemporaryDirectory(prefix="loadgen-probe-") as folder:
        outputs = [Path(folder) / f"{rank}.log" for rank in range(len(argvs))]
        try:
            for argv, output in zip(argvs, outputs, strict=True):
                with output.open("wb") as log:
                    children.append(
                        subprocess.Popen(
                            [sys.executable, "-I", "-S", str(GUARD), str(STOP_S), *argv],
                            stdin=subprocess.PIPE,  # its end, ours included, stops the child
                            stdout=log,
                            stderr=subprocess.STDOUT,
                            env={**os.environ, **env},
                            start_new_session=True,
                        )
                    )
            deadline = time.monotonic() + timeout_s
            for child in children:
                child.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            raise ProbeFailed(f"a measurement took more than {timeout_s:g} s\n{_tail(outputs[0])}") from None
        finally:
            for child in children:
                assert child.stdin is not None
                child.stdin.close()
            for child in children:
                child.wait()
        for child, output in zip(children, outputs, strict=True):
            if child.returncode != 0:
                tail = _tail(output)
                if "No module named 'torch'" in tail:
                    raise MissingDependency(
                        f"{argvs[0][0]} has no torch, which the probe measures with",
                        "install torch there, or name an interpreter that has it with --python",
                    )
                raise ProbeFailed(f"a measurement ended with status {child.returncode}\n{tail}")
        return _figures(outputs[0])


def _figures(output: Path) -> dict[str, Any]:
    for line in reversed(output.read_text(errors="replace").splitlines()):
        if line.startswith("{"):
            found: dict[str, Any] = json.loads(line)
            return found
    raise ProbeFailed(f"a measurement printed no figures\n{_tail(output)}")


def _tail(output: Path, lines: int = 15) -> str:
    if not output.exists():
        return ""
    return "\n".join(f"  | {line}" for line in output.read_text(errors="replace").splitlines()[-lines:])


def save(ceilings: Sequence[Ceilings], folder: Path) -> Path:
    """Put the figures into ``folder/ceilings.json``, beside results or in the cache; others' devices there are kept.

    Raises StoreError where they cannot be written.
    """
    path = folder / CEILINGS_FILE
    kept = {each.device: each for each in load(folder)}
    kept |= {each.device: each for each in ceilings}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps([to_dict(each) for each in kept.values()], indent=1).encode())
    except OSError as error:
        raise StoreError(f"StoreError: {folder}: cannot be made: {error.strerror}") from None
    return path


def load(folder: Path) -> list[Ceilings]:
    """The figures kept in a folder; none where it has no such file. Raises BadInput for a broken one."""
    path = folder / CEILINGS_FILE
    if not path.exists():
        return []
    try:
        return [from_dict(entry) for entry in orjson.loads(read_input(path))]
    except (ValueError, TypeError) as error:
        raise BadInput(
            f"{path}: not ceilings as the probe writes them: {error} (accepted: none; remove it)"
        ) from None
    except OSError as error:
        raise BadInput(f"{path}: cannot be read: {error.strerror}") from None


def cache_folder() -> Path:
    """Where this machine's figures are kept: set apart by host name, CPU and GPUs, since homes may be shared."""
    known, driver, _cuda = read_gpus()
    machine = [
        os.uname().nodename,
        cpu_model(),
        len(os.sched_getaffinity(0)),
        driver,
        [gpu["uuid"] for gpu in known],
    ]
    digest = hashlib.sha256(json.dumps(machine).encode()).hexdigest()[:16]
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(base) / "loadgen" / "ceilings" / digest


def cached() -> list[Ceilings]:
    """What an earlier probe of this machine found; empty when there was none."""
    return load(cache_folder())
