"""One profile over two frameworks: the same records from another server, protocol and driver, and the same work."""

import json
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq

PROFILE = """
name = "two"
[server]
model = "tiny"
dtype = "float32"
gpus = []
ready_timeout_s = 120
[[sweep]]
framework = ["hf", "triton"]
mode = "static"
batch_size = [1, 3]
input_tokens = 12
output_tokens = 8
requests = 2
[telemetry]
enabled = false
"""


def test_hf_and_triton_in_one_sweep(tmp_path: Path) -> None:
    profile = tmp_path / "two.toml"
    profile.write_text(PROFILE)
    out = tmp_path / "results"
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "loadgen.cli",
            "sweep",
            str(profile),
            "--no-live",
            "--no-report",
            "--out",
            str(out),
        ],
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    results = [json.loads(line) for line in (out / "trials.jsonl").read_text().splitlines()]
    by_cell = {
        (result["trial"]["server"]["framework"], result["trial"]["load"]["batch_size"]): result
        for result in results
    }
    assert sorted(by_cell) == [("hf", 1), ("hf", 3), ("triton", 1), ("triton", 3)]
    for (framework, batch), result in by_cell.items():
        assert result["failure"] is None
        assert result["summary"]["output_tokens"] == 2 * batch * 8
        assert result["summary"]["ttft_s"] is not None
        assert ("triton" in result["engine"]["engine"]) is (framework == "triton")
    assert by_cell["triton", 3]["engine"]["engine"] == "triton-python/transformers (generate)"
    assert by_cell["triton", 3]["engine"]["server_side"]["sequences_per_execution"] == 3.0

    def first_tokens(framework: str, batch: int) -> dict[int, list[int]]:
        samples = pq.read_table(out / "samples" / f"{by_cell[framework, batch]['trial']['id']}.parquet")
        return dict(zip(samples["seq"].to_pylist(), samples["first_tokens"].to_pylist(), strict=True))

    for batch in (1, 3):
        assert first_tokens("hf", batch) == first_tokens("triton", batch)
        assert all(len(tokens) == 8 for tokens in first_tokens("hf", batch).values())
