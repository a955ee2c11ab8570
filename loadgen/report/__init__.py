"""Results folders → tables, never with a GPU, a server or the network."""

from pathlib import Path

FORMATS = ("html", "md", "csv", "parquet", "json", "png")


def write_whole(path: Path, text: str) -> Path:
    """Write a file, replacing an older one at once: nobody reads half of it."""
    beside = path.with_name(path.name + ".new")
    beside.write_text(text, encoding="utf-8")
    return beside.replace(path)
