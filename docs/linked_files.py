"""A hook of MkDocs: pages may link to files of the repository outside docs/.

A page writes the path as anybody follows it in the repository, such as ../examples/restore.cpp. The site gets a copy at
files/examples/restore.cpp, and the link leads there. A linked Markdown file becomes a page, whose links do the same.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

COPIES = "files"
_LINK = re.compile(r"(?<=\]\()(?!\w+:)([^)#\s]+)")
"""The path of a Markdown link or image, without its #anchor; not an address such as https://…"""


def _source(uri: str, config: MkDocsConfig) -> Path:
    """Return the file in the repository that the site's `uri` is made from."""
    docs = Path(config.docs_dir)
    first, _, rest = uri.partition("/")
    return docs.parent / rest if first == COPIES else docs / uri


def _uri(path: Path, config: MkDocsConfig) -> str:
    """Return where the site has a file of the repository."""
    docs = Path(config.docs_dir)
    if path.is_relative_to(docs):
        return path.relative_to(docs).as_posix()
    return f"{COPIES}/{path.relative_to(docs.parent).as_posix()}"


def _linked(uri: str, text: str, config: MkDocsConfig) -> Iterator[Path]:
    """Yield the files of the repository that a page links to."""
    for link in _LINK.findall(text):
        path = Path(os.path.normpath(_source(uri, config).parent / link))
        if path.is_file() and path.is_relative_to(Path(config.docs_dir).parent):
            yield path


def on_files(files: Files, config: MkDocsConfig) -> Files:
    pages = [file for file in files.documentation_pages() if file.inclusion.is_included()]
    while pages:
        page = pages.pop()
        for path in _linked(page.src_uri, page.content_string, config):
            uri = _uri(path, config)
            if files.get_file_from_path(uri) is None:
                copy = File.generated(config, uri, abs_src_path=str(path))
                files.append(copy)
                if copy.is_documentation_page():
                    pages.append(copy)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    here = page.file.src_uri

    def led(match: re.Match[str]) -> str:
        path = Path(os.path.normpath(_source(here, config).parent / match[1]))
        if not path.is_file() or not path.is_relative_to(Path(config.docs_dir).parent):
            return match[1]  # MkDocs tells of a link that leads nowhere
        return posixpath.relpath(_uri(path, config), posixpath.dirname(here) or ".")

    return _LINK.sub(led, markdown)
