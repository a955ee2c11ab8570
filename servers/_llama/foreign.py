"""What frameworks whose server others wrote have in common: their facts, and the order in which a spec is doubted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from loadgen.errors import BadInput, MissingDependency
from loadgen.launch.options import Options
from loadgen.protocols import Need
from loadgen.records import ServerSpec
from loadgen.servers._llama import fits, weights

HALF = ("bfloat16", "float16")
ANY = (*HALF, "float32")
UNSEEN = Need(name="by contract only", ok=True, found="command line and answers as read; never run by us")


class Foreign:
    """See protocols.Framework; one is this, its own command, and the hooks below."""

    name: str
    ports = 1
    uses_gpus = True
    needs_gpus = True
    dtypes: Sequence[str] = HALF
    splits_layers = False
    options: Mapping[str, str]

    def default_dtype(self, on_gpu: bool) -> str:
        """bfloat16 on GPUs; float32 on CPUs, so that tokens are those of framework ``hf`` there."""
        return "bfloat16" if on_gpu or self.needs_gpus else "float32"

    def library(self, spec: ServerSpec) -> str:
        """Nothing that its version does not tell."""
        return ""

    def check(self, spec: ServerSpec) -> None:
        """Raise BadInput for a spec that cannot run anywhere, MissingDependency for one that cannot run here."""
        options = Options(self.name, spec.options)
        options.known(self.options)
        fits.check(spec, self.dtypes)
        if spec.max_batch is not None and spec.max_batch < 1:
            raise BadInput(f"{self.name}: max_batch = {spec.max_batch} (accepted: whole numbers from 1)")
        if spec.pp > 1 and not self.splits_layers:
            raise BadInput(f"{self.name}: pp = {spec.pp} (accepted: 1)")
        weights.seed_of(spec)
        self.doubt(spec, options)
        if self.needs_gpus and not spec.gpus:
            raise MissingDependency(
                f"{self.name}: no GPU is given, and it runs on nothing else", "name --gpus"
            )
        if (lack := self.lack(spec)) is not None:
            raise MissingDependency(f"{self.name}: {lack[0]}", lack[1])

    def doubt(self, spec: ServerSpec, options: Options) -> None:
        """Raise BadInput for values of its own options that it does not take."""
        raise NotImplementedError

    def lack(self, spec: ServerSpec) -> tuple[str, str] | None:
        """What this machine lacks for it, and the remedy; ``None`` where nothing is seen. Raises BadInput."""
        raise NotImplementedError

    def driver_options(self, spec: ServerSpec) -> Mapping[str, Any]:
        """Nothing: its route takes token ids both ways."""
        return {}


def found_or_not(name: str, found: str | None, remedy: str, lacking: str = "not on PATH") -> Need:
    """A program or a version that is there, or its remedy."""
    return Need(name=name, ok=found is not None, found=found or lacking, remedy="" if found else remedy)
