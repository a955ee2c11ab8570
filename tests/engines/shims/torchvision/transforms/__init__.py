"""Names alone: no image is transformed."""

import enum


class InterpolationMode(enum.Enum):
    NEAREST, NEAREST_EXACT, BILINEAR, BICUBIC, BOX, HAMMING, LANCZOS = (
        *("nearest", "nearest-exact", "bilinear", "bicubic", "box", "hamming", "lanczos"),
    )
