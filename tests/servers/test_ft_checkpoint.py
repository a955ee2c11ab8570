"""The checkpoint writer against the golden checksums, and everything that it must refuse."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from loadgen.errors import BadInput
from loadgen.records import ModelSpec
from loadgen.servers._ft import checkpoint
from loadgen.servers._ft import layout as ft
from loadgen.theory import models

GOLDEN = Path(__file__).parents[1] / "data" / "ft-golden"
TINY = dataclasses.replace(models.resolve("tiny"), layers=2, kv_heads=4)


def write(
    spec: ModelSpec, out: Path, *, tp: int = 1, variant: str = "a", dtype: str = "fp16", replace: bool = False
) -> checkpoint.Written:
    return checkpoint.convert(spec, checkpoint.layout_of(spec, tp, variant, dtype), out, replace=replace)


def files_of(folder: Path) -> dict[str, dict[str, object]]:
    found: dict[str, dict[str, object]] = json.loads((folder / checkpoint.MANIFEST).read_text())["files"]
    return found


@pytest.mark.parametrize(("model", "variant"), [("mha", "a"), ("mha", "b"), ("gqa", "b")])
@pytest.mark.parametrize("tp", [1, 2])
def test_reproduces_the_golden_checksums(model: str, variant: str, tp: int, tmp_path: Path) -> None:
    written = write(models.resolve(str(GOLDEN / model)), tmp_path, tp=tp, variant=variant)
    golden = json.loads((GOLDEN / f"{model}-manifest.json").read_text())
    expected = {name.split("/")[1]: entry for name, entry in golden.items() if name.startswith(f"{tp}-gpu/")}
    assert expected
    assert files_of(written.folder) == expected
    on_disk = {path.name for path in written.folder.glob("*.bin")}
    assert on_disk == set(expected)
    assert checkpoint.check(written.folder) == []


def test_config_ini_has_every_key_the_backend_requires(tmp_path: Path) -> None:
    a = write(models.resolve(str(GOLDEN / "mha")), tmp_path / "a").folder / "config.ini"
    assert a.read_text() == (
        "[llama]\nmodel_name = mha\nhead_num = 4\nsize_per_head = 32\ninter_size = 256\nnum_layer = 2\n"
        "vocab_size = 512\nrotary_embedding = 32\nlayernorm_eps = 1e-06\nstart_id = 1\nend_id = 2\n"
        "weight_data_type = fp16\n"
    )
    b = write(models.resolve(str(GOLDEN / "gqa")), tmp_path / "b", variant="b").folder / "config.ini"
    assert b.read_text().endswith("kv_head_num = 2\nrope_theta = 500000.0\nrope_scaling_factor = 1.0\n")


def test_the_ranks_make_up_the_whole(tmp_path: Path) -> None:
    spec = models.resolve(str(GOLDEN / "gqa"))
    whole, cut = (write(spec, tmp_path, tp=tp, variant="b", dtype="fp32").folder for tp in (1, 2))

    def read(folder: Path, name: str, rows: int) -> np.ndarray:
        return np.fromfile(folder / name, "<f4").reshape(rows, -1)

    qkv = "model.layers.1.attention.query_key_value.weight.{}.bin"
    q, k, v = np.split(read(whole, qkv.format(0), 128), [128, 192], axis=1)
    for rank in (0, 1):
        expected = np.concatenate([np.split(part, 2, axis=1)[rank] for part in (q, k, v)], axis=1)
        np.testing.assert_array_equal(read(cut, qkv.format(rank), 128), expected)
    down = "model.layers.0.mlp.down_proj.weight.{}.bin"
    joined = np.concatenate([read(cut, down.format(rank), 128) for rank in (0, 1)])
    np.testing.assert_array_equal(joined, read(whole, down.format(0), 256))


def test_a_second_write_re_uses_and_another_source_does_not_overwrite(tmp_path: Path) -> None:
    first = write(TINY, tmp_path)
    stamp = (first.folder / "config.ini").stat().st_mtime_ns
    again = write(TINY, tmp_path)
    assert (first.reused, again.reused) == (False, True)
    assert (again.folder / "config.ini").stat().st_mtime_ns == stamp
    other = dataclasses.replace(TINY, rms_eps=1e-6)
    with pytest.raises(BadInput, match="was not made of this model"):
        write(other, tmp_path)
    assert not write(other, tmp_path, replace=True).reused
    assert "1e-06" in (first.folder / "config.ini").read_text()


def test_a_damaged_folder_is_written_again_when_asked(tmp_path: Path) -> None:
    folder = write(TINY, tmp_path).folder
    (folder / "model.wte.weight.bin").unlink()
    with pytest.raises(BadInput, match="remove it"):
        write(TINY, tmp_path)
    assert not write(TINY, tmp_path, replace=True).reused
    assert checkpoint.check(folder) == []


def test_a_touched_source_is_not_taken_for_the_old_one(tmp_path: Path) -> None:
    source = tmp_path / "model"
    shutil.copytree(GOLDEN / "mha", source)
    write(models.resolve(str(source)), tmp_path / "out")
    weights = source / "model.safetensors"
    raw = bytearray(weights.read_bytes())
    raw[-1000] ^= 1
    weights.write_bytes(raw)
    assert not write(models.resolve(str(source)), tmp_path / "out", replace=True).reused


def test_check_names_each_missing_short_and_altered_file(tmp_path: Path) -> None:
    folder = write(TINY, tmp_path, tp=2).folder
    (folder / "model.layers.0.attention.dense.weight.1.bin").unlink()
    short = folder / "model.lm_head.weight.bin"
    short.write_bytes(short.read_bytes()[:-2])
    altered = folder / "model.layers.1.mlp.up_proj.weight.0.bin"
    raw = bytearray(altered.read_bytes())
    raw[7] ^= 0x40
    altered.write_bytes(raw)
    problems = checkpoint.check(folder)
    assert len(problems) == 3
    assert any("dense.weight.1.bin: missing" in problem for problem in problems)
    assert any(f"lm_head.weight.bin: {1024 * 128 * 2 - 2} bytes" in problem for problem in problems)
    assert any("up_proj.weight.0.bin: its content" in problem for problem in problems)
    assert len(checkpoint.check(folder, contents=False)) == 2


def test_check_reads_a_folder_without_a_manifest(tmp_path: Path) -> None:
    folder = write(TINY, tmp_path).folder
    (folder / checkpoint.MANIFEST).unlink()
    assert checkpoint.check(folder) == []
    ini = folder / "config.ini"
    ini.write_text(ini.read_text().replace("inter_size = 352\n", ""))
    (problem,) = checkpoint.check(folder)
    assert problem.startswith("config.ini: inter_size is missing")  # whose folder is told by who shows it


def test_nothing_is_left_of_a_write_that_fails(tmp_path: Path) -> None:
    source = tmp_path / "model"
    shutil.copytree(GOLDEN / "mha", source)
    big = np.full((512, 128), 1e30, "<f4")
    rewrite(source / "model.safetensors", {"lm_head.weight": ("F32", big)})
    spec = models.resolve(str(source))
    with pytest.raises(BadInput, match=r"lm_head.*beyond fp16's range"):
        write(spec, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []
    write(spec, tmp_path / "out", dtype="fp32")


def rewrite(path: Path, changes: dict[str, tuple[str, np.ndarray]], drop: tuple[str, ...] = ()) -> None:
    """The safetensors at ``path`` with some tensors in another dtype, or gone."""
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header, body = json.loads(raw[8 : 8 + length]), raw[8 + length :]
    entries, data = {}, b""
    for name, entry in header.items():
        if name == "__metadata__" or name in drop:
            continue
        begin, end = entry["data_offsets"]
        kind, blob = entry["dtype"], body[begin:end]
        if name in changes:
            kind, blob = changes[name][0], changes[name][1].tobytes()
        entries[name] = {
            "dtype": kind,
            "shape": entry["shape"],
            "data_offsets": [len(data), len(data) + len(blob)],
        }
        data += blob
    text = json.dumps(entries).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def test_bfloat16_sources_and_tied_heads_are_written_out(tmp_path: Path) -> None:
    source = tmp_path / "model"
    shutil.copytree(GOLDEN / "mha", source)
    values = np.linspace(-3, 3, 512 * 128, dtype="<f4").reshape(512, 128)
    halves = (values.view("<u4") >> 16).astype("<u2")
    rewrite(
        source / "model.safetensors",
        {"model.embed_tokens.weight": ("BF16", halves)},
        drop=("lm_head.weight",),
    )
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}))
    folder = write(models.resolve(str(source)), tmp_path / "out").folder
    expected = (halves.astype("<u4") << 16).view("<f4").astype("<f2").tobytes()
    assert (folder / "model.wte.weight.bin").read_bytes() == expected
    assert (folder / "model.lm_head.weight.bin").read_bytes() == expected


def test_sharded_sources_equal_whole_ones(tmp_path: Path) -> None:
    source = tmp_path / "model"
    shutil.copytree(GOLDEN / "mha", source)
    whole = source / "model.safetensors"
    names = sorted(json.loads(whole.read_bytes()[8 : 8 + int.from_bytes(whole.read_bytes()[:8], "little")]))
    names = [name for name in names if name != "__metadata__"]
    first, second = source / "a.safetensors", source / "b.safetensors"
    for path, mine in ((first, names[:9]), (second, names[9:])):
        shutil.copy(whole, path)
        rewrite(path, {}, drop=tuple(name for name in names if name not in mine))
    whole.unlink()
    weight_map = {name: "a.safetensors" if name in names[:9] else "b.safetensors" for name in names}
    (source / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    sharded = write(models.resolve(str(source)), tmp_path / "out").folder
    golden = json.loads((GOLDEN / "mha-manifest.json").read_text())
    assert files_of(sharded) == {
        name.split("/")[1]: entry for name, entry in golden.items() if name.startswith("1-gpu/")
    }
    (source / "b.safetensors").unlink()
    with pytest.raises(BadInput, match=r"b\.safetensors"):
        models.resolve(str(source))


def test_a_preset_is_the_same_for_every_tp(tmp_path: Path) -> None:
    one, two = (write(TINY, tmp_path, tp=tp).folder for tp in (1, 2))
    gate = "model.layers.0.mlp.gate_proj.weight.{}.bin"
    whole = np.fromfile(one / gate.format(0), "<f2").reshape(128, 352)
    parts = [np.fromfile(two / gate.format(rank), "<f2").reshape(128, 176) for rank in (0, 1)]
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), whole)
    assert whole.astype("<f4").std() == pytest.approx(0.02, rel=0.05)


SHAPE = ft.from_spec(TINY)


@pytest.mark.parametrize(
    ("model", "tp", "pp", "variant", "words"),
    [
        ({}, 3, 1, "a", "4 heads cannot be split over tp = 3"),
        ({"kv_heads": 2}, 4, 1, "b", "2 key/value heads cannot be split"),
        ({"intermediate": 351}, 2, 1, "a", "351 intermediate size cannot be split"),
        ({}, 1, 3, "a", "layers cannot be split over pp = 3"),
        (
            {"heads": 1, "kv_heads": 1, "head_dim": 128, "hidden": 120},
            1,
            1,
            "a",
            "do not make the hidden size",
        ),
        ({"head_dim": 40}, 1, 1, "a", r"head size 40: .*accepted: 32, 48, 64"),
        ({"kv_heads": 2}, 1, 1, "a", "accepted: variant b"),
        ({"rope_theta": 500000.0}, 1, 1, "a", "rotary base 500000"),
        ({"rope_factor": 2.0}, 1, 1, "a", "scaling 2"),
        ({}, 1, 1, "c", r"variant = 'c' \(accepted: a, b\)"),
    ],
)
def test_a_model_that_the_backend_computes_wrongly_is_refused(
    model: dict[str, float], tp: int, pp: int, variant: str, words: str
) -> None:
    changed = dataclasses.replace(SHAPE, **model)  # type: ignore[arg-type]
    with pytest.raises(BadInput, match=words):
        ft.check(ft.Layout(model=changed, tp=tp, variant=variant, dtype="fp16"), pp)


@pytest.mark.parametrize("name", ["bf16", "bfloat16"])
def test_bf16_is_refused_with_the_reason(name: str) -> None:
    with pytest.raises(BadInput, match="wrong tokens from the second one on"):
        ft.dtype_of(name)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"attention_bias": True}, "no biases"),
        ({"hidden_act": "gelu"}, "accepted: 'silu'"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "rotary scaling 'llama3'"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, "rotary scaling 'yarn'"),
    ],
)
def test_config_that_it_would_silently_ignore_is_refused(change: dict[str, object], words: str) -> None:
    with pytest.raises(BadInput, match=words):
        ft.with_config(SHAPE, change, "config.json")


def test_linear_scaling_goes_to_variant_b() -> None:
    model = ft.with_config(SHAPE, {"rope_scaling": {"type": "linear", "factor": 4.0}}, "config.json")
    layout = ft.Layout(model=model, tp=1, variant="b", dtype="fp16")
    ft.check(layout)
    assert "rope_scaling_factor = 4.0" in ft.config_ini(layout)
    assert ft.read_config_ini(ft.config_ini(layout), 1, "config.ini") == layout


def test_the_set_up_step_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--tp", "2", "--out", str(tmp_path)]
    assert checkpoint.main(["--spec", models.to_json(TINY), *arguments]) == 0
    assert "100.0%" in capsys.readouterr().out
    assert checkpoint.main(["--spec", models.to_json(TINY), *arguments]) == 0
    assert "re-used" in capsys.readouterr().out
    (tmp_path / "2-gpu" / "model.wte.weight.bin").unlink()
    assert checkpoint.main(arguments) == 2
    assert "model.wte.weight.bin: missing" in capsys.readouterr().err
    assert checkpoint.main(["--spec", models.to_json(TINY), *arguments, "--dtype", "bf16"]) == 2
    assert "wrong tokens" in capsys.readouterr().err
