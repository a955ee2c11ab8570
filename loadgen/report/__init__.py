"""Results folders → tables, never with a GPU, a server or the network."""

from pathlib import Path

from loadgen.errors import BadInput
from loadgen.results import writing

FORMATS = ("html", "md", "csv", "parquet", "json", "png")
FILES = FORMATS[:-1]  # png is a folder of charts


def format_of(path: Path, option: str) -> str:
    """The format that a file's name asks for. Raises BadInput that names the ``option`` for another name."""
    ending = path.suffix.lower().removeprefix(".")
    if ending not in FILES:
        raise BadInput(
            f"{option} {path}: no format by that name (accepted: a name that ends in .{', .'.join(FILES)})"
        )
    return ending


def write_whole(path: Path, text: str) -> Path:
    """Write a file, replacing an older one at once: nobody reads half of it. Raises StoreError."""
    writing.write_whole(path, text.encode())
    return path
