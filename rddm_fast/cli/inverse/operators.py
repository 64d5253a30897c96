"""`rddm-fast operators`."""

from __future__ import annotations

from rich.markup import escape

from ..common.app import command, out


@command
def operators() -> None:
    """List the degradations that restore --method --operator knows, one per line."""
    from ...inverse.operators.named import listing

    rows = listing()
    width = max(len(form) for form, _ in rows)
    for form, line in rows:
        out.print(escape(f"{form:<{width}}  {line}"))
