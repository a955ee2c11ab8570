"""MII's gRPC service on the address that was asked for, and a small HTTP page for readiness and facts."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
from mii.constants import GenerationFinishReason
from mii.grpc_related.modelresponse_server import ModelResponse
from mii.grpc_related.proto import modelresponse_pb2_grpc

MESSAGE_BYTES = 2**30
RESET = "/memory/reset"
# A stream holds a thread of gRPC's pool to its end: with fewer threads than streams, some would wait unseen.
THREADS = 2048


class Service(ModelResponse):  # type: ignore[misc]
    """MII's servicer; it also tells the pipeline whose call it is, and ends what a departed client began."""

    def GeneratorReply(self, request: Any, context: Any) -> Any:
        """As MII's, with an engine's errors as gRPC status."""
        self._begin(context)
        with errors_as_grpc_status(context):
            return super().GeneratorReply(request, context)

    def GeneratorReplyStream(self, request: Any, context: Any) -> Iterator[Any]:
        """As MII's, but a sequence that its client leaves is drained and flushed, not left in the cache."""
        self._begin(context)
        methods = self._get_task_methods("GeneratorReply")
        prompts, kwargs = methods.unpack_request_from_proto(request)
        if len(prompts) != 1:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"a stream takes one prompt, not {len(prompts)}")
        with errors_as_grpc_status(context):
            uid = self.inference_pipeline.put_request(prompts[0], {**kwargs, "stream": True})
            yield from self._stream(uid, methods)

    def _stream(self, uid: int, methods: Any) -> Iterator[Any]:
        done = False
        try:
            while not done:
                done, response = self._next(uid)
                yield methods.pack_response_to_proto([response])
        finally:
            while not done:
                done, _ = self._next(uid)
            self.inference_pipeline.flush_uid(uid)

    def _next(self, uid: int) -> tuple[bool, Any]:
        answered, response = self.inference_pipeline.get_response()
        if answered != uid:
            raise RuntimeError(f"the engine answered sequence {answered}, not {uid}")
        return response.finish_reason != GenerationFinishReason.NONE, response

    def _begin(self, context: Any) -> None:
        begin = getattr(self.inference_pipeline, "serve_call", None)
        if begin is not None:
            begin(context.is_active)


@contextmanager
def errors_as_grpc_status(context: Any) -> Iterator[None]:
    """What cannot be done becomes a status with its words, instead of a trace in the log."""
    try:
        yield
    except (ValueError, AssertionError) as error:  # MII checks lengths by assertions
        context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
    except RuntimeError as error:
        context.abort(grpc.StatusCode.INTERNAL, str(error))


def serve_grpc(service: Service, host: str, port: int) -> Any:
    """A started gRPC server; raises RuntimeError when the address cannot be had."""
    server = grpc.server(
        futures.ThreadPoolExecutor(max_workers=THREADS, thread_name_prefix="grpc"),
        options=[
            ("grpc.max_send_message_length", MESSAGE_BYTES),
            ("grpc.max_receive_message_length", MESSAGE_BYTES),
            ("grpc.so_reuseport", 0),  # a port that another server holds must be an error
        ],
    )
    modelresponse_pb2_grpc.add_ModelResponseServicer_to_server(service, server)
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    if server.add_insecure_port(address) != port:
        raise RuntimeError(f"gRPC cannot listen on {address}")
    server.start()
    return server


def serve_pages(
    host: str, port: int, info: Callable[[], dict[str, Any]], begin_memory: Callable[[], None] | None = None
) -> ThreadingHTTPServer:
    """``/health`` and ``/info`` in a thread of their own.

    With ``begin_memory``, the latter names the URL to POST to so that memory peaks are counted anew from then on.
    """

    class Pages(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            pages: dict[str, Callable[[], dict[str, Any]]] = {
                "/health": lambda: {"status": "ok"},
                "/info": self._info,
            }
            page = pages.get(self.path)
            self._answer(200 if page else 404, page() if page else {"error": f"no page {self.path}"})

        def do_POST(self) -> None:
            if self.path != RESET or begin_memory is None:
                self._answer(404, {"error": f"nothing to do at {self.path}"})
                return
            begin_memory()
            self._answer(200, {"status": "ok"})

        def _info(self) -> dict[str, Any]:
            if begin_memory is None:
                return info()
            return {**info(), "reset_peaks_url": f"http://{self.headers['host']}{RESET}"}

        def _answer(self, status: int, page: dict[str, Any]) -> None:
            body = json.dumps(page).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Polls are not worth a line."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        if ":" in host:
            import socket

            address_family = socket.AF_INET6

    server = Server((host, port), Pages)
    threading.Thread(target=server.serve_forever, name="pages", daemon=True).start()
    return server
