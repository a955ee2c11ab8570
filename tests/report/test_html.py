"""The page in a real browser: charts are drawn, nothing complains, nothing is fetched, the table sorts and filters."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path

import browser as headless
import pytest
from browser import Browser, texts
from synthetic import (
    BATCHES,
    Point,
    World,
    failed,
    grid,
    limited,
    result,
    roofline_world,
    samples_of,
    sweep,
    write,
)

from loadgen.analysis.analyse import Analysis, analyse
from loadgen.analysis.finding import CLAIMS
from loadgen.analysis.winners import answers
from loadgen.errors import StoreError
from loadgen.records import TrialResult
from loadgen.report.html import charts, render, write_html
from loadgen.results.store import Store

needs_browser = pytest.mark.skipif(
    headless.find() is None, reason="no Chromium here: apt-get install chromium"
)

DRAWN = {
    "input",
    "output",
    "output-per-token",
    "batch",
    "rate",
    "ridge",
    "roofline",
    "pareto",
    "timeline",
}
READY = "document.documentElement?.dataset.ready === 'yes'"
NASTY = '</script><script>throw new Error("escaped")</script><b>bold</b> & "quotes"'


def golden(tmp_path: Path) -> Path:
    """Two frameworks, three experiments, and something of everything that can be wrong."""
    hf = roofline_world(plateau_s=60e-3, ridge=600, batch_knee=120)
    ds = roofline_world(plateau_s=25e-3, ridge=300, batch_knee=60)
    points = grid(tp=(1, 2, 4), batch=BATCHES[:8], input_tokens=(20, 128, 512))
    points += grid(tp=(1, 2, 4), batch=BATCHES[:8], output_tokens=(100,))
    points += grid(batch=(1, 16), output_tokens=(200, 500))
    theirs = [dataclasses.replace(point, framework="ds", engine="mii-fastgen") for point in points]
    results = [*sweep(points, hf, repeats=2), *sweep(theirs, ds, repeats=2, seed=5)]
    results.append(failed(Point(batch=512, input_tokens=512)))
    results.append(dataclasses.replace(result(Point(batch=3), hf), caveats=(limited(),)))
    quick = World(prefill=lambda _point: 1e-3, step=lambda _point: 1e-3)
    results.append(result(Point(batch=5, framework="ds", engine="mii-fastgen"), quick))
    return write(tmp_path / "golden", results, description=NASTY)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_html([golden(tmp_path_factory.mktemp("report"))])


@pytest.fixture(scope="module")
def analysis(report: Path) -> Analysis:
    return analyse([report.parent])


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture
def page(browser: Browser, report: Path) -> Browser:
    """The browser with the report open, which it stays from test to test."""
    if browser.run("location.href") != report.resolve().as_uri():
        browser.open(report, ready=READY)
    return browser


def scroll_to(page: Browser, id: str) -> None:
    page.run(f"document.getElementById({id!r}).scrollIntoView()")


@needs_browser
def test_every_chart_is_drawn_when_it_comes_into_view(page: Browser, tmp_path: Path) -> None:
    sections = page.run(
        "Array.from(document.querySelectorAll('.chart[data-chart]')).map((e) => e.dataset.chart)"
    )
    assert set(sections) == DRAWN
    for name in sections:
        scroll_to(page, f"chart-{name}")
        page.wait(f"document.getElementById('chart-{name}').querySelector('svg.main-svg') !== null")
        traces = page.run(f"document.getElementById('chart-{name}').querySelector('.plot').data.length")
        assert traces >= 1
        marks = page.run(
            f"document.getElementById('chart-{name}').querySelectorAll('.points path, .lines path').length"
        )
        assert marks > 0, name
        for axis in ("xtick", "ytick"):
            shown = page.run(
                f"Array.from(document.querySelectorAll('#chart-{name} .plot')).map((plot) =>"
                f" Array.from(plot.querySelectorAll('.{axis} text')).filter((e) => e.textContent.trim()).length)"
            )
            assert min(shown) >= 2, (name, axis)
        assert page.screenshot(tmp_path / f"{name}.png").stat().st_size > 20_000
    page.wait("document.fonts.status === 'loaded'")
    assert page.problems() == []
    assert page.requests() == []


@needs_browser
def test_theory_and_intervals_are_beside_the_measurement(page: Browser) -> None:
    scroll_to(page, "chart-input")
    page.wait("document.querySelector('#chart-input .plot')?.data !== undefined")
    assert page.run("document.querySelectorAll('#chart-input .errorbar path').length") > 10
    names = page.run("document.querySelector('#chart-input .plot').data.map((t) => t.name)")
    assert "floor" in names
    assert {f"batch {batch}" for batch in BATCHES[:8]} <= set(names)
    dashes = page.run(
        "document.querySelector('#chart-input .plot').data.filter((t) => t.line?.dash === 'dot').length"
    )
    assert dashes == 8


@needs_browser
def test_the_answer_and_the_front_are_the_first_screen_and_the_rest_is_near(page: Browser) -> None:
    tops = page.run(
        "Array.from(document.querySelectorAll('.answers, #chart-pareto .plot, h2[id]'))"
        ".map((e) => e.getBoundingClientRect().top + scrollY)"
    )
    assert tops == sorted(tops)
    assert tops[1] < 900 - 300
    assert tops[-1] < 20 * 900, "to the table of trials"
    assert page.run("document.documentElement.scrollWidth <= window.innerWidth")


@needs_browser
def test_a_part_of_an_axis_is_numbered_and_nothing_is_sent_to_the_makers_of_the_library(
    page: Browser,
) -> None:
    scroll_to(page, "chart-pareto")
    page.wait("document.querySelector('#chart-pareto .plot')?.data !== undefined")
    steps = "Array.from(document.querySelectorAll('#chart-pareto .ytick text')).map((e) => e.textContent)"
    whole = page.run(steps)
    assert 3 <= len(whole) <= 9
    assert all(text.endswith("s") for text in whole)
    plot = "document.querySelector('#chart-pareto .plot')"
    page.run(f"(([low, high]) => void Plotly.relayout({plot}, {{'yaxis.range[0]': low, 'yaxis.range[1]': low +"
             f" (high - low) / 50}}))({plot}.layout.yaxis.range.slice())")  # fmt: skip
    page.wait(f"{plot}.layout.yaxis.tickmode === 'auto' && {steps}.length >= 2")
    page.run("document.querySelector('#chart-pareto [data-attr=zoom][data-val=reset]').click()")
    page.wait(f"{plot}.layout.yaxis.tickmode === 'array' && String({steps}) === {','.join(whole)!r}")
    assert page.run("document.querySelectorAll('#chart-pareto .modebar-btn').length") == 4


@needs_browser
def test_choices_and_scales_redraw(page: Browser) -> None:
    scroll_to(page, "chart-batch")
    page.wait("document.querySelector('#chart-batch .plot')?.data !== undefined")
    first = page.run("document.querySelector('#chart-batch .plot').data[0].y[0]")
    assert page.run("document.querySelectorAll('#chart-batch option').length") >= 4
    page.run(
        "(() => { const s = document.querySelector('#chart-batch select');"
        "s.value = s.options[s.options.length - 1].value; s.dispatchEvent(new Event('change')); })()"
    )
    page.wait(f"document.querySelector('#chart-batch .plot').data[0].y[0] !== {first}")
    assert page.run("document.querySelector('#chart-batch .plot').layout.yaxis.type") == "log"
    page.run("document.querySelector('#chart-batch button.scale').click()")
    page.wait("document.querySelector('#chart-batch .plot').layout.yaxis.type === 'linear'")


@needs_browser
def test_the_table_sorts_and_filters(page: Browser, report: Path) -> None:
    assert len(texts(page, "#trials tbody tr")) == 100  # a page of them
    page.run("document.querySelectorAll('#trials th')[9].click()")  # end-to-end p50
    shown = page.run("document.querySelectorAll('#trials th')[9].getAttribute('aria-sort')")
    assert shown == "ascending"
    column = texts(page, "#trials tbody tr td:nth-child(10)")
    seconds = [
        float(text.split()[0]) * {"s": 1.0, "ms": 1e-3}[text.split()[1]] for text in column if text != "–"
    ]
    assert seconds == sorted(seconds)
    page.run(
        "(() => { const f = document.getElementById('filter'); f.value = 'mii-fastgen tp 4'; "
        "f.dispatchEvent(new Event('input')); })()"
    )
    servers = texts(page, "#trials tbody tr td:nth-child(2)")
    assert servers
    assert set(servers) == {"ds/mii-fastgen"}
    page.run(
        "(() => { const f = document.getElementById('filter'); f.value = 'client'; "
        "f.dispatchEvent(new Event('input')); })()"
    )
    assert page.run("document.querySelectorAll('#trials tr.limited').length") == 1
    assert page.problems() == []


@needs_browser
def test_light_dark_and_print(page: Browser, tmp_path: Path) -> None:
    page.run("window.scrollTo(0, 0)")
    colours = set()
    for scheme in ("light", "dark"):
        page.prefer(scheme)
        colours.add(page.run("getComputedStyle(document.body).backgroundColor"))
    assert len(colours) == 2
    page.run("document.getElementById('theme').click()")  # dark by preference, now light by choice
    assert page.run("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    printed = page.pdf(tmp_path / "page.pdf").read_bytes()
    assert len(re.findall(rb"/Type\s*/Page\b", printed)) > 5
    assert page.problems() == []


def test_the_page_says_the_same_without_a_browser(report: Path) -> None:
    text = report.read_text(encoding="utf-8")
    assert report.stat().st_size < 2.2e6, "of which the library is 1.2"
    body = text.split("<footer>")[0]
    assert not re.findall(r'(?:src|href)=(?!"#)|@import|url\(', body)
    assert "connect-src" not in body
    assert "default-src 'none'" in body
    sections = ("answer", "servers", "charts", "findings", "memory", "doubts", "environment", "all")
    places = [body.index(f'id="{name}"') for name in sections]
    assert places == sorted(places)
    for id in CLAIMS:
        assert f'<tr class="finding" id="{id}">' in body
    assert "impossible: 1 trial<" in body
    assert "the load generator was the limit: 1 trial<" in body
    assert "failed in measured: 1 trial<" in body
    assert "GPU memory was not measured" in body
    assert "dashes are unknown, not zero" in body


def test_impossible_points_are_in_no_chart(analysis: Analysis) -> None:
    wrong = next(row for row in analysis.rows if row.flags)
    value = wrong.values["e2e_s"]
    for chart in charts(analysis):
        if chart.id == "timeline":
            continue  # it shows what happened, doubtful trials by name
        for figure in chart.choices.values():
            for trace in figure.traces:
                assert value not in (trace.get("y") or ()), chart.id


def test_figures_are_valid_for_plotly(analysis: Analysis) -> None:
    graph_objects = pytest.importorskip("plotly.graph_objects")
    for chart in charts(analysis):
        for figure in chart.choices.values():
            graph_objects.Figure(figure.plain())  # raises on an unknown attribute


def test_absent_data_is_said_not_drawn(tmp_path: Path) -> None:
    folder = write(tmp_path / "one", [result(Point(), roofline_world(plateau_s=60e-3))], samples=False)
    text = render(analyse([folder]))
    assert text.count("Not drawn: ") >= 8
    assert 'data-chart="input"' not in text
    assert 'id="findings"' not in text, "no claim is decided"


def test_a_lone_trial_opens_with_its_own_figures(tmp_path: Path) -> None:
    folder = write(tmp_path / "one", [result(Point(), roofline_world())])
    head, rest = render(analyse([folder])).split("</header>")
    assert "E2E latency" in head
    assert 'data-chart="timeline"' in head
    assert 'data-chart="timeline"' not in rest
    assert rest.count('<details class="section"') == 5
    assert "Who wins" not in head


@needs_browser
@pytest.mark.parametrize("failed_requests", [0, 3])
def test_a_lone_trials_page_is_one_screen(browser: Browser, tmp_path: Path, failed_requests: int) -> None:
    """Its folded sections among it: they lie in a line, and a link opens one."""
    one = result(Point(batch=8, output_tokens=100), roofline_world())
    assert one.summary is not None
    summary = dataclasses.replace(
        one.summary, requests_failed=failed_requests, errors={"TimedOut": failed_requests}
    )
    one = dataclasses.replace(one, summary=summary, caveats=(limited(),))
    out = write_html([write(tmp_path / "one", [one], description="loadgen run http://127.0.0.1:8000")])
    browser.prefer("light")
    for width, height, most in ((1400, 1000, 1.0), (390, 844, 2.0)):
        browser.resize(width, height)
        browser.open(out, ready=READY)
        browser.wait("document.querySelector('.plot svg.main-svg') !== null")
        assert browser.run("document.documentElement.scrollWidth <= window.innerWidth")
        assert browser.run("document.documentElement.scrollHeight") <= most * height
    browser.run("location.hash = 'doubts'")
    browser.wait("document.getElementById('doubts').open")
    assert browser.problems() == []
    assert browser.requests() == []


def test_the_answer_comes_from_the_job_that_most_share(report: Path, analysis: Analysis) -> None:
    text = report.read_text(encoding="utf-8")
    head = text.split("</header>")[0]
    found = answers(analysis.study)
    assert [each.goal for each in found] == ["lowest latency", "most tokens/s", "most tokens/s per GPU"]
    for each in found:
        assert f"<b>{each.server}</b>{each.sentence.removeprefix(each.server)}" in head
        assert each.told
        assert each.server.startswith("ds/mii-fastgen")
    for server in {f"{name} tp {tp}" for name in ("hf/generate", "ds/mii-fastgen") for tp in (1, 2, 4)}:
        assert f'"name":"{server}"' in text, "in the front"
    assert "1 failed, 2 more kept out" in head


def test_an_empty_folder_has_a_report(tmp_path: Path) -> None:
    text = render(analyse([write(tmp_path / "empty", [])]))
    assert "0 trials" in text
    assert "No trial may speak" in text


def test_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError):
        write_html([tmp_path / "nothing"])


def thousand(tmp_path: Path) -> Path:
    """1,000 trials of 1,000 samples: one sample file, linked under every trial's name."""
    world = roofline_world(plateau_s=60e-3, ridge=1200, batch_knee=120)
    points = grid(tp=(1, 2, 4), batch=BATCHES, input_tokens=(20, 64, 128, 512))
    points += grid(tp=(1, 2, 4), batch=BATCHES[:9], output_tokens=(50, 100))
    points += [dataclasses.replace(point, framework="ds", engine="mii-fastgen") for point in points]
    results: list[TrialResult] = sweep(points[:334], world, repeats=3)[:1000]
    folder = write(tmp_path / "thousand", results, samples=False)
    kept: Path | None = None
    with Store.create(folder, {"name": "thousand", "trials": []}) as store:
        for each in results:
            target = store.samples_path(each.trial.id)
            if kept is None:
                writer = store.sample_writer(each.trial.id)
                for sample in samples_of(each, 1000):
                    writer.add(sample)
                writer.close()
                kept = target
            else:
                target.hardlink_to(kept)
    return folder


@pytest.mark.timeout(30)  # what a report may take; it takes about two seconds
def test_a_thousand_trials_and_a_million_samples(tmp_path: Path) -> None:
    found = analyse([thousand(tmp_path)])
    assert len(found.rows) == 1000
    assert len(render(found).encode()) < 5e6


def test_timelines_are_thinned(analysis: Analysis) -> None:
    timeline = next(chart for chart in charts(analysis) if chart.id == "timeline")
    assert 2 <= len(timeline.choices) <= 12
    for figure in timeline.choices.values():
        assert all(len(trace["x"]) <= 1200 for trace in figure.traces)
        assert figure.layout["shapes"], "the warm-up is shaded"
