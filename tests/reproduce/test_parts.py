"""The shipped parts of the reproduction: each plans one server, fits into memory, and leaves out only what does not."""

from __future__ import annotations

import os
import re
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from loadgen.errors import BadInput
from loadgen.profile.read import load_profile
from loadgen.records import ServerSpec, Trial
from loadgen.reproduce import parts
from loadgen.reproduce.parts import Part
from loadgen.theory.models import kv_bytes_per_token, weight_bytes

ROOT = Path(__file__).resolve().parents[2] / "profiles/reproduce"
MEMORY = 0.95 * 139.8 * 2**30
NOT_TOLD = {"engine", "kv_tokens"}  # the one is the word before, the other sizes a reservation
BLOCK = 64  # tokens in a block of FastGen's cache at llama's head dimension
IDS = sorted(file.relative_to(ROOT).with_suffix("").as_posix() for file in ROOT.rglob("*.toml"))
BRIEF = [id_ for id_ in IDS if id_.startswith("brief/")]
CORE = [id_ for id_ in IDS if id_.startswith("core/")]
FINE = [id_ for id_ in IDS if id_.startswith("fine/")]
FULL = [id_ for id_ in IDS if id_.startswith("full/")]


@pytest.fixture(scope="module")
def every(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Part]:
    return {part.id: part for part in parts.find(ROOT, (), (), tmp_path_factory.mktemp("out"))}


def server_of(part: Part) -> ServerSpec:
    (group,) = part.plan.groups()
    assert group[0] is not None
    return group[0]


def needed_bytes(server: ServerSpec, batch: int, input_tokens: int, output_tokens: int) -> float:
    """Weights, KV cache, and while the prompts are read four rows of hidden and three of MLP width per token."""
    model = server.model
    activations = batch * input_tokens * (3 * model.intermediate / server.tp + 4 * model.hidden) * 2
    cache = kv_bytes_per_token(model, server.dtype, server.tp, server.pp) * batch
    weights = weight_bytes(model, server.dtype, server.tp, server.pp)
    return weights + cache * (input_tokens + output_tokens) + activations


def fits(server: ServerSpec, batch: int, input_tokens: int, output_tokens: int) -> bool:
    if (capacity := server.options.get("kv_tokens")) is not None:
        blocks = -(-(input_tokens + output_tokens) // BLOCK)
        return batch * blocks * BLOCK <= int(capacity)
    return needed_bytes(server, batch, input_tokens, output_tokens) <= MEMORY


def shape(trial: Trial) -> tuple[int, int, int]:
    return trial.load.batch_size, trial.load.input_tokens, trial.load.output_tokens


@pytest.mark.parametrize("id_", IDS)
def test_a_part_is_one_server_named_for_what_it_is(id_: str, every: dict[str, Part]) -> None:
    part, server = every[id_], server_of(every[id_])
    words = re.fullmatch(r"\d\d-(65b-)?(hf|ds|triton|ft)(-[a-z]+)?(-tuned)?-(tp|pp)(\d)", part.name)
    assert words is not None
    big, framework, engine, tuned, split, size = words.groups()
    assert server.model.name == ("llama-65b" if big else "llama-13b")
    assert server.framework == framework
    assert str(server.options.get("engine", "")).endswith((engine or "").removeprefix("-"))
    own = {name: value for name, value in server.options.items() if name not in NOT_TOLD}
    weights = {"weights": "written"} if framework == "ft" else {}
    assert own == ({"tuned": True, "cuda_graph": True} if tuned else weights)
    assert (server.tp, server.pp) == ((int(size), 1) if split == "tp" else (1, int(size)))
    assert part.gpus == int(size)
    assert server.dtype == ("float16" if framework == "ft" else "bfloat16")
    assert load_profile(str(part.file)).name == part.name


@pytest.mark.parametrize("id_", IDS)
def test_every_cell_fits_and_every_cell_left_out_does_not(id_: str, every: dict[str, Part]) -> None:
    part = every[id_]
    server, planned = server_of(part), set(map(shape, part.plan.trials))
    assert [cell for cell in planned if not fits(server, *cell)] == []
    left_out: set[tuple[int, int, int]] = set()
    for block in tomllib.loads(part.file.read_text())["sweep"]:
        left_out |= {cell for cell in product(block) if cell not in planned}
    assert [cell for cell in left_out if fits(server, *cell)] == []


def product(block: dict[str, Any]) -> list[tuple[int, int, int]]:
    keys = ("batch_size", "input_tokens", "output_tokens")
    batches, inputs, outputs = (v if isinstance(v := block[key], list) else [v] for key in keys)
    return [(b, i, o) for b in batches for i in inputs for o in outputs]


@pytest.mark.parametrize("id_", [id_ for id_ in IDS if "fastgen" in id_])
def test_the_cache_of_fastgen_leaves_room_for_the_weights(id_: str, every: dict[str, Part]) -> None:
    server = server_of(every[id_])
    cache = int(server.options["kv_tokens"]) * kv_bytes_per_token(server.model, server.dtype, server.tp)
    assert weight_bytes(server.model, server.dtype, server.tp) + cache <= MEMORY


@pytest.mark.parametrize(
    ("wider", "narrower"),
    [(id_, id_.replace("full/", "core/")) for id_ in FULL]
    + [(id_.replace("fine/", "full/"), id_) for id_ in FINE]
    + [(id_.replace("brief/", "core/"), id_) for id_ in BRIEF],
)
def test_a_wider_tier_finds_the_narrower_ones_trials_done(
    wider: str, narrower: str, every: dict[str, Part]
) -> None:
    assert every[narrower].folder == every[wider].folder
    ids = {trial.id for trial in every[wider].plan.trials}
    assert {trial.id for trial in every[narrower].plan.trials} < ids


def test_a_library_that_is_not_here_leaves_its_parts_out_with_a_word(every: dict[str, Part]) -> None:
    assert {part.name for part in every.values() if "-ft-" in part.id} == {
        "17-ft-tp1",
        "27-ft-tp2",
        "47-ft-tp4",
    }
    for id_, part in every.items():
        if "-ft-" in id_ and not os.environ.get("LOADGEN_FT_BACKEND_DIR"):
            assert part.lacks is not None
            assert part.lacks.startswith("no libtriton_fastertransformer.so")


def test_tiers_have_the_same_parts_but_for_the_large_model_and_triton() -> None:
    names = {id_.removeprefix("full/") for id_ in FULL}
    common = {name for id_ in CORE if not re.search("65b|-ft-", name := id_.removeprefix("core/"))}
    assert common == names
    assert {id_.removeprefix("brief/") for id_ in BRIEF} == {name for name in names if "triton" not in name}
    assert len(names) == 18


@pytest.mark.parametrize("id_", [id_ for id_ in IDS if "tuned" in id_])
def test_a_tuned_part_is_the_plain_one_but_for_its_options(id_: str, every: dict[str, Part]) -> None:
    plain = re.sub(r"/(\d)6-(65b-)?ds-fastgen-tuned-", r"/\g<1>2-\g<2>ds-fastgen-", id_)
    assert plain != id_
    spec, other = server_of(every[id_]), server_of(every[plain])
    assert replace(spec, options=other.options) == other
    assert spec.options == {**other.options, "tuned": True, "cuda_graph": True}
    loads = [(trial.load, trial.repeat) for trial in every[id_].plan.trials]
    assert loads == [(trial.load, trial.repeat) for trial in every[plain].plan.trials]


def test_repeats_are_passes_so_that_an_early_end_leaves_the_most_cells(every: dict[str, Part]) -> None:
    for part in every.values():
        repeats = [trial.repeat for trial in part.plan.trials]
        assert repeats == sorted(repeats)
        assert set(repeats) <= {0, 1} if part.tier in ("brief", "fine") else set(repeats) == {0, 1, 2}


def test_parts_are_chosen_by_id_name_or_glob(tmp_path: Path) -> None:
    def chosen(*patterns: str) -> list[str]:
        return [part.id for part in parts.find(ROOT, patterns, (), tmp_path)]

    assert chosen("core/10-hf-generate-tp1") == ["core/10-hf-generate-tp1"]
    assert chosen("10-hf-generate-tp1") == [
        f"{tier}/10-hf-generate-tp1" for tier in ("brief", "core", "full")
    ]
    assert chosen("core/*") == CORE
    assert chosen("core/*-pp4", "core/14*") == ["core/14-triton-generate-tp1", "core/45-hf-generate-pp4"]
    with pytest.raises(BadInput, match=r"--parts nothing: matches no part .*brief/10-hf"):
        chosen("core/*", "nothing")


def test_a_folder_without_parts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no parts there"):
        parts.find(tmp_path, (), (), tmp_path)


def test_the_shipped_parts_are_found_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shipped = parts.home(None)
    assert sorted(file.name for file in shipped.rglob("*.toml")) == sorted(
        f"{Path(id_).name}.toml" for id_ in IDS
    )
    (tmp_path / "profiles/reproduce").mkdir(parents=True)
    assert parts.home(None) == Path("profiles/reproduce")
    assert parts.home(tmp_path) == tmp_path
