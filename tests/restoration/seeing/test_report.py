"""The page of before/after sliders: everything is in it, and it asks for nothing."""

import base64
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import error_of, run, succeeded
from PIL import Image, ImageCms

from rddm_fast.images.picture import Picture, write_image
from rddm_fast.restoration import report
from rddm_fast.restoration.report import PAGE, Pair, write_report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for name in ("a.png", "<b> & $c\x1b.png"):
        write_image(tmp_path / "in" / name, Picture(pixels=torch.rand(3, 20, 30)))
    return tmp_path / "in"


class Elements(HTMLParser):
    """The tags of a page with their attributes, and the texts within each kind of tag."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.texts: dict[str, list[str]] = {}
        self.open = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.open = tag
        self.tags.append((tag, {name: value or "" for name, value in attributes}))

    def handle_data(self, data: str) -> None:
        self.texts.setdefault(self.open, []).append(data)

    def attributes(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]


def picture(uri: str) -> Image.Image:
    head, _, data = uri.partition(",")
    assert head == "data:image/jpeg;base64"
    return Image.open(io.BytesIO(base64.b64decode(data)))


def test_the_page_of_a_folder(model: Path, photos: Path, tmp_path: Path) -> None:
    (photos / "bad.png").write_text("no picture")
    page = tmp_path / "new" / "report.html"
    command = ("restore", photos, "-o", tmp_path / "out", "-m", model, "--html", page)
    told = run(*command)
    assert told.exit_code == 1 and f"page: {page}" in told.stdout
    text = page.read_text(encoding="utf-8")
    found = Elements(text)
    assert found.texts["figcaption"] == [r"<b> & $c\x1b.png", "a.png"]
    assert re.fullmatch(r"30x20, \d+\.\d s", found.texts["small"][0])
    assert "bad.png is not a readable JPEG" in "".join(found.texts["li"]) and "1 failed" in found.texts["p"][0]
    images = found.attributes("img")
    assert [image["class"] for image in images] == ["after", "before"] * 2
    for image in images[2:]:
        with (
            picture(image["src"]) as shown,
            Image.open((tmp_path / "out", photos)[image["class"] == "before"] / "a.png") as own,
        ):
            ours, theirs = (np.asarray(x.convert("L"), np.float32) for x in (shown, own))
            assert shown.size == (30, 20) and abs(ours - theirs).mean() < 8
    # A second run shows the same pictures, though it restores none.
    (photos / "bad.png").unlink()
    told = succeeded(run(*command, "--json"))
    assert json.loads(told.stdout.splitlines()[-1])["page"] == str(page)
    again = Elements(page.read_text(encoding="utf-8"))
    assert again.attributes("img") == images and "from an earlier run" in again.texts["small"][0]
    assert "li" not in again.texts


def test_the_page_may_ask_for_nothing(photos: Path, tmp_path: Path) -> None:
    pair = Pair("a", photos / "a.png", photos / "a.png")
    write_report(tmp_path / "page.html", [pair], title="T")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    found = Elements(text)
    policy = next(x["content"] for x in found.attributes("meta") if x.get("http-equiv") == "Content-Security-Policy")
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == "'none'" and rules["img-src"] == "data:"
    for tag, rule in (("style", "style-src"), ("script", "script-src")):
        inside = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inside[0].encode()).digest()).decode()
        assert len(inside) == 1 and rules[rule] == f"'sha256-{digest}'"
    # Nothing in it names another place, and no attribute holds style or script, which the policy would refuse.
    names = {name for _, attributes in found.tags for name in attributes}
    assert not names & {"style", "href", "onclick", "onload", "srcset"}
    assert "://" not in re.sub(r"data:[^\"]*", "", text) and "url(" not in text and "@import" not in text


def test_large_pictures_and_profiles_and_many(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    write_image(tmp_path / "large.png", Picture(pixels=torch.rand(3, 20, 40), icc=profile))
    monkeypatch.setattr(report, "MOST_SIDE", 20)
    monkeypatch.setattr(report, "MOST_PICTURES", 1)
    pairs = [Pair(os.fsdecode(b"large\xe9"), tmp_path / "large.png", tmp_path / "large.png", "3 s")] * 3
    write_report(tmp_path / "page.html", pairs, title="T")
    found = Elements((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert found.texts["figcaption"] == [r"large\udce9"]
    assert found.texts["small"][0] == "40x20, shown smaller, 3 s"
    assert "2 more pictures are not shown: a page holds 1" in found.texts["li"]
    after = found.attributes("img")[0]
    assert (after["width"], after["height"]) == ("40", "20")
    with picture(after["src"]) as shown:
        assert shown.size == (20, 10) and shown.info["icc_profile"] == profile


def test_what_is_no_page_is_refused_before_any_work(
    model: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("restore", photos, "-o", tmp_path / "out", "-m", model, "--html")
    assert "--html is" in (line := error_of(run(*command, photos / "a.png"))) and "name a page" in line
    (tmp_path / "file").touch()
    assert error_of(run(*command, tmp_path / "file" / "page.html"))
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "leave it out under a launcher" in error_of(run(*command, tmp_path / "page.html"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "in"]


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_in_a_browser(photos: Path, tmp_path: Path) -> None:
    """The page's script runs under its policy; and keys and a pointer move the slider."""
    pair = Pair("a", photos / "a.png", photos / "a.png")
    write_report(tmp_path / "page.html", [pair], title="T")
    assert 'aria-valuetext="50 % before, the rest after"' in in_browser(tmp_path / "page.html")

    # The policy lets no test in: so the parts of the page, without it.
    keys = "for (const key of ['ArrowRight', 'ArrowUp', 'ArrowLeft', 'ArrowRight']) "
    keys += "range.dispatchEvent(new KeyboardEvent('keydown', { key }));"
    pointer = "const box = stage.getBoundingClientRect(); stage.dispatchEvent(new PointerEvent('pointerdown', "
    pointer += "{ button: 0, clientX: box.left + box.width * 0.25, clientY: box.top + 5 }));"
    body = re.search(r"<main.*</main>", (tmp_path / "page.html").read_text(), re.DOTALL)
    assert body is not None
    css, script = (PAGE / "slider.css").read_text(), (PAGE / "slider.js").read_text()
    for does, expected in ((keys, 54), (pointer, 25)):
        find = "const stage = document.querySelector('.stage'), range = stage.querySelector('input');"
        page = f"<style>{css}</style>{body[0]}<script>{script}</script><script>{find}{does}</script>"
        (tmp_path / "try.html").write_text(page, encoding="utf-8")
        assert f'aria-valuetext="{expected} % before' in in_browser(tmp_path / "try.html")


def in_browser(page: Path) -> str:
    """The page as it is after its scripts have run."""
    assert CHROMIUM is not None
    flags = ("--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={page.parent / 'profile'}", "--dump-dom")
    done = subprocess.run([CHROMIUM, *flags, page.as_uri()], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout
