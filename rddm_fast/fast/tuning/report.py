"""Measured choices in words: a line for each layer and size, and what they gain in all."""

from __future__ import annotations

from ..folded.ways import Site
from .table import Entry, Table


def lines_of(known: list[tuple[str, Site, Entry]], table: Table) -> list[str]:
    """Return a line for each measured choice, with its rate beside what the machine was measured to do at most."""
    return [f"  {title}, {place(site)}: {_choice(title, site, entry, table)}" for title, site, entry in known]


def place(site: Site) -> str:
    """Say at which site something was measured."""
    images = " and ".join("x".join(map(str, shape)) for shape in site.shapes)
    return images + (f" on {site.threads} thread{'s' if site.threads > 1 else ''}" if site.threads else "")


def summary(known: list[tuple[str, Site, Entry]]) -> str:
    """Say how many choices were measured and how many of them differ from the rules'."""
    other = sum(entry.way != entry.rule for _, _, entry in known)
    return f"{len(known)} measured, {other} of them other than the rule's"


def _choice(title: str, site: Site, entry: Entry, table: Table) -> str:
    text = f"{entry.way}, {entry.us[entry.way]:.1f} us"
    peak = table.peaks.get((title.rsplit(", ", 1)[1], site.threads))
    if entry.products:
        rate = 2e-3 * entry.products / entry.us[entry.way]
        text += f", {rate:.0f} GFLOP/s" + ("" if peak is None else f" ({rate / peak.gflop_s:.0%} of the peak)")
    others = [f"{way} {us:.1f}" for way, us in entry.us.items() if way != entry.way]
    return "; ".join([text, *others, *(f"not {way}: {why}" for way, why in entry.left_out.items())])
