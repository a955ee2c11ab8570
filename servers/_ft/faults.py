"""What the library takes and then answers wrongly or never, and what its last words mean. Every line was seen."""

from __future__ import annotations

from loadgen.errors import BadInput
from loadgen.launch.options import Options
from loadgen.records import ServerSpec
from loadgen.servers._ft.layout import DTYPE_OF, VARIANTS
from loadgen.system import environment

FUSED_NEVER = (
    "9.",
    "10.",
    "12.",
)  # sm90 (H100, H200) was seen to fail; later ones have no such kernels either
IF_SILENT = (
    "options decoupled = false (streams over pipeline ranks hang in variant a) and log_level = debug, NCCL_DEBUG=INFO "
    "in the environment, tp 1 to tell the library from its communication"
)
OTHER = {"a": "b", "b": "a"}


def refuse(spec: ServerSpec, options: Options) -> None:
    """Raise BadInput for what would start, and then be silent or silently wrong."""
    variant_a = options.choice("variant", tuple(VARIANTS)) == "a"
    dtype = DTYPE_OF.get(spec.dtype)
    if variant_a and spec.pp > 1 and options.flag("decoupled", True):
        raise BadInput(
            f"ft: pp = {spec.pp} with option decoupled = true: variant a becomes ready and never answers a streamed "
            "request (accepted: decoupled = false, or pp = 1)"
        )
    if variant_a and dtype == "fp32" and spec.model.head_dim == 32:
        raise BadInput(
            f"ft: dtype = {spec.dtype} with heads of 32: variant a computes wrong tokens from the second or third one "
            "on (accepted: float16)"
        )
    if not options.flag("fused_attention", False):
        return
    if dtype == "fp32":
        raise BadInput(f"ft: option fused_attention with dtype = {spec.dtype} (accepted: float16)")
    found, _, _ = environment.read_gpus()
    for gpu in found:
        capability = str(gpu.get("compute_capability") or "")
        if gpu.get("index") in spec.gpus and capability.startswith(FUSED_NEVER):
            raise BadInput(
                f"ft: option fused_attention on GPU {gpu.get('index')} of compute capability {capability}: its kernels "
                "are wrong there or do not run (accepted: fused_attention = false)"
            )


def meanings(variant: str) -> tuple[tuple[str, str], ...]:
    """What stands in its log (a regular expression) when it has ended, and what that means."""
    return (
        (
            "Unknown model",
            f"its library does not know the model_type of variant {variant}, so it is the other one: option variant = "
            f"{OTHER[variant]}",
        ),
        (
            "unable to find backend library|unable to load shared library",
            "the library, or one that it needs, is not where it is looked for: option backend_dir, LD_LIBRARY_PATH",
        ),
    )
