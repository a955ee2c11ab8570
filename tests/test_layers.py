"""Who may import whom, read from the source: a wrong import is a wall moved, and shows here first."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ENGINES = {"torch", "transformers", "accelerate", "deepspeed", "mii", "tritonclient", "pytriton", "vllm"}
NUMPY_SEEDED = {"default_rng", "Generator", "PCG64", "PCG64DXSM", "Philox", "SeedSequence", "BitGenerator"}


@dataclass(frozen=True)
class Import:
    """One imported module; ``lazy`` when a function does it."""

    module: str
    lazy: bool


def source_files() -> dict[str, Path]:
    """Our modules by dotted name; ``servers/`` is imported as ``loadgen.servers``."""
    found = {}
    for folder, package in ((ROOT / "loadgen", "loadgen"), (ROOT / "servers", "loadgen.servers")):
        for path in folder.rglob("*.py"):
            parts = [package, *path.relative_to(folder).with_suffix("").parts]
            found[".".join(part for part in parts if part != "__init__")] = path
    return found


FILES = source_files()
SERVERS = sorted(name for name in FILES if name.startswith("loadgen.servers."))
FRAMEWORKS = [name for name in SERVERS if name.count(".") == 2 and not name.split(".")[2].startswith("_")]
# From the ground up: a room may import the rooms of earlier lines, and its own. The names without a folder are files
# of the root. ``servers`` stands above ``launch``, which finds frameworks by their names alone.
ORDER = """
errors units telemetry_records slo_records workload_records text_table
load_records request_records
urls input_files
records
search_records
identity labels protocols engine_facts
system theory traces metrics results
drivers telemetry profile cluster
load plan
launch hang_watch
servers trial
sweeping analysis selfcheck schemas
live report reproduce
api
commands
cli_tools
cli
"""
FLOORS = {room: floor for floor, line in enumerate(ORDER.split("\n")) for room in line.split()}


def room_of(name: str) -> str:
    """The folder below ``loadgen`` that holds a module, or the module itself where it lies in the root."""
    return name.split(".")[1] if "." in name else ""


def all_imports(name: str) -> set[str]:
    """Our modules that one imports: inside functions and for type checkers, too."""
    found = set()
    package = name if FILES[name].name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(FILES[name].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = ".".join(package.split(".")[: len(package.split(".")) - node.level + 1])
            module = ".".join(filter(None, [above if node.level else "", node.module]))
            for alias in node.names:
                found.add(f"{module}.{alias.name}" if f"{module}.{alias.name}" in FILES else module)
    return {module for module in found if module in FILES and module != "loadgen"}


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Groups of nodes that reach each other, by taking away what imports nothing left and what nobody left imports."""
    left = {node: set(to) - {node} for node, to in graph.items()}
    while True:
        wanted = set().union(*left.values()) if left else set()
        ends = {node for node, to in left.items() if not (to & left.keys()) or node not in wanted}
        if not ends:
            return [sorted(left)] if left else []
        left = {node: to - ends for node, to in left.items() if node not in ends}


def walk(nodes: list[ast.stmt], lazy: bool = False) -> Iterator[tuple[ast.stmt, bool]]:
    """Every statement, and whether a function holds it; what only a type checker reads is left out."""
    for node in nodes:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from walk(node.orelse, lazy)
            continue
        yield node, lazy
        inside = lazy or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for name in ("body", "orelse", "finalbody"):
            yield from walk(getattr(node, name, []), inside)
        for handler in (*getattr(node, "handlers", ()), *getattr(node, "cases", ())):
            yield from walk(handler.body, inside)


def parse_imports(name: str, source: str, is_package: bool) -> list[Import]:
    """What a module's source imports; ``from a import b`` counts as ``a`` and ``a.b``."""
    found = []
    for node, lazy in walk(ast.parse(source).body):
        if isinstance(node, ast.Import):
            found += [Import(alias.name, lazy) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            package = name.split(".") if is_package else name.split(".")[:-1]
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            found += [Import(module, lazy)]
            found += [Import(f"{module}.{alias.name}", lazy) for alias in node.names]
    return found


@cache
def imports(name: str) -> list[Import]:
    path = FILES[name]
    return parse_imports(name, path.read_text(), path.name == "__init__.py")


@cache
def reached(name: str, *, lazy: bool) -> frozenset[str]:
    """All that ``name`` imports, through our own modules as well; with ``lazy``, in functions too."""
    seen: set[str] = set()
    waiting = [name]
    while waiting:
        for found in imports(waiting.pop()):
            if found.module not in seen and (lazy or not found.lazy):
                seen.add(found.module)
                if found.module in FILES:
                    waiting.append(found.module)
    return frozenset(seen)


def breaches(modules: frozenset[str], forbidden: set[str]) -> list[str]:
    """The modules that are, or lie in, a forbidden one."""
    return sorted(m for m in modules if any(m == f or m.startswith(f"{f}.") for f in forbidden))


def under(prefix: str) -> list[str]:
    return sorted(name for name in FILES if name == prefix or name.startswith(f"{prefix}."))


def present(*names: str) -> list[str]:
    return [f"loadgen.{name}" for name in names if f"loadgen.{name}" in FILES]


def test_the_sources_are_found() -> None:
    assert {"loadgen.records", "loadgen.drivers", "loadgen.report.markdown", "loadgen.servers.hf"} <= set(
        FILES
    )


def test_an_import_is_seen_wherever_it_hides() -> None:
    source = """
import a.b as c
try:
    from d import e
except ImportError:
    import f
if TYPE_CHECKING:
    import unseen
def function():
    with x:
        from . import near
class Thing:
    import g
match x:
    case 1:
        import h
"""
    found = parse_imports("loadgen.drivers.one", source, is_package=False)
    eager = {"a.b", "d", "d.e", "f", "g", "h"}
    assert {(i.module, i.lazy) for i in found} == {(name, False) for name in eager} | {
        ("loadgen.drivers", True),
        ("loadgen.drivers.near", True),
    }


def test_circles_are_seen() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}, "e": set()}) == [["b", "c"]]
    assert circles({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def test_no_files_import_each_other_in_a_circle() -> None:
    assert circles({name: all_imports(name) for name in FILES}) == []


def test_no_folders_import_each_other_in_a_circle() -> None:
    rooms: dict[str, set[str]] = {}
    for name in FILES:
        rooms.setdefault(room_of(name), set()).update(map(room_of, all_imports(name)))
    assert circles(rooms) == []


def test_every_room_has_its_floor() -> None:
    assert {room_of(name) for name in FILES} - {""} == set(FLOORS)


@pytest.mark.parametrize("room", FLOORS)
def test_nothing_climbs(room: str) -> None:
    climbing = [
        f"{name} imports {found}"
        for name in FILES
        if room_of(name) == room
        for found in sorted(all_imports(name))
        if room_of(found) != room and FLOORS[room_of(found)] >= FLOORS[room]
    ]
    assert climbing == []


@pytest.mark.parametrize(
    "name",
    present(
        "records",
        "load_records",
        "request_records",
        "telemetry_records",
        "slo_records",
        "workload_records",
        "units",
        "errors",
    ),
)
def test_the_ground_floor_stands_on_nothing_of_ours(name: str) -> None:
    ours = {module for module in reached(name, lazy=True) if module.startswith("loadgen.")}
    assert {".".join(module.split(".")[:2]) for module in ours} <= {
        "loadgen.records",
        "loadgen.load_records",
        "loadgen.request_records",
        "loadgen.telemetry_records",
        "loadgen.slo_records",
        "loadgen.workload_records",
        "loadgen.units",
        "loadgen.errors",
    }


@pytest.mark.parametrize(
    "name",
    [
        name
        for name in [*under("loadgen.plan"), *under("loadgen.metrics"), *present("load.arrivals", "identity")]
    ],
)
def test_pure_rooms_know_no_time_files_or_network(name: str) -> None:
    direct = frozenset(found.module for found in imports(name))
    assert not breaches(
        direct, {"asyncio", "time", "httpx", "socket", "os", "pathlib", "io", "shutil", "tempfile"}
    )
    assert not breaches(reached(name, lazy=False), {"asyncio", "httpx", "socket"})
    assert not impure_calls(FILES[name].read_text())


def impure_calls(source: str) -> list[str]:
    """Calls of ``open`` and of the process-wide random generators."""
    found = []
    modules = {i.module for i in parse_imports("loadgen.any", source, is_package=False)}
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        owner, _, method = called.rpartition(".")
        if called == "open":
            found.append(called)
        if owner == "random" and "random" in modules and method != "Random":
            found.append(called)
        if owner in ("np.random", "numpy.random") and method not in NUMPY_SEEDED:
            found.append(called)
    return found


def test_impure_calls_are_seen() -> None:
    assert impure_calls("import random; random.random(); np.random.rand(3); open('x')") == [
        "random.random",
        "np.random.rand",
        "open",
    ]
    assert impure_calls("import random; random.Random(1).random(); np.random.default_rng(2)") == []


@pytest.mark.parametrize("name", under("loadgen.drivers"))
def test_drivers_only_stamp(name: str) -> None:
    forbidden = {f"loadgen.{room}" for room in ("metrics", "results", "live", "servers", "launch")}
    assert not breaches(reached(name, lazy=True), forbidden)


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_a_framework_module_is_light(name: str) -> None:
    assert not breaches(reached(name, lazy=False), ENGINES)


@pytest.mark.parametrize("name", [name for name in FILES if name not in SERVERS])
def test_the_client_imports_no_engine_at_module_level(name: str) -> None:
    engines = ENGINES - {"tritonclient"} if name.startswith("loadgen.drivers.") else ENGINES
    assert not breaches(reached(name, lazy=False), engines)


@pytest.mark.parametrize("name", under("loadgen.report") + under("loadgen.analysis"))
def test_reading_results_needs_no_server_and_no_network(name: str) -> None:
    rooms = ("load", "launch", "drivers", "servers", "sweeping", "trial")
    assert not breaches(
        reached(name, lazy=True), {"asyncio", "httpx", *(f"loadgen.{room}" for room in rooms)}
    )


def test_nothing_but_servers_imports_servers() -> None:
    outside = [name for name in FILES if not name.startswith("loadgen.servers")]
    assert not [name for name in outside if breaches(frozenset(all_imports(name)), {"loadgen.servers"})]


@pytest.mark.parametrize(
    ("library", "doors"),
    [
        ("rich", {"loadgen.live.screen", "loadgen.live.terminal"}),
        ("tritonclient", {"loadgen.drivers.triton_grpc"}),
        ("jinja2", {"loadgen.report.html", "loadgen.servers._hf.text"}),
        ("plotly", set()),
        ("ray", {"loadgen.cluster.connection"}),
    ],
)
def test_a_library_has_one_door(library: str, doors: set[str]) -> None:
    assert {n for n in FILES if breaches(frozenset(i.module for i in imports(n)), {library})} == doors
