"""The pages of the documentation, and what is in them: blocks of code, commands, links."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

pytest.importorskip("markdown_it", reason="markdown-it-py, which rich brings, is not installed")
from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parents[2]
NOTEBOOK = "examples/restore.ipynb"
PAGES = ["README.md", "CONTRIBUTING.md", "rddm_fast/models/NOTICE.md"]
PAGES += sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md"))


@dataclass(frozen=True)
class Block:
    """A block of code: its language, its text, and the number of lines before it."""

    language: str
    text: str
    line: int


def blocks(page: str) -> list[Block]:
    """The blocks of code of a page or a notebook, in order."""
    text = (ROOT / page).read_text(encoding="utf-8")
    if page.endswith(".ipynb"):
        cells = json.loads(text)["cells"]
        return [Block("python", "".join(cell["source"]), 0) for cell in cells if cell["cell_type"] == "code"]
    tokens = MarkdownIt().enable("table").parse(text)
    fences = [token for token in tokens if token.type in ("fence", "code_block")]
    return [Block(token.info, token.content, token.map[0] + 1) for token in fences if token.map is not None]


def _inline(page: str) -> Iterator[Token]:
    text = (ROOT / page).read_text(encoding="utf-8")
    for token in MarkdownIt().enable("table").parse(text):
        yield from token.children or ()


def inline_code(page: str) -> list[str]:
    """The pieces of code within a page's sentences."""
    return [token.content for token in _inline(page) if token.type == "code_inline"]


def links(page: str) -> list[str]:
    """Where a page's links and images lead."""
    found = (token.attrGet({"link_open": "href", "image": "src"}.get(token.type, "")) for token in _inline(page))
    return [str(link) for link in found if link is not None]


def words(line: str) -> list[list[str]]:
    """The commands of a line of shell, each as its words; comments and redirections are left out."""
    reader = shlex.shlex(line, posix=True, punctuation_chars="|&;>")
    reader.whitespace_split = True
    commands: list[list[str]] = [[]]
    redirected = False
    for word in reader:
        if set(word) <= set("|&;"):
            commands.append([])
        elif word == ">":
            redirected = True
        elif redirected:
            redirected = False
        else:
            commands[-1].append(word)
    return [command for command in commands if command]


def shell_commands(page: str) -> list[list[str]]:
    """The commands in a page's blocks of shell, each as its words."""
    lines = [line for block in blocks(page) if block.language == "sh" for line in block.text.splitlines()]
    return [command for line in lines for command in words(line)]
