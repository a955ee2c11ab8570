"""What a Prometheus server may answer that is no answer; a real one is asked in test_prometheus.py."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from loadgen.errors import BadInput
from loadgen.telemetry.promql import Prometheus, PrometheusFault, result_of, scrapes_of

GOOD = {"metric": {"__name__": "DCGM_FI_DEV_GPU_TEMP", "UUID": "a"}, "values": [[5.0, "40"]]}


@pytest.mark.parametrize(
    "odd",
    [{"metric": 5}, {"metric": {}}, {"values": [[1e400, "1"]]}, {"values": [["nan", "1"]]}, {"values": [5]}],
    ids=str,
)
def test_a_series_of_another_shape_is_a_fault_of_the_scrape(odd: dict[str, object]) -> None:
    assert len(scrapes_of("u", [GOOD], 0.0, 0, 10**10)) == 1
    with pytest.raises(PrometheusFault, match="another shape"):
        scrapes_of("u", [{**GOOD, **odd}], 0.0, 0, 10**10)


def test_two_engines_under_one_prometheus_are_no_one_engine() -> None:
    running = [
        {
            "metric": {
                "__name__": "vllm:num_requests_running",
                "job": "vllm",
                "instance": host,
                "engine": engine,
            },
            "values": [[at, number]],
        }
        for host, engine, at, number in (("a", "0", 5.0, "6"), ("a", "1", 5.0, "1"), ("b", "0", 5.5, "2"))
    ]
    (alone,) = scrapes_of("u", running[:2], 0.0, 0, 10**10)
    assert alone.readings == (("engine_running", "engine", 7.0),)
    both = scrapes_of("u", [*running, GOOD], 0.0, 0, 10**10)
    assert [each.readings for each in both if each.readings] == [(("gpu_temperature_c", "a", 40.0),)]
    assert {words for each in both for words in each.refused} == {
        "engine_running of 2 targets in turn (name one by the selector)"
    }


@pytest.mark.parametrize("answer", [b"", b"[]", b"{}", b'{"status": "success", "data": {"result": 5}}'])
def test_an_answer_without_a_result_is_a_fault(answer: bytes) -> None:
    with pytest.raises(PrometheusFault):
        result_of(200, answer)


@pytest.mark.parametrize("told", [[], ["x"], [None, "nan"]])
def test_a_time_that_is_none_costs_a_failed_scrape_and_no_trial(told: list[object]) -> None:
    body = json.dumps({"status": "success", "data": {"result": told}}).encode()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            return

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        source = Prometheus(f"http://127.0.0.1:{server.server_port}")
        (scrape,) = source.read(0, 10)
        assert scrape.error is not None
        assert "no time is told" in scrape.error
    finally:
        server.shutdown()
        server.server_close()


def test_nobody_there_is_bad_input() -> None:
    with pytest.raises(BadInput, match="prometheus"):
        Prometheus("http://127.0.0.1:9").check()
