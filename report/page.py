"""From content to the page: HTML that needs nothing but itself."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

from ..toolbox.dassl.errors import MissingPackage
from . import charts
from .content import Content

HERE = Path(__file__).parent
FRAME = {
    "width": charts.WIDTH,
    "height": charts.HEIGHT,
    "left": charts.LEFT,
    "right": charts.WIDTH - charts.RIGHT,
    "bottom": charts.HEIGHT - charts.BOTTOM,
}


def render(content: Content) -> str:
    """The page as text. Whatever comes from the user is escaped by the template engine.

    Its own policy forbids every request and every script but its own.

    Raises:
        MissingPackage: Jinja2 is not installed.
    """
    try:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
        from markupsafe import Markup
    except ImportError as error:
        raise MissingPackage("a report needs Jinja2: pip install 'mocoop[report]'") from error
    engine = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    engine.filters |= {"percent": percent, "points": points}
    engine.globals |= {"frame": FRAME}
    style, script = ((HERE / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return engine.get_template("page.html").render(
        c=content, style=Markup(style), script=Markup(script), script_hash=digest
    )


def percent(fraction: float | None, digits: int = 1) -> str:
    """A fraction as text, a dash for None."""
    return "–" if fraction is None else f"{100 * fraction:.{digits}f}%"


def points(fraction: float | None) -> str:
    """A difference of accuracies in points, as text with its sign, a dash for None."""
    return "–" if fraction is None else f"{100 * fraction:+.1f}".replace("-", "−")
