"""All markup is in templates, and what was stored is text on the page, whatever it holds."""

from __future__ import annotations

import ast
import dataclasses
import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import jinja2
import pytest
from synthetic import Point, environment, failed, limited, result, roofline_world, write

from loadgen.analysis.analyse import analyse
from loadgen.load_records import LoadSpec
from loadgen.report import html
from loadgen.report.chart import Figure, bold, said
from loadgen.results import max_batch_log
from loadgen.search_records import MaxBatch, Search

REPORT = Path(html.__file__).parent
TEMPLATES = sorted(path.name for path in (REPORT / "templates").iterdir())
PLOTLY = {"chart.py": {"<br>", "<b>{}</b>", "<extra></extra>"}}  # its own markup, in one place
EVIL = """<!--<script>/* --><x-evil a="1">'" onclick='x' ]]>&lt;\u2028</script></title></style>"""
FREE = ("options", "packages", "errors", "engine")  # whose keys are text, too
# What decides how a line is read or found: kinds, ids, times, and what theory looks up.
READ = re.compile(
    r"\.(load\.kind|dtype|id|environment|environments\.\w*|started|start|stamps|options\.engine)$"
)


def test_python_builds_no_markup() -> None:
    names = {name for text in map(source, TEMPLATES) for name in re.findall(r"<([a-z]\w*)", text)} | {
        "br",
        "i",
    }
    assert len(names) > 30
    markup = re.compile(rf"</|<!doctype|<({'|'.join(names)})\b", re.I)
    for path in sorted(REPORT.rglob("*.py")):
        allowed = PLOTLY.get(path.name, set())
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value not in allowed:
                assert not markup.search(node.value), f"{path.name}:{node.lineno}: {node.value[:80]}"
            elif isinstance(node, ast.Import | ast.ImportFrom):
                module = getattr(node, "module", None)
                imported = {
                    module,
                    *(f"{module}.{each.name}" if module else each.name for each in node.names),
                }
                assert not imported & {"html", "html.escape", "xml.sax.saxutils", "markupsafe.escape"}, (
                    path.name
                )
                assert "markupsafe.Markup" not in imported or path.name == "chart.py", path.name
            elif isinstance(node, ast.Call) and ast.unparse(node.func) == "Markup":
                assert all(isinstance(each, ast.Constant) for each in node.args), f"{path.name}:{node.lineno}"


def source(name: str) -> str:
    return (REPORT / "templates" / name).read_text(encoding="utf-8")


def test_templates_escape_all_but_the_files_of_the_package() -> None:
    templates = html._templates()
    assert templates.autoescape is True
    assert templates.undefined is jinja2.StrictUndefined
    raw = [
        found
        for name in TEMPLATES
        for found in re.findall(r"(\w+) *\| *safe|(autoescape|Markup)", source(name))
    ]
    assert sorted(raw) == [(name, "") for name in ("css", "plotly", "plotly", "script")]
    for name in ("page.css", "page.js", html.PLOTLY):
        assert not re.search(r"</(style|script)|<!--", (REPORT / name).read_text(encoding="utf-8"), re.I)


def test_every_template_is_used() -> None:
    named = ast.walk(ast.parse((REPORT / "html.py").read_text(encoding="utf-8")))
    found = {node.value for node in named if isinstance(node, ast.Constant)}
    for name in TEMPLATES:
        parsed = html._templates().parse(source(name))
        found |= {node.value for node in parsed.find_all(jinja2.nodes.Const)}
    assert set(TEMPLATES) <= found


class Page(HTMLParser):
    """A page's elements, attributes, comments, text, and the data in its scripts."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.attributes: set[str] = set()
        self.comments: list[str] = []
        self.text = ""
        self.scripts: dict[str, str] = {}
        self._script: str | None = None
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}
        self._script = dict(attrs).get("id") or f"script {len(self.tags)}" if tag == "script" else None

    def handle_endtag(self, tag: str) -> None:
        self._script = None

    def handle_comment(self, data: str) -> None:
        self.comments.append(data)

    def handle_data(self, data: str) -> None:
        if self._script is None:
            self.text += data
        else:
            self.scripts[self._script] = self.scripts.get(self._script, "") + data


def evil(value: Any, path: str = "") -> Any:
    """The same with EVIL after every text that does not decide how it is read, and among free keys."""
    if isinstance(value, dict):
        changed = {key: evil(each, f"{path}.{key}") for key, each in value.items()}
        name = path.rpartition(".")[2]
        return changed | ({f"key {EVIL}": 1 if name == "errors" else f"value {EVIL}"} if name in FREE else {})
    if isinstance(value, list):
        return [evil(each, path) for each in value]
    return f"{value} {EVIL}" if isinstance(value, str) and value and not READ.search(path) else value


def stored(folder: Path, change: Any) -> Path:
    """A results folder with something of everything that is told, each text as ``change`` makes it."""
    world = roofline_world()
    found = [result(Point(batch=batch, framework=name), world) for batch in (1, 8) for name in ("hf", "ds")]
    found[0] = dataclasses.replace(found[0], caveats=(limited(),))
    assert found[1].summary is not None
    lost = dataclasses.replace(found[1].summary, requests_failed=1, errors={"Timeout": 1})
    found[1] = dataclasses.replace(
        found[1], summary=lost, caveats=(dataclasses.replace(limited(), client=False),)
    )
    assert found[0].trial.server is not None
    search = Search(
        server=found[0].trial.server, load=LoadSpec(kind="static", input_tokens=8, output_tokens=8)
    )
    most = MaxBatch(
        search=search, environment="", predicted=None, most=8, fits=None, fits_trial=None, out_of_memory=None,
        out_of_memory_trial=None, ended="not served", why="why",
    )  # fmt: skip
    finding = {"id": "mine", "claim": "claimed", "metric": "e2e_s", "expect": "> 0"}
    spoilt = {key: change(text) if key in ("id", "claim") else text for key, text in finding.items()}
    profile = "".join(f"{key} = {json.dumps(text)}\n" for key, text in spoilt.items())
    write(
        folder, [*found, failed(Point(batch=512))], description="told",
        environments=[environment(affinity="0-3", cpu="Test CPU")],
    )  # fmt: skip
    max_batch_log.add_outcome(folder, most)
    for name in ("trials.jsonl", max_batch_log.OUTCOMES):
        lines = [json.loads(line) for line in (folder / name).read_text().splitlines()]
        keep = {"ended": "not served"} if name == max_batch_log.OUTCOMES else {}
        (folder / name).write_text("".join(json.dumps(change(line) | keep) + "\n" for line in lines))
    sweep = json.loads((folder / "sweep.json").read_text())
    sweep = change(sweep) | {
        "trials": sweep["trials"],
        "profile": f"[[finding]]\n{profile}over = {{batch = 1}}\n",
    }
    (folder / "sweep.json").write_text(json.dumps(sweep))
    return folder


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """The page of one folder, and of the same with EVIL in all that is stored."""
    home = tmp_path_factory.mktemp("r")
    folders = (stored(home / "plain", lambda value: value), stored(home / EVIL.replace("/", "|"), evil))
    harmless, spoilt = (html.render(analyse([folder])) for folder in folders)
    return harmless, spoilt


def test_stored_text_makes_no_element_and_loses_nothing(pages: tuple[str, str]) -> None:
    harmless, spoilt = map(Page, pages)
    assert set(spoilt.tags) == set(harmless.tags)
    assert spoilt.attributes == harmless.attributes
    assert spoilt.comments == []
    assert spoilt.tags.count("script") == len(spoilt.scripts) == 4
    assert spoilt.text.count("<x-evil") == spoilt.text.count(EVIL) + spoilt.text.count(EVIL.replace("/", "|"))
    for told in (
        "told", "mine", "claimed", "llama-13b", "ServerOutOfMemory", "CUDA out of memory", "client-cpu",
        "98 % of its core", "--workers 2",
        "box", "Debian", "Test CPU", "0-3", "NVIDIA H200", "580", "13.0", "torch2.11", "abc",
        "loadgen", "hf/generate", "the server: why", "key", "value",
    ):  # fmt: skip
        assert f"{told} {EVIL}" in spoilt.text, told


def texts(data: Any) -> Iterator[str]:
    """Every text in plain data, keys included."""
    if isinstance(data, dict):
        data = [*data, *data.values()]
    if isinstance(data, list):
        for each in data:
            yield from texts(each)
    elif isinstance(data, str):
        yield data


def test_data_in_scripts_keeps_its_text_and_holds_no_markup(pages: tuple[str, str]) -> None:
    scripts = Page(pages[1]).scripts
    for name in ("trial-data", "chart-data"):
        assert not set(scripts[name]) & set("<>&'\u2028\u2029")
    trials, charts = (json.loads(scripts[name]) for name in ("trial-data", "chart-data"))
    assert len(trials["rows"]) == 5
    assert all(EVIL in row["cells"][2] for row in trials["rows"])
    drawn = [text for text in texts(charts) if "x-evil" in text]
    assert drawn
    assert all(said(EVIL) in text and EVIL not in text for text in drawn)


def test_a_chart_alone_is_a_page_too() -> None:
    figure = Figure(
        traces=({"type": "scatter", "name": said(EVIL), "x": [1], "y": [2]},), layout={"width": 5}
    )
    page = Page(html.page_of(EVIL, figure, (640, 480)))
    assert page.tags == ["html", "head", "meta", "style", "body", "div", "script", "script"]
    drawn = list(page.scripts.values())[1]
    assert "x-evil" in drawn
    assert not set(drawn) & set("<\u2028")


def test_plotly_reads_text_as_text() -> None:
    assert said("a <b>", bold("x & y")) == "a &lt;b&gt;<br><b>x &amp; y</b>"
