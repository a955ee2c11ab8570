"""A server with MII's one unary method, which answers as a function says."""

from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from typing import Any

import grpc

from loadgen.drivers import mii_messages as messages

Answer = Callable[[str], dict[str, Any]]  # a prompt → fields of a SingleGenerationReply


@contextmanager
def serving_mii(answer: Answer, host: str = "127.0.0.1") -> Iterator[str]:
    """The URL of such a server."""

    def reply(wire: bytes, _: Any) -> bytes:
        prompts = messages.MultiStringRequest.FromString(wire).request
        answers = [{"finish_reason": "length", **answer(prompt)} for prompt in prompts]
        return bytes(messages.MultiGenerationReply(response=answers).SerializeToString())

    server = grpc.server(futures.ThreadPoolExecutor(2))
    methods = {"GeneratorReply": grpc.unary_unary_rpc_method_handler(reply)}
    handler = grpc.method_handlers_generic_handler("modelresponse.ModelResponse", methods)
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port(f"{host}:0")
    server.start()
    try:
        yield f"grpc://{host}:{port}"
    finally:
        server.stop(0)


def by_ids(prompt: str) -> dict[str, Any]:
    return {"response": "7 8", "prompt_tokens": len(prompt.split()), "generated_tokens": 2}


def by_words(prompt: str) -> dict[str, Any]:
    """A tokenizer of words that reads every digit for itself, behind BOS."""
    count = 1 + sum(len(word) if word.isdecimal() else 1 for word in prompt.split())
    return {"response": "7 8", "prompt_tokens": count, "generated_tokens": 2}
