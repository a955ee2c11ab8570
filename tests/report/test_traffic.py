"""What was sent beside what came: a row and four charts of a trial whose requests differ, and none elsewhere."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from loadgen.analysis.analyse import Analysis, analyse
from loadgen.records import Dist, TrialResult
from loadgen.report.html import render
from loadgen.report.markdown import gather, to_markdown
from loadgen.report.sections import result_tables
from loadgen.report.traffic_charts import traffic_charts
from loadgen.report.traffic_table import predicted_share, traffic_table
from loadgen.request_records import Sample
from loadgen.results.store import Store
from loadgen.workload_records import Cancel, SessionFigures, Sessions, Spread

TURNS = Spread(kind="uniform", least=3, most=3)


def stored(folder: Path, *found: tuple[TrialResult, list[Sample]]) -> Path:
    with Store.create(folder, {"name": "talk"}) as store:
        for result, samples in found:
            writer = store.sample_writer(result.trial.id)
            for sample in samples:
                writer.add(sample)
            writer.close()
            store.append(result)
    return folder


def talk(build: Any) -> tuple[TrialResult, list[Sample]]:
    trial = build.endpoint_trial(
        kind="sessions",
        batch_size=1,
        sessions=Sessions(users=2, turns=TURNS, think_ms=TURNS),
        cancel=Cancel(share=0.1, after_s=1.0),
    )
    samples = []
    for seq in range(30):
        sample = build.sample(seq, sent_ms=100 * seq + 5, due_ms=100 * seq, e2e_ms=150, tokens=(10,))
        sample.input_tokens, sample.session = 10 * (1 + seq % 3), seq // 3
        sample.reply.usage_prompt_tokens = sample.input_tokens + 1
        samples.append(sample)
    samples.append(build.sample(30, sent_ms=3100, phase="warmup"))
    samples.append(build.sample(31, sent_ms=3200, error="Cancelled: after 1 s"))
    asked = Dist(n=30, mean=20.0, stdev=8.0, min=10, p50=20, p90=30, p95=30, p99=None, max=30)
    had = Dist(n=30, mean=10.0, stdev=0.0, min=10, p50=10, p90=10, p95=10, p99=None, max=10)
    result = build.result(
        trial,
        0.15,
        lengths={"input_asked": asked, "output_had": had},
        known_tokens=300,
        cached_tokens=240,
        cached_of_tokens=600,
        requests_cancelled=1,
        session_lag_s=build.dist(0.002),
    )
    told = SessionFigures(begun=11, whole=10, failed=0, not_sent=2, filled=0, cancelled=1, active_mean=1.97)
    return replace(result, sessions=told), samples


@pytest.fixture(scope="module")
def analysis(tmp_path_factory: pytest.TempPathFactory, build: Any) -> Analysis:
    plain = build.result(build.endpoint_trial(batch=4))
    plain = replace(plain, trial=replace(plain.trial, id="plain"))
    folder = tmp_path_factory.mktemp("results") / "talk"
    return analyse([stored(folder, talk(build), (plain, [build.sample()]))])


def test_a_row_says_what_was_sent_and_what_came(build: Any) -> None:
    result, _ = talk(build)
    table = traffic_table([result, build.result(build.trial())])
    assert table is not None
    (row,) = table.rows
    told = dict(zip(table.head, row, strict=True))
    assert told["input asked"] == "20 (10–30)"
    assert told["output had"] == "10 (10–10)"
    assert not {"input had", "left out"} & set(told), "nothing is known of these"
    assert (told["cache predicted"], told["cache had"]) == ("50.0 %", "40.0 %")
    assert told["sessions"] == "11 begun, 10 whole, 1.97 at once"
    assert (told["turns not sent"], told["cancelled"]) == ("2", "1")
    assert told["session lag"].startswith("2.00 ms, ")
    assert "Session lag" in table.note
    assert traffic_table([build.result(build.trial())]) is None


def test_the_predicted_share_of_a_cache(build: Any) -> None:
    plain = build.result(build.trial())
    assert predicted_share(plain) is None
    assert predicted_share(replace(plain, workload={"hit_share": 0.4})) == 0.4
    assert (
        predicted_share(replace(plain, workload={"hit_share": 0.4, "tokens": 200, "hit_tokens": 50})) == 0.25
    )


def test_charts_of_time_and_length(analysis: Analysis) -> None:
    time, lengths, by_input, by_time = (list(chart.choices.values()) for chart in traffic_charts(analysis))
    assert [len(each) for each in (time, lengths, by_input, by_time)] == [1] * 4
    arrivals, in_flight = time[0].traces
    width = arrivals["x"][1] - arrivals["x"][0]
    assert sum(arrivals["y"]) * width == pytest.approx(31, rel=1e-6), "the warm-up is left out"
    assert max(in_flight["y"]) == 2
    named = {trace["name"]: trace for trace in lengths[0].traces}
    assert set(named) == {"input asked", "input had", "output asked", "output had"}
    assert sum(named["input asked"]["y"]) == 31
    assert sum(named["input had"]["y"]) == 30
    ttft, e2e = by_input[0].traces
    assert (ttft["name"], e2e["name"], len(e2e["x"])) == ("TTFT", "E2E", 30)
    assert set(e2e["x"]) == {11.0, 21.0, 31.0}
    assert set(map(lambda value: round(value, 4), e2e["y"])) == {0.155}
    assert set(map(lambda value: round(value, 4), ttft["y"])) == {0.015}
    assert by_time[0].traces[1]["x"][:3] == [0.0, 0.1, 0.2]


def test_each_trial_has_a_picture_of_its_own_by_what_sets_it_apart(build: Any, tmp_path: Path) -> None:
    trials = []
    for number, rate in enumerate((1.0, 2.0, 2.0)):
        one = build.endpoint_trial(kind="poisson", rate=rate, batch_size=1, input_spread=TURNS)
        one = replace(one, id=f"t{number}", repeat=number // 2)
        trials.append(
            (build.result(one, 0.15), [build.sample(k, sent_ms=100 * k) for k in range(number + 2)])
        )
    (time, *_) = traffic_charts(analyse([stored(tmp_path / "rates", *trials)]))
    assert list(time.choices) == ["rate 1", "rate 2", "rate 2, repeat 2"]


def test_page_and_markdown_have_a_section_of_it_where_there_is_some(
    analysis: Analysis, build: Any, tmp_path: Path
) -> None:
    page = render(analysis)
    assert '<h2 id="traffic">Traffic</h2>' in page
    assert 'data-chart="traffic-input"' in page
    assert '"traffic-latency":{"figures"' in page
    plain = stored(tmp_path / "plain", (build.result(build.endpoint_trial(batch=4)), [build.sample()]))
    other = analyse([plain])
    assert traffic_charts(other) == []
    assert 'id="traffic"' not in render(other)
    assert "What was sent" not in to_markdown(gather(plain))
    folder = analysis.sources[0].results
    assert folder is not None
    text = to_markdown(gather(folder.path))
    assert "## What was sent" in text
    assert "11 begun, 10 whole" in text


def test_a_trials_own_tables_tell_of_it(build: Any) -> None:
    result, _ = talk(build)
    rows = {row[0]: row[1] for table in result_tables(result) for row in table.rows}
    assert rows["sessions"] == "11 begun, 10 whole, 0 failed, 1.97 at once"
    assert (rows["turns not sent"], rows["requests cancelled"]) == ("2", "1")
    assert rows["session lag"].startswith("2.00 ms")
