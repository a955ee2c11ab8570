"""DeepSpeed's ops compiled as a first start of FastGen would, without a server: python tests/benches/build_ops.py"""

from __future__ import annotations

import os
import subprocess

from loadgen.profile.read import build_profile
from loadgen.servers.ds import DeepSpeed

TABLES = {
    "server": {"framework": "ds", "model": "llama-7b", "gpus": [0]},
    "load": {"input_tokens": 8, "output_tokens": 4},
}


def main() -> None:
    (cell,) = build_profile({"name": "ops", **TABLES}).cells
    assert cell.server is not None, "the profile names a server"
    command = DeepSpeed().command(cell.server, os.path.abspath("ops"), range(1, 5))
    environment = {**os.environ, **{name: value for name, value in command.env.items() if value is not None}}
    for argv in command.setup:
        subprocess.run(argv, env=environment, check=True)


if __name__ == "__main__":
    main()
