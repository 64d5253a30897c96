"""`make docs`: the site is built without a warning, complete, and asks nothing of another host."""

from __future__ import annotations

import importlib
import re
import zlib
from html.parser import HTMLParser
from pathlib import Path

import pytest
from commands import python
from pages import PAGES, ROOT, links

FACES = ("", ".compat", ".diffusion", ".fast", ".images", ".inverse", ".inverse.cold", ".inverse.operators", ".ops")
FOREIGN = re.compile(r"(https?:)?//")


class Requests(HTMLParser):
    """The addresses that a browser asks for when it opens a page; links are asked for when somebody follows them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        asked = [named.get("src"), named.get("srcset"), named.get("data") if tag == "object" else None]
        if tag == "link" and named.get("rel") not in ("canonical", "next", "prev"):
            asked.append(named.get("href"))
        self.addresses += [address for address in asked if address]


@pytest.fixture(name="site", scope="module")
def _site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("material", reason="mkdocs-material is not installed: pip install 'rddm_fast[docs]'")
    pytest.importorskip("mkdocstrings_handlers.python", reason="mkdocstrings-python is not installed")
    folder = tmp_path_factory.mktemp("site")
    built = python("-m", "mkdocs", "build", "--strict", "--site-dir", folder, cwd=ROOT)
    assert built.returncode == 0, built.stderr
    return folder


def test_every_page_and_what_it_links_to_is_there(site: Path) -> None:
    for page in PAGES:
        if page.startswith("docs/"):
            assert (site / page.removeprefix("docs/")).with_suffix(".html").exists()
    for linked in ("CONTRIBUTING.html", "rddm_fast/models/NOTICE.html", "examples/restore.cpp"):
        assert (site / "files" / linked).exists()
    copy = site / "files" / "benchmarks" / "results" / "demo.jpg"
    assert copy.read_bytes() == (ROOT / "benchmarks" / "results" / "demo.jpg").read_bytes()
    assert "files/benchmarks/results/demo.jpg" in Requests((site / "index.html").read_text("utf-8")).addresses


def test_nothing_is_asked_of_another_host(site: Path) -> None:
    pages = [*site.rglob("*.html")]
    assert len(pages) > len(PAGES)
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert [a for a in Requests(text).addresses if FOREIGN.match(a)] == [], page
        assert 'class="mermaid"' not in text  # the theme would fetch a library for it
    for sheet in site.rglob("*.css"):
        text = sheet.read_text(encoding="utf-8")
        assert [a for a in re.findall(r"(?:url\(|@import\s*)[\"']?([^\"')]+)", text) if FOREIGN.match(a)] == [], sheet


def test_every_public_name_is_in_the_reference(site: Path) -> None:
    """By the inventory that the site gives to other projects' documentation."""
    inventory = zlib.decompress((site / "objects.inv").read_bytes().split(b"\n", 4)[4]).decode()
    described = {line.split(" ", 1)[0] for line in inventory.splitlines()}
    public = {}
    for face in FACES:
        module = importlib.import_module(f"rddm_fast{face}")
        for name in module.__all__:
            thing = getattr(module, name)
            if callable(thing):
                public[f"rddm_fast{face}.{name}"] = f"{thing.__module__}.{thing.__qualname__}"
    assert {name for name, home in public.items() if home not in described} == set()


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files(page: str) -> None:
    """Also where the repository is read, not the site."""
    local = [link.split("#")[0] for link in links(page) if not FOREIGN.match(link) and not link.startswith("#")]
    assert [link for link in local if not (ROOT / page).parent.joinpath(link).is_file()] == []


def test_the_readme_is_one_page() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 80


def test_the_citation_names_the_paper_and_the_package() -> None:
    yaml = pytest.importorskip("yaml")
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["cff-version"] == "1.2.0" and {"message", "title", "authors"} <= citation.keys()
    version = importlib.import_module("rddm_fast").__version__
    assert (citation["version"], citation["license"]) == (version, "Apache-2.0")
    paper = citation["preferred-citation"]
    assert (paper["title"], paper["year"]) == ("Residual Denoising Diffusion Models", 2024)
    assert paper["authors"][0] == {"family-names": "Liu", "given-names": "Jiawei"}
    assert {"type": "other", "value": "arXiv:2308.13712"} in paper["identifiers"]
