"""The page's files: its own, and the slider's, which the page of `restore --html` has too."""

from __future__ import annotations

from pathlib import Path
from string import Template

from ..restoration.report import PAGE as SHARED

PAGE = Path(__file__).parent / "page"
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_SLIDER = ("slider.css", "slider.js")


def parts() -> list[str]:
    """Return the addresses of the page and its files; nothing else is read from the disk."""
    own = [f"/{path.name}" for path in sorted(PAGE.iterdir()) if path.suffix in _TYPES and path.name != "index.html"]
    return ["/", *own, *(f"/{name}" for name in _SLIDER)]


def part(address: str) -> tuple[bytes, str]:
    """Return the content of one of `parts` and its type."""
    name = address[1:] or "index.html"
    text = ((SHARED if name in _SLIDER else PAGE) / name).read_text(encoding="utf-8")
    if name == "index.html":
        # The slider's figure is a template that the page's script fills.
        empty = {"name": "", "facts": "", "width": 3, "height": 2, "before": "data:,", "after": "data:,"}
        figure = Template((SHARED / "figure.html").read_text(encoding="utf-8")).substitute(empty)
        text = Template(text).substitute(figure=figure)
    return text.encode(), _TYPES[Path(name).suffix]
