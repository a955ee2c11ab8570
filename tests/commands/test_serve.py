"""``loadgen serve``: what it refuses before anything starts."""

import pytest
from serve_options import SERVE

from loadgen.commands import serve
from loadgen.errors import BadInput


@pytest.mark.parametrize(("tp", "pp"), [(4, 1), (1, 2)])
def test_more_gpus_than_there_are_are_refused_as_a_sweep_does(
    tp: int, pp: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve, "visible_gpus", lambda: ())
    with pytest.raises(BadInput, match=f"needs {tp * pp} GPUs, and this machine has none .*--gpus ''"):
        serve.server_spec(**{**SERVE, "framework": "hf", "gpus": None, "tp": tp, "pp": pp})
    on_cpu = serve.server_spec(**{**SERVE, "framework": "hf", "gpus": "", "tp": 4, "model": "llama-13b"})
    assert (on_cpu.tp, on_cpu.gpus) == (4, ())


@pytest.mark.parametrize(
    ("framework", "options", "words"),
    [
        ("null", ("log=/tmp/victim",), "a plain file name in the run folder"),
        ("null", ("log=../victim",), "a plain file name in the run folder"),
        ("ft", ("variant=b", "image=--privileged"), "an option, not an image's name"),
    ],
)
def test_an_option_that_would_reach_outside_is_refused(
    framework: str, options: tuple[str, ...], words: str
) -> None:
    with pytest.raises(BadInput, match=words):
        serve.server_spec(
            **{**SERVE, "framework": framework, "gpus": None, "options": options, "dry_run": True}
        )
