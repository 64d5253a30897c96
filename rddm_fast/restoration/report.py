"""A page of before/after sliders: one HTML file that holds everything and asks nothing of any server.

The page forbids itself every request (Content-Security-Policy), so it can be opened from a disk, mailed and kept. Its
parts lie in `page/`: the slider's style and script are of use to any page.
"""

from __future__ import annotations

import base64
import hashlib
import html
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from string import Template

import torch

from ..images.picture import Picture, read_image, sides
from ..images.prepared import resized
from ..system.extras import require
from ..system.files import write_whole
from .compare import opaque

PAGE = Path(__file__).parent / "page"
MOST_SIDE = 1600
"""Pictures are scaled down to this side: sharp on a screen, and a hundred of them make a file that a browser opens."""
MOST_PICTURES = 500
_NO_TEXT = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


@dataclass(frozen=True)
class Pair:
    """A picture of the page: the files of before and after, its name, and a line of facts below it."""

    name: str
    before: Path
    after: Path
    facts: str = ""


def write_report(
    path: str | PathLike[str], pairs: Sequence[Pair], *, title: str, summary: str = "", failures: Iterable[str] = ()
) -> None:
    """Write the page, whole or not at all; create its folder if needed.

    A picture that cannot be read is listed among the failures. Of more than `MOST_PICTURES` the first are shown, and
    the page says so.

    Args:
        path: the page.
        pairs: what to show, in this order.
        title, summary: its head.
        failures: sentences that are listed below the pictures, such as the errors of files.

    Raises:
        OSError: the page cannot be written.
        ImportError: Pillow is not installed.
    """
    require("PIL.Image", "images")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    told = list(failures)
    if len(pairs) > MOST_PICTURES:
        told.append(f"{len(pairs) - MOST_PICTURES} more pictures are not shown: a page holds {MOST_PICTURES}")
    # The pictures stream into the file one by one, as they may not fit into memory together.
    head, _, rest = _part("report.html").partition("$figures")
    middle, _, tail = rest.partition("$failures")
    styles, script = _part("report.css") + _part("slider.css"), _part("slider.js")
    names = {"title": _text(title), "summary": _text(summary), "styles": styles, "script": script}
    names["policy"] = policy([styles], [script])

    def write(unfinished: Path) -> None:
        with unfinished.open("w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(Template(head).substitute(names))
            for figure in _figures(pairs[:MOST_PICTURES], told):
                file.write(figure)
            file.write(Template(middle).substitute(names))
            if told:
                items = "".join(f"<li>{_text(sentence)}</li>\n" for sentence in told)
                file.write(f'<h2>Not shown</h2>\n<ul class="failed">\n{items}</ul>\n')
            file.write(Template(tail).substitute(names))

    write_whole(path, write)


def policy(styles: Sequence[str], scripts: Sequence[str]) -> str:
    """Return the Content-Security-Policy of a page of these styles and scripts, and of pictures in data: URLs alone."""

    def hashes(texts: Sequence[str]) -> str:
        digests = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in texts)
        return " ".join(f"'sha256-{digest}'" for digest in digests)

    return content_policy(img="data:", style=hashes(styles), script=hashes(scripts))


def content_policy(**sources: str) -> str:
    """Return the Content-Security-Policy that forbids all but some sources by kind, such as img="data:"."""
    rules = (f"{kind}-src {allowed}" for kind, allowed in sources.items())
    return "; ".join(["default-src 'none'", *rules, "base-uri 'none'", "form-action 'none'"])


def _figures(pairs: Sequence[Pair], told: list[str]) -> Iterator[str]:
    """Yield the HTML of each pair; what cannot be read is told instead."""
    figure = Template(_part("figure.html"))
    for pair in pairs:
        try:
            before, after = read_image(pair.before), read_image(pair.after)
        except ValueError as error:
            told.append(str(error))
            continue
        height, width = after.pixels.shape[1:]
        facts = ", ".join(text for text in (_size(before, after), pair.facts) if text)
        yield figure.substitute(
            name=_text(pair.name),
            facts=_text(facts),
            width=width,
            height=height,
            before=_data_uri(before),
            after=_data_uri(after),
        )


def _size(before: Picture, after: Picture) -> str:
    """Return the pictures' size as a text, and that they are shown smaller if they are."""
    size = sides(after.pixels)
    if sides(before.pixels) != size:
        size = f"{sides(before.pixels)} to {size}"
    smaller = max(after.pixels.shape[1:]) > MOST_SIDE
    return f"{size}, shown smaller" if smaller else size


def _data_uri(picture: Picture) -> str:
    """Return a picture as a JPEG inside a URL, scaled down to `MOST_SIDE`, with its colour profile."""
    image = opaque(picture)
    scale = min(1.0, MOST_SIDE / max(image.shape[1:]))
    height, width = (max(1, round(side * scale)) for side in image.shape[1:])
    pixels = (resized(image, (height, width)) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    buffer = io.BytesIO()
    profile = None if picture.grey else picture.icc  # a grey profile does not fit colour
    drawn = require("PIL.Image", "images").fromarray(pixels)
    drawn.save(buffer, "JPEG", quality=90, subsampling=0, icc_profile=profile)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _part(name: str) -> str:
    return (PAGE / name).read_text(encoding="utf-8")


def _text(text: str) -> str:
    r"""Return a text for HTML; what no text holds, such as a byte that is no UTF-8, is written as an escape, \x1b."""
    return html.escape(_NO_TEXT.sub(lambda found: found[0].encode("unicode_escape").decode(), text))
