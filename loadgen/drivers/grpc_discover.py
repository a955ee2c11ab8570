"""What answers at a ``grpc://`` URL, asked of the server itself: Triton by its metadata, MII by one small request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from loadgen.drivers.find import driver_factory
from loadgen.drivers.words import OPENING, Words, from_tokenizer, measure
from loadgen.errors import BadInput, BadReply, DriverError, MissingDependency, Refused

TRITON, MII = "triton-grpc", "mii-grpc"
PROTOCOLS = (TRITON, MII)
TRITON_SERVICE = "/inference.GRPCInferenceService/"
FT_INPUTS = frozenset({"input_ids", "input_lengths", "request_output_len"})
FT_VARIANTS = {"Llama": "a", "llama": "b"}  # the backend's model_type
OURS = (
    "loadgen_settings",
    "loadgen_info",
)  # parameters in which a server that loadgen started says what it is
NUMBERS = (101, 202, 303, 404)  # a prompt that only a server of decimal ids counts as four tokens
CONNECT_S = 10.0
ASK_S = 60.0  # for an answer of two tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class GrpcServer:
    """A server that was asked: ``options`` are its driver's, ``engine`` its own words for the results, ``words`` the
    number of words that its prompts are made of (None: of token ids)."""

    protocol: str
    model: str
    options: Mapping[str, Any]
    engine: Mapping[str, Any]
    vocab: int | None = None
    max_context: int | None = None
    words: int | None = None
    chosen: str = field(default="", compare=False)


def discover(
    url: str,
    *,
    protocol: str | None = None,
    model: str | None = None,
    vocab: int | None = None,
    tokenizer: str | None = None,
) -> GrpcServer:
    """Ask the server at ``grpc://HOST:PORT``. What is given is taken for true and not asked for.

    Raises BadInput where nothing answers, or something that is neither Triton's nor MII's, or that needs what was not
    given; MissingDependency without the client library.
    """
    try:
        import grpc
    except ImportError as error:
        raise MissingDependency(
            f"gRPC cannot be spoken: {error}", "pip install 'llm-loadgen[triton]'"
        ) from None
    from loadgen.drivers.grpc_calls import CHANNEL_OPTIONS, address_of

    with grpc.insecure_channel(address_of(url), options=CHANNEL_OPTIONS) as channel:
        try:
            grpc.channel_ready_future(channel).result(timeout=CONNECT_S)
        except grpc.FutureTimeoutError:
            raise BadInput(f"--url {url}: no gRPC server answers there within {CONNECT_S:g} s") from None
        server = _Server(url, channel)
        if protocol is None:
            protocol = TRITON if server.knows(f"{TRITON_SERVICE}ServerMetadata") else MII
        driver_factory(protocol)  # says how to install what it lacks
        if protocol == TRITON:
            return _triton(server, model, vocab)
        return _mii(server, model, vocab, tokenizer)


class _Server:
    """Single calls, with a status as the error that it is."""

    def __init__(self, url: str, channel: Any) -> None:
        self.url, self._channel = url, channel

    def knows(self, method: str) -> bool:
        """Whether the server has a method at all."""
        import grpc

        try:
            self._channel.unary_unary(method)(b"", timeout=ASK_S)
        except grpc.RpcError as error:
            return error.code() is not grpc.StatusCode.UNIMPLEMENTED
        return True

    def ask(self, method: str, message: Any, answer: Any) -> Any:
        """Raises DriverError."""
        import grpc
        from google.protobuf.message import DecodeError

        from loadgen.drivers.grpc_calls import fault

        call = self._channel.unary_unary(method, request_serializer=type(message).SerializeToString)
        try:
            return answer.FromString(call(message, timeout=ASK_S))
        except grpc.RpcError as error:
            raise fault(error.code(), error.details(), answered=False) from None
        except DecodeError as error:
            raise BadReply(f"{method} answers with what is no message of it: {error}") from None


def _triton(server: _Server, model: str | None, vocab: int | None) -> GrpcServer:
    from loadgen.drivers.triton_grpc import messages

    def call(name: str, message: Any, answer: Any) -> Any:
        return server.ask(TRITON_SERVICE + name, message, answer)

    try:
        about = call("ServerMetadata", messages.ServerMetadataRequest(), messages.ServerMetadataResponse)
        index = call(
            "RepositoryIndex", messages.RepositoryIndexRequest(ready=True), messages.RepositoryIndexResponse
        )
        names = [model] if model else sorted({found.name for found in index.models})
        configs = {
            name: call(
                "ModelConfig", messages.ModelConfigRequest(name=name), messages.ModelConfigResponse
            ).config
            for name in names
        }
    except DriverError as error:
        raise BadInput(f"--url {server.url}: Triton refuses to say what it serves: {error}") from None
    speaking = [name for name in names if {tensor.name for tensor in configs[name].input} >= FT_INPUTS]
    if len(speaking) != 1:
        raise BadInput(
            f"--url {server.url}: Triton's models {', '.join(names) or '(none)'}: "
            f"{len(speaking) or 'none'} with FasterTransformer's tensors {', '.join(sorted(FT_INPUTS))} "
            "(accepted: one that --model names)"
        )
    config = configs[speaking[0]]
    parameters = {key: value.string_value for key, value in config.parameters.items()}
    told = _told(parameters)
    vocab = vocab or told.get("vocab")
    merged = config.HasField("dynamic_batching")
    if merged and vocab is None:
        raise BadInput(
            f"--url {server.url}: the server merges requests, and their tokens are then counted by ids alone "
            "(accepted: --vocab with the size of its vocabulary)"
        )
    variant = told.get("variant") or FT_VARIANTS.get(parameters.get("model_type", ""), "a")
    options = {"model": config.name, "variant": variant, "vocab": vocab, "merged": merged}
    return GrpcServer(
        protocol=TRITON,
        model=config.name,
        options={key: value for key, value in options.items() if value is not None},
        engine={
            "server": f"{about.name} {about.version}",
            "backend": config.backend,
            "max_batch": config.max_batch_size,
            "decoupled": config.model_transaction_policy.decoupled,
            "dynamic_batching": merged,
            "variant": variant,
            "parameters": {key: value for key, value in parameters.items() if key not in OURS},
            **told.get("engine", {}),
        },
        vocab=vocab,
        max_context=told.get("max_context"),
        chosen=f"triton-grpc: {about.name} {about.version} says that {config.name} has FasterTransformer's tensors",
    )


def _told(parameters: Mapping[str, str]) -> dict[str, Any]:
    """What a server that loadgen started says in its model's parameters; empty for anybody else's."""
    try:
        settings = orjson.loads(parameters.get("loadgen_settings", "null"))
        info = orjson.loads(parameters.get("loadgen_info", "null"))
        if settings:
            spec = settings["spec"]
            engine = {"framework": "triton", "options": settings["asked"], "dtype": spec["dtype"]}
            model = spec["model"]
            told = {**model, "variant": settings["variant"], "engine": engine | {"model": model["name"]}}
        else:
            told = {**info, "engine": info} if info else {}
    except (ValueError, LookupError, TypeError):
        return {}  # a parameter of that name that is not ours
    counts = {name: value for name in ("vocab", "max_context") if _is_count(value := told.get(name))}
    kept = {name: told[name] for name in ("variant", "engine") if name in told}
    return counts | (kept if kept.get("variant", "a") in FT_VARIANTS.values() else {})


def _is_count(value: object) -> bool:
    return type(value) is int and 0 < value < 1 << 31


def _mii(server: _Server, model: str | None, vocab: int | None, tokenizer: str | None) -> GrpcServer:
    """MII has no page of itself: a prompt of decimal numbers tells a server of ids from one with a tokenizer."""
    from loadgen.drivers import mii_messages as messages

    def reply(text: str) -> Any:
        settings = messages.settings({"max_new_tokens": 2, "ignore_eos": True, "do_sample": False})
        request = messages.MultiStringRequest(request=[text], query_kwargs=settings)
        answer = server.ask(f"{messages.SERVICE}GeneratorReply", request, messages.MultiGenerationReply)
        if len(answer.response) != 1:
            raise Refused(f"one prompt was sent, and {len(answer.response)} answers came")
        return answer.response[0]

    options: dict[str, Any] = {"text": "ids"}
    words: Words | None = None
    try:
        first = reply(" ".join(map(str, NUMBERS)))
        answered = first.response.split()
        as_ids = len(answered) == first.generated_tokens and all(word.isdecimal() for word in answered)
        if first.prompt_tokens != len(NUMBERS) or not as_ids:
            own = from_tokenizer(tokenizer, OPENING) if tokenizer else None
            words = measure(lambda text: int(reply(text).prompt_tokens) or None, own)
            if words is None:
                raise BadInput(f"--url {server.url}: MII counts no prompt tokens (accepted: --tokenizer DIR)")
            options = {"text": "words", "words": words.option()}
    except DriverError as error:
        raise BadInput(
            f"--url {server.url}: neither Triton nor DeepSpeed-MII answers there ({error}); "
            f"accepted: one of them, named by --protocol {' or '.join(PROTOCOLS)}"
        ) from None
    how = "decimal token ids" if words is None else f"words of one token each, {words.overhead} added"
    return GrpcServer(
        protocol=MII,
        model=model or "mii",
        options=options,
        engine={"server": "deepspeed-mii", "prompts": how},
        vocab=vocab,
        words=len(words.words) if words else None,
        chosen=f"mii-grpc: GeneratorReply answers, and counts {how}",
    )
