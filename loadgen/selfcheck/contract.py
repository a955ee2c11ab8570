"""What every framework keeps, whoever wrote it: the checks behind ``loadgen check-framework``, and our own tests.

Each check is a function of a framework that returns what is wrong, in words; nothing when it is kept. None starts a
server.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from loadgen.drivers.find import driver_factory
from loadgen.errors import BadInput, LoadgenError, MissingDependency
from loadgen.protocols import Command, Framework, Need
from loadgen.records import ServerSpec
from loadgen.theory.models import PRESETS

Check = Callable[[Framework], Iterator[str]]
ENGINES = frozenset(
    {
        "torch", "transformers", "accelerate", "deepspeed", "mii", "tritonclient", "pytriton", "vllm", "sglang",
        "tensorrt_llm", "lmdeploy", "llama_cpp", "xllamacpp", "jax", "tensorflow",
    }
)  # fmt: skip
HELP = 10  # characters of an option's help, at the least
IMPORT_S = 60.0


def spec_for(framework: Framework) -> ServerSpec:
    """A spec that the framework accepts on any machine, or at least on one with a GPU. Raises BadInput without one."""
    spec = ServerSpec(framework=framework.name, model=PRESETS["tiny"], dtype="float32")
    refusals = []
    for candidate in (
        spec,
        replace(spec, gpus=(0,)),
        replace(spec, gpus=(0,), dtype="float16"),
        replace(spec, gpus=(0,), dtype="bfloat16"),
        replace(spec, gpus=(0,), dtype="float16", model=PRESETS["llama-7b"], options={"weights": "backend"}),
    ):
        try:
            framework.check(candidate)
        except MissingDependency:
            return candidate  # nothing is wrong with it but the machine
        except BadInput as error:
            refusals.append(str(error))
        else:
            return candidate
    raise BadInput(
        f"accepts the models tiny and llama-7b neither on a CPU nor on a GPU: {'; '.join(refusals)}"
    )


def describes_itself(framework: Framework) -> Iterator[str]:
    """A name, a protocol that a driver speaks, ports, and a line of help for each option."""
    if framework.protocol != framework.protocol.strip().lower() or not framework.protocol:
        yield f"protocol = {framework.protocol!r}: not a word in lower case"
    else:
        try:
            driver_factory(framework.protocol)
        except MissingDependency:
            pass  # this machine's fault, which doctor tells
        except BadInput as error:
            yield str(error)
    if framework.ports < 1:
        yield f"ports = {framework.ports}: a server needs one"
    for option, words in framework.options.items():
        if not option.isidentifier():
            yield f"option {option!r}: not a word that --option can name"
        if len(words) <= HELP or "\n" in words:
            yield f"option {option}: needs one line of help, accepted values included"


def says_whether_it_takes_gpus(framework: Framework) -> Iterator[str]:
    """Two truth values that agree with each other and with ``check``."""
    for name in ("uses_gpus", "needs_gpus"):
        if not isinstance(getattr(framework, name), bool):
            yield f"{name} = {getattr(framework, name)!r}: neither True nor False"
    if framework.needs_gpus and not framework.uses_gpus:
        yield "needs GPUs and does not use them"
    if framework.needs_gpus and not spec_for(framework).gpus:
        yield "needs GPUs, and accepts a spec without any"


def accepts_its_default_dtype(framework: Framework) -> Iterator[str]:
    """The dtype that it takes unasked is one that it accepts."""
    spec = spec_for(framework)
    places = [*([] if framework.needs_gpus else [()]), *([(0,)] if framework.uses_gpus else [])]
    for gpus in places:
        dtype = framework.default_dtype(bool(gpus))
        try:
            with suppress(MissingDependency):  # nothing is wrong with it but the machine
                framework.check(replace(spec, gpus=gpus, dtype=dtype))
        except BadInput as error:
            yield f"default dtype {dtype} on {'GPUs' if gpus else 'a CPU'} is refused: {error}"


def its_command_is_plain_data(framework: Framework) -> Iterator[str]:
    """Equal for equal questions; nothing is written; texts throughout; every file within the run folder."""
    spec = spec_for(framework)
    ports = tuple(range(30001, 30001 + framework.ports))
    with tempfile.TemporaryDirectory(prefix="loadgen-check-") as folder:
        run_dir = Path(folder).resolve() / "run"
        one, two = (framework.command(spec, str(run_dir), ports) for _ in range(2))
        if run_dir.exists():
            yield "command() wrote files; it must return them"
    if not isinstance(one, Command):
        yield f"command() returns {type(one).__name__}, not protocols.Command"
        return
    if one != two:
        yield "command() answers the same question otherwise the second time"
    if not all(isinstance(part, str) for argv in (one.argv, *one.setup) for part in argv):
        yield "argv or setup holds what is no text"
    if not all(value is None or isinstance(value, str) for value in one.env.values()):
        yield "env holds a value that is neither text nor None"
    for file in one.files:
        if Path(file).is_absolute() or ".." in Path(file).parts:
            yield f"file {file!r} lies outside the run folder"
    for url in (one.ready_url, one.base_url):
        if url.startswith(f"unix:{run_dir}/"):
            continue
        if spec.host not in url or not any(str(port) in url for port in ports):
            yield f"{url}: neither at the host and one of the ports that were given nor a socket in the run folder"


def refuses_an_unknown_option(framework: Framework) -> Iterator[str]:
    """By its name."""
    try:
        framework.check(replace(spec_for(framework), options={"no_such_option": 1}))
    except BadInput as error:
        if "no_such_option" not in str(error):
            yield f"an unknown option is refused without its name: {error}"
    else:
        yield "an unknown option is accepted"


def refuses_heads_that_do_not_divide(framework: Framework) -> Iterator[str]:
    """Or more than one device, where it knows no split."""
    try:
        framework.check(replace(spec_for(framework), tp=3, gpus=(0, 1, 2)))
    except MissingDependency as error:
        yield f"tp = 3 does not divide the heads, and what is told is another thing: {error.what}"
    except BadInput:
        pass
    else:
        yield "tp = 3 is accepted where it does not divide the heads"


def its_needs_come_with_remedies(framework: Framework) -> Iterator[str]:
    """Each lack says what to do."""
    for need in framework.needs():
        if not isinstance(need, Need) or not need.name or not need.found:
            yield f"{need!r}: not a protocols.Need with a name and what was found"
        elif not need.ok and not need.remedy:
            yield f"{need.name}: missing, and no remedy"


def it_is_light(framework: Framework) -> Iterator[str]:
    """Neither the module nor needs() pulls an engine in: ``loadgen run`` starts in half a second."""
    program = (
        "import json, sys\n"
        "from loadgen.launch import frameworks\n"
        f"frameworks.find({framework.name!r}).needs()\n"
        "print(json.dumps(sorted({m.partition('.')[0] for m in sys.modules})))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=IMPORT_S
    )
    if done.returncode:
        yield f"needs() fails in a fresh interpreter: {done.stderr.strip().splitlines()[-1:]}"
    elif heavy := sorted(ENGINES & set(json.loads(done.stdout))):
        yield f"importing it, or needs(), imports {', '.join(heavy)}"


CHECKS: Mapping[str, Check] = {
    "describes itself": describes_itself,
    "says whether it takes GPUs": says_whether_it_takes_gpus,
    "accepts its default dtype": accepts_its_default_dtype,
    "its command is plain data": its_command_is_plain_data,
    "refuses an unknown option": refuses_an_unknown_option,
    "refuses heads that do not divide": refuses_heads_that_do_not_divide,
    "its needs come with remedies": its_needs_come_with_remedies,
    "is light to import": it_is_light,
}


def breaches(framework: Framework, name: str) -> list[str]:
    """What is wrong by one of ``CHECKS``; a fault of the framework's own code is one, too."""
    try:
        return list(CHECKS[name](framework))
    except LoadgenError as error:
        return [str(error)]
    except Exception as error:  # noqa: BLE001 - foreign code
        return [f"{type(error).__name__}: {error}"]
