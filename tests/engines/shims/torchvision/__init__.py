"""A stand-in for torchvision, whose CPU build is not on PyPI: as much of it as SGLang imports to serve text."""

__version__ = "0.28.0"
