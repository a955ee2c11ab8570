"""vLLM for a machine of one GPU architecture that has torch and no network: its wheel and those it needs, small.

    python pack_vllm.py WHEELS OUT.tar.xz [--arch 90]

WHEELS is a folder with vLLM's wheel and the others that the machine lacks (``pip download --no-deps`` for its Python).
Of vLLM's libraries those alone go along that a llama in bfloat16 needs; in them the device code of other architectures
is zeroed in place, which the driver passes over and xz makes nothing of: 250 MB become some 25. Nothing is built.
"""

from __future__ import annotations

import argparse
import shutil
import struct
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MAGIC = struct.pack("<I", 0xBA55ED50)
PTX, ELF = 1, 2
KEPT = ("vllm/_C_stable_libtorch.abi3.so", "vllm/vllm_flash_attn/_vllm_fa3_C.abi3.so")
# Of all wheels: what is compiled against, shown, or tested, and of vLLM what other models use.
LEFT_OUT = (
    "vllm/vllm-rs", "vllm/third_party/deep_gemm", "vllm/third_party/fmha_sm100", "/static/swagger",
    "vllm/model_executor/layers/fused_moe/configs", "/tests/", "/include/", "pycountry/locales", "mistral_common/data",
)  # fmt: skip
ENDINGS = (".a", ".h", ".hpp", ".cuh", ".cu", ".cpp", ".pdb", ".pyi", ".map")


@dataclass(frozen=True)
class Entry:
    """One architecture's code within a fat binary: where its bytes lie in the file."""

    kind: int
    arch: int
    start: int
    size: int


def fat_binaries(data: bytes | bytearray) -> Iterator[list[Entry]]:
    """The entries of every fat binary in a library.

    A fat binary is ``u32 magic, u16 version, u16 header size, u64 size``, then entries, each ``u16 kind (1 PTX, 2 ELF),
    u16, u32 header size, u64 size`` with ``u32 arch`` at byte 28 (90 for sm_90 and sm_90a). The magic may also stand in
    code: what does not add up is none.
    """
    at = data.find(MAGIC)
    while at >= 0:
        version, header, size = struct.unpack_from("<HHQ", data, at + 4)
        entries, place, end = [], at + header, at + header + size
        while version == 1 and header == 16 and place + 64 <= end <= len(data):
            kind, _, own, length = struct.unpack_from("<HHIQ", data, place)
            (arch,) = struct.unpack_from("<I", data, place + 28)
            if kind not in (PTX, ELF) or own < 32 or place + own + length > end:
                entries = []
                break
            entries.append(Entry(kind, arch, place + own, length))
            place += own + length
        if entries:
            yield entries
        at = data.find(MAGIC, end if entries else at + 4)


def kept(entries: list[Entry], arch: int) -> list[Entry]:
    """What a GPU of ``arch`` runs of a fat binary: its own code, else the last PTX that it may compile."""
    own = [entry for entry in entries if entry.kind == ELF and entry.arch == arch]
    if own:
        return own
    older = [
        entry
        for entry in entries
        if entry.kind == ELF and entry.arch // 10 == arch // 10 and entry.arch < arch
    ]
    if older:
        return older[-1:]
    return [entry for entry in entries if entry.kind == PTX and entry.arch <= arch][-1:]


def thin(library: Path, arch: int) -> tuple[int, int]:
    """Zero what is not kept of a library's device code; its bytes before and after."""
    data = bytearray(library.read_bytes())
    before = after = 0
    for entries in fat_binaries(data):
        keep = kept(entries, arch)
        for entry in entries:
            before += entry.size
            if entry in keep:
                after += entry.size
            else:
                data[entry.start : entry.start + entry.size] = bytes(entry.size)
    library.write_bytes(data)
    return before, after


def wanted(name: str, vllm: bool) -> bool:
    """Whether a file of a wheel goes along."""
    if any(part in f"/{name}" for part in LEFT_OUT) or name.endswith(ENDINGS):
        return False
    return not (vllm and name.endswith(".so") and name not in KEPT)


def unpack(wheel: Path, site: Path) -> None:
    """The wanted files of a wheel, as an installation has them."""
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.infolist():
            name = member.filename
            _, _, rest = name.partition(".data/")
            if rest:
                kind, _, name = rest.partition("/")
                if kind not in ("purelib", "platlib"):
                    continue
            if member.is_dir() or not wanted(name, wheel.name.startswith("vllm-")):
                continue
            target = site / name
            target.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(member) as source, target.open("wb") as out:
                shutil.copyfileobj(source, out)


def main() -> int:
    """Pack, and say what came of it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("wheels", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--arch", type=int, default=90)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        site = Path(folder) / "site"
        for wheel in sorted(asked.wheels.glob("*.whl")):
            unpack(wheel, site)
        for name in KEPT:
            before, after = thin(site / name, asked.arch)
            print(f"{name}: {before >> 20} → {after >> 20} MiB of device code")
        for library in site.rglob("*.so*"):
            if str(library.relative_to(site)) not in KEPT:
                subprocess.run(["strip", "--strip-debug", str(library)], check=False)
        asked.out.parent.mkdir(parents=True, exist_ok=True)
        archive = [
            "tar",
            "-C",
            folder,
            "--sort=name",
            "--owner=0",
            "--group=0",
            "--mtime=2020-01-01",
            "-cf",
            "-",
            "site",
        ]
        with asked.out.open("wb") as out, subprocess.Popen(archive, stdout=subprocess.PIPE) as tar:
            subprocess.run(["xz", "-9", "-T0", "-c"], stdin=tar.stdout, stdout=out, check=True)
        if tar.returncode:
            return 1
    print(f"{asked.out}: {asked.out.stat().st_size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
