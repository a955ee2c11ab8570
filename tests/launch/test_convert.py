"""`loadgen convert` at its seam: what the command line calls."""

from pathlib import Path

import pytest

from loadgen.errors import BadInput
from loadgen.launch import convert

GOLDEN = Path(__file__).parents[1] / "data" / "ft-golden"


def test_converts_reports_progress_and_checks(tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    done = convert.convert(
        "ft",
        str(GOLDEN / "mha"),
        tp=2,
        variant="a",
        dtype="float16",
        out=tmp_path,
        progress=lambda name, done, total: seen.append((name, done, total)),
    )
    assert done.folder == tmp_path / "2-gpu"
    assert seen[-1][1] == seen[-1][2] == done.bytes
    assert [step[1] for step in seen] == sorted(step[1] for step in seen)
    assert convert.check("ft", tmp_path) == {tmp_path / "2-gpu": []}
    (tmp_path / "2-gpu" / "model.wte.weight.bin").write_bytes(b"short")
    assert convert.check("ft", tmp_path / "2-gpu")[tmp_path / "2-gpu"] == [
        "model.wte.weight.bin: 5 bytes, expected 131072"
    ]


def test_bad_requests_say_what_is_accepted(tmp_path: Path) -> None:
    model = str(GOLDEN / "gqa")
    with pytest.raises(BadInput, match=r"--to 'trt' \(accepted: ft\)"):
        convert.convert("trt", model, tp=1, variant="a", dtype="fp16", out=tmp_path)
    with pytest.raises(BadInput, match="accepted: variant b"):
        convert.convert("ft", model, tp=1, variant="a", dtype="fp16", out=tmp_path)
    with pytest.raises(BadInput, match="bf16"):
        convert.convert("ft", model, tp=1, variant="b", dtype="bf16", out=tmp_path)
    with pytest.raises(BadInput, match="no such folder"):
        convert.check("ft", tmp_path / "absent")
    with pytest.raises(BadInput, match="neither a <T>-gpu folder"):
        convert.check("ft", tmp_path)
