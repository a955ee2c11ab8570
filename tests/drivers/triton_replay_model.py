"""A Python-backend model that answers with recorded responses of the real FasterTransformer, or with a fault.

Placed in a model repository by the tests. Parameters: ``file`` (the recording), ``variant`` (b: sequence_length without
the padded input width that the recordings of variant a count in). A prompt that begins with 511 asks for a fault.
"""

import json
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
FAULT = 511


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        config = json.loads(args["model_config"])
        parameters = {key: value["string_value"] for key, value in config["parameters"].items()}
        self.decoupled = config["model_transaction_policy"]["decoupled"]
        self.variant = parameters["variant"]
        entries = json.loads(Path(parameters["file"]).read_text())
        self.entries = [entry for entry in entries if bool(entry.get("stream")) == self.decoupled]

    def execute(self, requests: list[Any]) -> Any:
        answers = []
        for request in requests:
            ids, lengths, limits = (
                pb_utils.get_input_tensor_by_name(request, name).as_numpy()
                for name in ("input_ids", "input_lengths", "request_output_len")
            )
            end = pb_utils.get_input_tensor_by_name(request, "end_id")
            end_id = None if end is None else int(end.as_numpy().reshape(-1)[0])
            prompts = [row[:n].tolist() for row, n in zip(ids, lengths.reshape(-1), strict=True)]
            if prompts[0][0] == FAULT:
                sender = request.get_response_sender()
                # In a thread: what hangs must not keep other requests waiting.
                threading.Thread(target=self.fault, args=(sender, prompts[0]), daemon=True).start()
                continue
            rows, entry = self.find(prompts, limits.reshape(-1).tolist(), end_id)
            if self.decoupled:
                sender = request.get_response_sender()
                for response in entry["responses"]:
                    sender.send(self.answer(response, rows, prompts), flags=FINAL if response["final"] else 0)
            else:
                answers.append(self.answer(entry, rows, prompts))
        return None if self.decoupled else answers

    def find(self, prompts: list[list[int]], limits: list[int], end_id: int | None) -> tuple[list[int], Any]:
        """The recorded request; else one that holds these rows among others, as a merged batch does."""
        for entry in self.entries:
            asked = (entry["prompts"], entry["request_output_len"], entry["end_id"])
            if asked == (prompts, limits, end_id):
                return list(range(len(prompts))), entry
        wanted = list(zip(prompts, limits, strict=True))
        for entry in self.entries:
            there = list(zip(entry["prompts"], entry["request_output_len"], strict=True))
            if len(there) > len(wanted) and all(one in there for one in wanted):
                return [there.index(one) for one in wanted], entry
        raise pb_utils.TritonModelException(f"nothing recorded for {prompts} {limits} {end_id}")

    def answer(self, recorded: Any, rows: list[int], prompts: list[list[int]]) -> Any:
        base = max(map(len, prompts)) if self.variant == "b" else 0
        ids = np.array(recorded["output_ids"], np.uint32)[rows]
        lengths = np.array(recorded["sequence_length"], np.uint32)[rows] - np.uint32(base)
        return pb_utils.InferenceResponse(
            [pb_utils.Tensor("output_ids", ids), pb_utils.Tensor("sequence_length", lengths)]
        )

    def fault(self, sender: Any, prompt: list[int]) -> None:
        """Prompt [511, number, tokens…]: misbehave as ``number`` says."""
        number = prompt[1]

        def progress(tokens: int, flags: int = 0) -> None:
            ids = np.array([[prompt + [7] * 30]], np.uint32)
            lengths = np.array([[len(prompt) + tokens]], np.uint32)
            tensors = [pb_utils.Tensor("output_ids", ids), pb_utils.Tensor("sequence_length", lengths)]
            sender.send(pb_utils.InferenceResponse(tensors), flags=flags)

        def words(text: str) -> None:
            sender.send(pb_utils.InferenceResponse([], pb_utils.TritonError(text)), flags=FINAL)

        if number == 0:
            words("FasterTransformer execute failure: [FT][ERROR] before the first token")
        elif number == 1:
            progress(1)
            words("FasterTransformer execute failure: [FT][ERROR] in mid-stream")
        elif number == 2:
            progress(1)
            progress(3, FINAL)
        elif number in (3, 4):
            if number == 3:
                progress(1)
            while not sender.is_cancelled():
                time.sleep(0.01)
            sender.send(flags=FINAL)
        elif number == 5:
            sender.send(flags=FINAL)
        elif number == 6:
            progress(2)
            progress(1, FINAL)
        elif number == 7:
            # What Triton's stub makes of tensors under numpy 2.
            tensors = [
                pb_utils.Tensor("output_ids", np.zeros((1, 1, 0), np.uint32)),
                pb_utils.Tensor("sequence_length", np.zeros((1, 0), np.uint32)),
            ]
            sender.send(pb_utils.InferenceResponse(tensors), flags=FINAL)
