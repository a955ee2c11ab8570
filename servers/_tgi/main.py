"""Child: the shards of one model, without router. Starts one for each rank, warms them up, and tells when they serve.

Usage: ``python -m loadgen.servers._tgi.main --spec JSON``, the fields of ``Settings``. A warm-up comes once, before the
first batch: it sizes the key/value cache and captures CUDA graphs. What it gave joins the page beside the sockets; the
health page answers 503 until then. Ends when a shard ends. Needs grpcio and protobuf, as a shard itself does.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from loadgen.drivers.tgi_messages import SERVICE, message, request_of
from loadgen.servers._tgi.settings import PAGE, Settings

PROGRAM = "text-generation-server"
POLL_S = 0.1
TELLS = ("dtype", "device_type", "attention_impl", "use_prefix_caching", "support_chunking", "block_size")
BIGGEST = 256 << 20  # bytes of a message


def shard_argv(settings: Settings) -> list[str]:
    """A shard's command; the program lies beside this interpreter, or on PATH."""
    beside = os.path.join(os.path.dirname(sys.executable), PROGRAM)
    program = beside if os.access(beside, os.X_OK) else shutil.which(PROGRAM) or PROGRAM
    sharded = ["--sharded"] if settings.ranks > 1 else []
    return [program, "serve", settings.model, "--uds-path", settings.uds, "--dtype", settings.dtype, *sharded]


def shard_env(settings: Settings, rank: int) -> dict[str, str]:
    """What the launcher of text-generation-inference sets for a shard, which dies without the first ones."""
    return {
        **os.environ,
        "RANK": str(rank),
        "WORLD_SIZE": str(settings.ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(settings.master_port),
        "MAX_TOTAL_TOKENS": str(settings.max_total_tokens),
    }


def warmup_request(settings: Settings) -> Any:
    """As its router's: prompts at their greatest length until they are as many tokens as a prefill may have."""
    left = settings.max_prefill_tokens
    requests: list[Any] = []
    while left > 0:
        tokens = min(settings.max_input_tokens, left)
        text = " ".join(["5"] * settings.max_input_tokens)
        output_tokens = settings.max_total_tokens - tokens
        requests.append(request_of(len(requests), text, tokens, output_tokens, special=False))
        left -= tokens
    batch = {"id": 0, "requests": requests, "size": len(requests), "max_tokens": settings.max_prefill_tokens}
    return message("WarmupRequest")(
        batch=batch,
        max_input_tokens=settings.max_input_tokens,
        max_prefill_tokens=settings.max_prefill_tokens,
        max_total_tokens=settings.max_total_tokens,
    )


class Shards:
    """The processes and their connections."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.processes = [
            subprocess.Popen(shard_argv(settings), env=shard_env(settings, rank))
            for rank in range(settings.ranks)
        ]
        self._channels: list[Any] = []

    def ended(self) -> int | None:
        """The exit status of the first that has ended."""
        return next((code for each in self.processes if (code := each.poll()) is not None), None)

    def connect(self) -> bool:
        """Whether all sockets are there and take calls; waits, until a shard ends."""
        import grpc

        options = (("grpc.max_send_message_length", BIGGEST), ("grpc.enable_http_proxy", 0))
        for rank in range(self._settings.ranks):
            path = f"{self._settings.uds}-{rank}"
            while not os.path.exists(path):
                if self.ended() is not None:
                    return False
                time.sleep(POLL_S)
            self._channels.append(grpc.insecure_channel(f"unix:{path}", options=options))
            grpc.channel_ready_future(self._channels[-1]).result()
        self.ask("Health", message("Empty")())
        return True

    def ask(self, name: str, request: Any) -> list[bytes]:
        """One call of every shard, all at once: they work together."""
        wire = request.SerializeToString()
        calls = [channel.unary_unary(SERVICE + name).future(wire) for channel in self._channels]
        return [call.result() for call in calls]

    def facts(self) -> dict[str, Any]:
        """What the shards say of themselves, warmed up."""
        told = message("InfoResponse").FromString(self.ask("Info", message("Empty")())[0])
        answers = self.ask("Warmup", warmup_request(self._settings))
        tokens = [message("WarmupResponse").FromString(each).max_supported_total_tokens for each in answers]
        found = {name: getattr(told, name) for name in TELLS}
        renamed = {
            "attention": found.pop("attention_impl"),
            "prefix_caching": found.pop("use_prefix_caching"),
        }
        return {**found, **renamed, **({"kv_tokens": min(tokens)} if all(tokens) else {})}

    def stop(self) -> int:
        """End them softly; the caller's guard ends what stays. The largest exit status."""
        for process in self.processes:
            if process.poll() is None:
                process.terminate()
        return max(process.wait() for process in self.processes)


def note(settings: Settings, facts: dict[str, Any]) -> None:
    """Add what was found out to the page that the spec's facts stand on already."""
    page = Path(settings.uds).with_name(PAGE)
    written = page.with_suffix(".new")
    written.write_text(json.dumps({**json.loads(page.read_text()), **facts}, indent=1))
    written.rename(page)


def serve_health(ready: threading.Event, host: str, port: int) -> None:
    """A health page, on a thread."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            """200 once all is up."""
            self.send_response(200 if ready.is_set() else 503)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Nothing: the log is the shards'."""

    server = ThreadingHTTPServer((host, port), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()


def main(argv: Sequence[str] | None = None) -> int:
    """Run until a shard ends, the warm-up fails, or SIGTERM comes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--spec", required=True)
    settings = Settings(**json.loads(parser.parse_args(argv).spec))
    asked, ready = threading.Event(), threading.Event()
    faults: list[Exception] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: asked.set())
    serve_health(ready, settings.host, settings.port)
    shards = Shards(settings)

    def warm_up() -> None:
        """On a thread: a shard may end while it is waited for."""
        try:
            if shards.connect():
                note(settings, shards.facts())
                ready.set()
        except Exception as error:  # noqa: BLE001 - told, and the end of all
            faults.append(error)

    threading.Thread(target=warm_up, daemon=True).start()
    while not asked.wait(POLL_S):
        code = shards.ended()
        if code is not None or faults:
            why = (
                f"a shard has ended (exit status {code})" if code is not None else f"no warm-up: {faults[0]}"
            )
            print(why, flush=True)
            shards.stop()
            return code or 1
    shards.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
