"""A stand-in for ``text-generation-server``: no model, but the rules of a shard's protocol, and an end where one is
broken as the real one ends.

It dies without the variables that its launcher sets, and at a request without ``input_chunks``; it has no cache before
its warm-up; it knows batches by their numbers; a sequence that has ended must be filtered before the batch is decoded
again; every rank must get the same calls, and answers for its share. The next token is the last one's number plus one;
``STANDIN_END_EARLY`` ends sequence 0 after so many tokens.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import threading
import time
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc

from loadgen.drivers.tgi_messages import SERVICE, message

LIMIT_S = 10.0
DIES = "a RuntimeError ends the shard"


class Broken(Exception):
    """A rule was broken; ``ends``: the shard with it."""

    def __init__(self, words: str, *, ends: bool = False) -> None:
        super().__init__(words)
        self.ends = ends


class Shard:
    """``word`` → id of the tokenizer; batches by number: sequence → (tokens, wanted, all ids)."""

    def __init__(self, model: str, uds: str) -> None:
        self.uds, self.rank = uds, int(os.environ["RANK"])
        self.ranks = int(os.environ["WORLD_SIZE"])
        os.environ["ATTENTION"], os.environ["PREFIX_CACHING"], os.environ["MASTER_PORT"]  # KeyError without
        self.words = json.loads(Path(model, "tokenizer.json").read_text())["model"]["vocab"]
        self.early = int(os.environ.get("STANDIN_END_EARLY", "0"))
        self.warm = False
        self.calls = 0
        self.batches: dict[int, dict[int, Any]] = {}
        self.ended: dict[int, set[int]] = {}
        self.lock = threading.Lock()

    def together(self) -> None:
        """Collectives: a step waits until every rank has come to it."""
        self.calls += 1
        Path(f"{self.uds}-{self.rank}.steps").write_text(str(self.calls))
        until = time.monotonic() + LIMIT_S
        for other in range(self.ranks):
            path = Path(f"{self.uds}-{other}.steps")
            while not path.exists() or int(path.read_text() or 0) < self.calls:
                if time.monotonic() > until:
                    raise Broken(f"rank {other} has not got this call", ends=True)
                time.sleep(0.001)

    def Info(self, wire: bytes) -> Any:
        return message("InfoResponse")(
            dtype="torch.float16", device_type="cuda", attention_impl=os.environ["ATTENTION"], block_size=1
        )

    def Health(self, wire: bytes) -> Any:
        return message("Empty")()

    def ServiceDiscovery(self, wire: bytes) -> Any:
        urls = [f"unix://{self.uds}-{rank}" for rank in range(self.ranks)]
        return message("ServiceDiscoveryResponse")(urls=urls)

    def Warmup(self, wire: bytes) -> Any:
        asked = message("WarmupRequest").FromString(wire)
        if sum(each.truncate for each in asked.batch.requests) != asked.max_prefill_tokens:
            raise Broken("a warm-up that is not of its greatest size", ends=True)
        self.ids(asked.batch)
        self.together()
        self.warm = True
        return message("WarmupResponse")(max_supported_total_tokens=4 * asked.max_total_tokens)

    def ClearCache(self, wire: bytes) -> Any:
        asked = message("ClearCacheRequest").FromString(wire)
        if wire:
            self.batches.pop(asked.id, None)
        else:
            self.batches.clear()
        return message("Empty")()

    def FilterBatch(self, wire: bytes) -> Any:
        asked = message("FilterBatchRequest").FromString(wire)
        batch = self.batch(asked.batch_id)
        self.batches[asked.batch_id] = {place: batch[place] for place in asked.request_ids}
        self.ended[asked.batch_id] = set()
        return message("FilterBatchResponse")(batch=self.cached(asked.batch_id))

    def Prefill(self, wire: bytes) -> Any:
        asked = message("PrefillRequest").FromString(wire).batch
        if not self.warm:
            raise Broken("no warm-up, so no cache", ends=True)
        if self.batches:
            raise Broken("a batch is there already", ends=True)
        self.batches[asked.id] = {
            request.id: {
                "ids": list(ids),
                "prompt": len(ids),
                "wanted": request.stopping_parameters.max_new_tokens,
            }
            for request, ids in zip(asked.requests, self.ids(asked), strict=True)
        }
        self.ended[asked.id] = set()
        echo = {request.id for request in asked.requests if request.prefill_logprobs}
        return self.step(asked.id, echo)

    def Decode(self, wire: bytes) -> Any:
        (asked,) = message("DecodeRequest").FromString(wire).batches
        self.batch(asked.id)
        if self.ended[asked.id]:
            raise Broken(f"sequences {self.ended[asked.id]} have ended and were not filtered", ends=True)
        return self.step(asked.id, set())

    def batch(self, number: int) -> dict[int, Any]:
        if number not in self.batches:
            raise Broken(f"Batch ID {number} not found in cache.")
        return self.batches[number]

    def ids(self, batch: Any) -> list[list[int]]:
        found = []
        for request in batch.requests:
            if not request.input_chunks.chunks:
                raise Broken("no input_chunks", ends=True)
            if not (request.parameters.temperature and request.parameters.repetition_penalty):
                raise Broken("sampling by zeros", ends=True)
            text = "".join(chunk.text for chunk in request.input_chunks.chunks)
            found.append([self.words[word] for word in text.split()][-request.truncate :])
        return found

    def step(self, number: int, echo: set[int]) -> Any:
        self.together()
        batch, generations = self.batches[number], []
        for place, held in batch.items():
            prompt = held["ids"][: held["prompt"]]
            held["ids"].append((held["ids"][-1] + 1) % len(self.words))
            made = len(held["ids"]) - held["prompt"]
            early = self.early == made and place == 0
            generation: dict[str, Any] = {"request_id": place, "tokens": {"ids": [held["ids"][-1]]}}
            if place in echo:
                generation["prefill_tokens"] = {"ids": prompt}
            if made == held["wanted"] or early:
                self.ended[number].add(place)
                generation["generated_text"] = {"generated_tokens": made, "finish_reason": int(early)}
            if place % self.ranks == self.rank:
                generations.append(generation)
        left = None if len(self.ended[number]) == len(batch) else self.cached(number)
        if left is None:
            del self.batches[number]
        return message("Step")(generations=generations, batch=left, total_ns=1)

    def cached(self, number: int) -> Any:
        places = list(self.batches[number])
        return message("CachedBatch")(id=number, request_ids=places, size=len(places))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("verb", choices=["serve"])
    parser.add_argument("model")
    parser.add_argument("--uds-path", required=True)
    parser.add_argument("--dtype", choices=["float16", "bfloat16"], required=True)
    parser.add_argument("--sharded", action="store_true")
    asked = parser.parse_args()
    shard = Shard(asked.model, asked.uds_path)
    assert asked.sharded is (shard.ranks > 1)

    def handle(name: str) -> Any:
        def answer(wire: bytes, context: Any) -> bytes:
            try:
                with shard.lock:
                    return bytes(getattr(shard, name)(wire).SerializeToString())
            except Broken as error:
                print(f"{name}: {error}" + (f": {DIES}" if error.ends else ""), flush=True)
                if error.ends:
                    os._exit(1)
                context.abort(grpc.StatusCode.UNKNOWN, str(error))
                raise

        return grpc.unary_unary_rpc_method_handler(answer)

    names = [name for name in dir(Shard) if name[0].isupper()]
    server = grpc.server(futures.ThreadPoolExecutor(4))
    service = SERVICE.strip("/")
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(service, {name: handle(name) for name in names}),)
    )
    server.add_insecure_port(f"unix:{asked.uds_path}-{shard.rank}")
    server.start()
    print(f"Server started at unix://{asked.uds_path}-{shard.rank}", flush=True)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    stop.wait()
    server.stop(0)


if __name__ == "__main__":
    main()
