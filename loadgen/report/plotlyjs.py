"""The only module that imports plotly: its JavaScript, to be put into a page whole."""

from __future__ import annotations

from loadgen.errors import MissingDependency


def source() -> str:
    """plotly.js, minified. Figures are plain data, so nothing else of the library is needed.

    Raises MissingDependency without plotly.
    """
    try:
        from plotly.offline import get_plotlyjs
    except ModuleNotFoundError:
        raise MissingDependency(
            "plotly is not installed, whose charts the HTML report draws",
            "pip install plotly, then loadgen report FOLDER; or loadgen report FOLDER --format md",
        ) from None

    return str(get_plotlyjs())
