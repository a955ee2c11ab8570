"""The fast tokenizer of a checkpoint folder."""

from __future__ import annotations

import os
from typing import Any

from loadgen.errors import BadInput, MissingDependency


def open_tokenizer(folder: str) -> Any:
    """The ``tokenizers.Tokenizer`` of a folder. Raises BadInput where there is none, MissingDependency without the
    library."""
    path = tokenizer_file(folder)
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise MissingDependency(
            "prompts of exact length for a checkpoint need its tokenizer, and tokenizers is not installed",
            "pip install 'llm-loadgen[tokenizer]'",
        ) from None
    if not os.path.isfile(path):
        raise BadInput(
            f"tokenizer {folder}: no tokenizer.json (accepted: a checkpoint with a fast tokenizer)"
        )
    try:
        return Tokenizer.from_file(path)
    except Exception as error:  # noqa: BLE001 the library raises nothing narrower
        raise BadInput(f"tokenizer {path}: {error} (accepted: a file of the tokenizers library)") from None


def tokenizer_file(folder: str) -> str:
    """The file that a folder's tokenizer lies in."""
    return os.path.join(folder, "tokenizer.json")
