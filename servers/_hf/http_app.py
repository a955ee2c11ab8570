"""The HTTP side: OpenAI's completions and chat with server-sent events, and what the server says of itself."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Callable
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from loadgen.servers._hf.call import Run
from loadgen.servers._hf.forms import CHAT, COMPLETION, Form
from loadgen.servers._hf.metrics import Metrics
from loadgen.servers._hf.queue import Done, Job, Scheduler
from loadgen.servers._hf.requests import BadRequest, Call, Limits, error_body, parse
from loadgen.servers._hf.text import Text, whole

RESET = "/memory/reset"
STATUS = {"out_of_memory": 500, "server_error": 500, "cancelled": 503}


def build_app(
    device: Scheduler,
    limits: Limits,
    text: Text,
    metrics: Metrics,
    info: Callable[[], dict[str, Any]],
    begin_memory: Callable[[], None] | None = None,
) -> Starlette:
    """The routes; ``info`` is asked at each ``/info``.

    With ``begin_memory``, that page names the URL to POST to so that memory peaks are counted anew from then on.
    """
    answers = [_Answers(form, device, limits, text, metrics) for form in (COMPLETION, CHAT)]

    async def models(_: Request) -> Response:
        model = {
            "id": limits.model,
            "object": "model",
            "owned_by": "loadgen",
            "max_model_len": limits.max_context,
        }
        return JSONResponse({"object": "list", "data": [model]})

    async def health(_: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def about(request: Request) -> Response:
        if begin_memory is None:
            return JSONResponse(info())
        return JSONResponse({**info(), "reset_peaks_url": str(request.url.replace(path=RESET, query=""))})

    async def reset(_: Request) -> Response:
        if begin_memory is None:
            return JSONResponse({"error": "every call counts its own peaks"}, 404)
        begin_memory()
        return JSONResponse({"status": "ok"})

    async def scrape(_: Request) -> Response:
        return Response(metrics.text(), media_type=metrics.content_type)

    return Starlette(
        routes=[
            *(Route(route.form.path, route.handle, methods=["POST"]) for route in answers),
            Route("/v1/models", models),
            Route("/health", health),
            Route("/info", about),
            Route("/metrics", scrape),
            Route(RESET, reset, methods=["POST"]),
        ],
        exception_handlers={HTTPException: _no_such_route},
    )


async def _no_such_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = f"{request.method} {request.url.path}: {error.detail}"
    body = error_body(message, "invalid_request_error", code=error.status_code)
    return JSONResponse(body, error.status_code, error.headers)


class _Answers:
    """One route: calls taken in, their answers put into its form."""

    def __init__(self, form: Form, device: Scheduler, limits: Limits, text: Text, metrics: Metrics) -> None:
        self.form, self.device, self.limits, self.text, self.metrics = form, device, limits, text, metrics

    async def handle(self, request: Request) -> Response:
        try:
            body = await request.body()
            call = parse(body, self.limits, lambda: secrets.randbelow(2**31), chat=self.form.chat)
            self.device.check(call)
        except BadRequest as error:
            self.metrics.refused()
            return JSONResponse(error.body(), error.status)
        except ClientDisconnect:
            return Response(status_code=499)
        head = self.form.head(self.limits.model, call.stream)
        job = Job(call)
        self.device.submit(job)
        if call.stream:
            return await self._stream(job, head)
        return await self._whole(job, head, request)

    async def _whole(self, job: Job, head: dict[str, Any], request: Request) -> Response:
        gone: asyncio.Future[Any] = asyncio.ensure_future(
            request.receive()
        )  # the body is read: what comes next is the client leaving
        got = asyncio.create_task(job.events.get())
        try:
            await asyncio.wait({gone, got}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
            if not got.done():
                got.cancel()
                job.cancelled = True
        if job.cancelled:
            return Response(status_code=499)
        done = got.result()
        assert isinstance(done, Done)
        if done.run is None:
            return JSONResponse(error_body(done.message, done.kind, code=done.kind), STATUS[done.kind])
        choices = [self._choice(done.run, i) for i in range(len(job.call.prompts))]
        return JSONResponse({**head, "choices": choices, "usage": usage(done.run)})

    def _choice(self, run: Run, i: int) -> dict[str, Any]:
        choice = self.form.whole(i, whole(self.text, _shown(run.tokens[i], run.finish[i])), run.finish[i])
        return choice | {"token_ids": run.tokens[i]} if run.call.return_token_ids else choice

    async def _stream(self, job: Job, head: dict[str, Any]) -> Response:
        first = await self._first(job)
        if isinstance(first, Done) and first.run is None:  # nothing was sent yet: a plain error says it best
            return JSONResponse(error_body(first.message, first.kind, code=first.kind), STATUS[first.kind])
        return StreamingResponse(self._events(job, head, first), media_type="text/event-stream")

    async def _first(self, job: Job) -> Any:
        try:
            return await job.events.get()
        except asyncio.CancelledError:
            job.cancelled = True
            raise

    async def _events(self, job: Job, head: dict[str, Any], event: Any) -> AsyncIterator[bytes]:
        """One event per decode step, a choice per sequence in it; then finish reasons, usage if asked, ``[DONE]``."""
        call, growing = job.call, [self.text.sequence() for _ in job.call.prompts]
        opening = self.form.opening()
        try:
            if opening is not None:
                yield sse({**head, "choices": [opening]})
            while not isinstance(event, Done):
                choices = []
                for i, token, finish in event.tokens:
                    piece = "" if finish == "stop" else growing[i].push(token)
                    choice = self.form.piece(i, piece)
                    choices.append(choice | {"token_ids": [token]} if call.return_token_ids else choice)
                yield sse({**head, "choices": choices})
                event = await job.events.get()
            if event.run is None:
                yield sse(error_body(event.message, event.kind, code=event.kind))
                return
            ends = [
                self.form.piece(i, growing[i].flush(), finish) for i, finish in enumerate(event.run.finish)
            ]
            yield sse(
                {**head, "choices": [e | {"token_ids": []} if call.return_token_ids else e for e in ends]}
            )
            if call.include_usage:
                yield sse({**head, "choices": [], "usage": usage(event.run)})
            yield b"data: [DONE]\n\n"
        finally:
            job.cancelled = (
                True  # also when the client left in the middle; means nothing once the call is done
            )


def usage(run: Run) -> dict[str, int]:
    """Token counts over all sequences of the call."""
    prompt, output = prompt_tokens(run.call), sum(map(len, run.tokens))
    return {"prompt_tokens": prompt, "completion_tokens": output, "total_tokens": prompt + output}


def prompt_tokens(call: Call) -> int:
    """Tokens of all prompts of a call."""
    return sum(map(len, call.prompts))


def sse(body: dict[str, Any]) -> bytes:
    """One server-sent event."""
    return b"data: " + json.dumps(body, separators=(",", ":")).encode() + b"\n\n"


def _shown(tokens: list[int], finish: str | None) -> list[int]:
    """The tokens whose text is shown: an end-of-sequence token is counted, but has none."""
    return tokens[:-1] if finish == "stop" else tokens
