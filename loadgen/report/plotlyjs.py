"""The only module that imports plotly: its JavaScript, to be put into a page whole."""

from __future__ import annotations


def source() -> str:
    """plotly.js, minified. Figures are plain data, so nothing else of the library is needed."""
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs())
