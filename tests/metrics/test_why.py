from __future__ import annotations

import pytest

from loadgen.metrics.why import explained, remedy


@pytest.mark.parametrize(
    ("error", "hint"),
    [
        ("Refused: 401 Unauthorized: Incorrect API key", "LOADGEN_API_KEY"),
        ("Refused: 404 Not Found: The model `x` does not exist", "--model"),
        ("Refused: 404 Not Found: (nothing)", "--endpoint"),
        ("Refused: 429 Too Many Requests: slow down", "lower the rate"),
        ("Refused: 400 Bad Request: Token id 32000 is out of vocabulary", "--vocab"),
        ("Refused: 400 Bad Request: maximum context length is 2048", "fewer input or output tokens"),
        ("Refused: 422 Unprocessable Entity: Unexpected fields: {'ignore_eos'}", "-o extras=false"),
        ("Refused: 400 Bad Request: prompt must be a string", "--prompt text"),
        ("Refused: 503 Service Unavailable: loading", "server's log"),
        ("ConnectFailed: connection refused", "runs and listens"),
        ("TimedOut: total after 5 s", "time-out"),
        ("WrongLength: asked 6, got 5 (sequence 0)", "without --exact"),
        ("BadReply: not JSON: <html>", "OpenAI-compatible"),
    ],
)
def test_every_usual_error_has_a_remedy(error: str, hint: str) -> None:
    assert hint in remedy(error)


def test_what_nobody_knows_has_none() -> None:
    assert remedy("NoSamples") == ""


def test_the_first_words_of_each_class_are_told() -> None:
    firsts = {"Refused": "Refused: 400 Bad Request: prompt must be a string", "TimedOut": "TimedOut: total"}
    assert explained({"Refused": 63, "TimedOut": 1}, firsts) == (
        "Refused × 63 (400 Bad Request: prompt must be a string), TimedOut × 1 (total); remedy: it takes no token ids: "
        "send text with --prompt text, or --endpoint chat"
    )
    assert explained({"Odd": 2}, {}) == "Odd × 2"
