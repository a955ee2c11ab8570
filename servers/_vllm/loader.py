"""In vLLM's processes: the load format ``loadgen``, whose numbers are those of framework ``hf``.

vLLM's own dummy loader fills everything with uniform numbers up to 0.001. This one hands the model's ``load_weights``
whole parameters by their Hugging Face names, as a checkpoint does; it splits and fuses them itself, at every tp.
"""

from __future__ import annotations

from typing import Any

from loadgen.records import ModelSpec

FORMAT = "loadgen"
PLUGIN = "loadgen_weights"
# A package of vLLM's entry points, found by PYTHONPATH: its plug-ins are loaded in each of its processes.
SOURCE = '''"""Placed by loadgen: random weights as framework hf makes them."""

import runpy


def register():
    runpy.run_path({child!r})["bootstrap"]({servers!r})

    from loadgen.servers._vllm.loader import register

    register()
'''


def plugin_files(child: str, servers: str) -> dict[str, str]:
    """The plug-in's package with its metadata, by path."""
    info = f"{PLUGIN}-1.0.dist-info"
    return {
        f"{PLUGIN}.py": SOURCE.format(child=child, servers=servers),
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {PLUGIN}\nVersion: 1.0\n",
        f"{info}/entry_points.txt": f"[vllm.general_plugins]\n{PLUGIN} = {PLUGIN}:register\n",
    }


def register() -> None:
    """Make the load format known to this process; vLLM may ask for it more than once."""
    from vllm.model_executor import model_loader
    from vllm.model_executor.model_loader.base_loader import BaseModelLoader

    class Loader(BaseModelLoader):  # type: ignore[misc] # vLLM is untyped here
        """Takes the shape and the seed from ``--model-loader-extra-config``."""

        def download_model(self, model_config: Any) -> None:
            """There is nothing to download."""

        def load_weights(self, model: Any, model_config: Any) -> None:
            """Fill the model, parameter by parameter, where it lies."""
            from loadgen.servers._torch.weights import parameters

            asked = self.load_config.model_loader_extra_config
            shape = ModelSpec(**asked["model"])
            device = next(model.parameters()).device
            weights = parameters(shape, model_config.dtype, device, asked["seed"])
            model.load_weights(
                (name, weight) for name, weight in weights if not (shape.tied and name == "lm_head.weight")
            )

    model_loader.register_model_loader(FORMAT)(Loader)
