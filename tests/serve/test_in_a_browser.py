"""The page in Chromium without a window: what a user does, from dropping files to saving the results."""

import base64
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from browser import CHROMIUM, DRIVER, Browser, browser
from client import Client, file_of
from PIL import Image

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed"),
    pytest.mark.skipif(DRIVER is None, reason="chromedriver (chromium-driver) is not installed"),
]

DROP = """
const [name, data, type] = [arguments[0], arguments[1], arguments[2]];
const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
window.held ??= new DataTransfer();
held.items.add(new File([bytes], name, { type }));
"""
STATES = "[...document.querySelectorAll('#queue li')].map((row) => row.className.split(' ')[0])"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("saved")) as session:
        yield session


def hold(page: Browser, name: str, data: bytes, type: str) -> None:
    """Take a file into the hand, to drop or paste it."""
    page.run(DROP, name, base64.b64encode(data).decode(), type)


def opened(page: Browser, ask: Client) -> None:
    page.open(ask.server.url)
    page.until("document.querySelectorAll('.card').length > 3")


def test_three_files_dropped_two_restored_one_refused(page: Browser, ask: Client, pixels: np.ndarray) -> None:
    opened(page, ask)
    hold(page, "a.jpg", file_of(pixels, "JPEG"), "image/jpeg")
    hold(page, "broken.png", b"no picture", "image/png")
    hold(page, "<b>.tif", file_of(pixels, "TIFF"), "image/tiff")  # which Chromium does not show
    page.run(
        "document.body.dispatchEvent(new DragEvent('drop', { bubbles: true, cancelable: true, dataTransfer: held }))"
    )
    page.until(f"{STATES}.join() === 'ready,failed,ready'")
    page.run("document.querySelector('#steps').value = 1")
    page.click("#restore-all")
    page.until(f"{STATES}.join() === 'done,failed,done'")
    sentences = page.run("return [...document.querySelectorAll('#queue small')].map((told) => told.textContent)")
    assert sentences[1] == "broken.png is not a readable JPEG, PNG, TIFF, BMP, WebP or GIF image"
    assert sentences[0].startswith("restored, rain, ") and sentences[2].startswith("restored, rain, ")
    assert page.run("return [...document.querySelectorAll('#queue b')].map((name) => name.textContent)")[2] == "<b>.tif"

    # Keys and the pointer move the slider of the picture that is shown.
    where = "document.querySelector('#viewport .slider input').value"
    page.keys("#viewport .slider input", "\ue014\ue014\ue012")  # right, right, left
    assert page.run(f"return {where}") == "52"
    box = page.run("return document.querySelector('#viewport .stage').getBoundingClientRect().width")
    page.drag("#viewport .stage", [(0, 0), (round(box / 4), 0)])
    assert abs(float(page.run(f"return {where}")) - 75) < 1

    # Zoomed to 100 %, a pixel is a pixel.
    page.click("[data-zoom=full]")
    assert page.run("return document.querySelector('#viewport img.after').getBoundingClientRect().width") == 28
    page.click("[data-zoom=fit]")
    assert page.run("return document.querySelector('#viewport img.after').getBoundingClientRect().width") == box

    # Each is saved in its file's own format.
    saved = page.saved
    page.click("#save-all")
    expected = {"a-restored.jpg": "JPEG", "_b_-restored.tif": "TIFF"}
    page.wait(lambda: all((saved / name).exists() for name in expected))
    for name, kind in expected.items():
        with Image.open(saved / name) as image:
            assert (image.format, image.size) == (kind, (28, 20))

    # The page has asked its own server alone.
    asked = [url for url in page.requested() if not url.startswith(("blob:", "data:"))]
    assert any("/restore?" in url for url in asked)
    assert {url for url in asked if not url.startswith(ask.server.url)} == set()
    assert [told for told in page.complaints() if "Content Security Policy" in told] == []


def test_a_pasted_picture_with_a_painted_mask(page: Browser, ask: Client, pixels: np.ndarray) -> None:
    opened(page, ask)
    hold(page, "hole.png", file_of(pixels), "image/png")
    page.run("document.dispatchEvent(new ClipboardEvent('paste', { clipboardData: held }))")
    page.until(f"{STATES}.join() === 'ready'")
    page.run("document.querySelector('[value=inpaint]').click()")
    page.until("document.querySelector('#viewport canvas')")
    page.click("#restore")
    assert "paint a mask first" in page.run("return document.querySelector('#queue small').textContent")
    page.drag("#viewport canvas", [(-40, 0), (40, 0)])
    page.until("document.querySelectorAll('.card .untouched').length === 0")
    page.run("document.querySelector('#steps').value = 3")
    page.click("#restore")
    page.until(f"{STATES}.join() === 'done'")
    assert "restored, holes" in page.run("return document.querySelector('#queue small').textContent")

    # The steps that led there: the noisy start, and one image for each step.
    page.run("document.querySelector('#film').open = true")
    captions = "[...document.querySelectorAll('#frames figcaption')].map((one) => one.textContent)"
    assert page.until(f"{captions}.length > 1 && {captions}") == [
        "start, t = 1000",
        "t = 666",
        "t = 333",
        "result, t = 0",
    ]


def test_a_formula_on_a_phone(ask: Client, pixels: np.ndarray, tmp_path: Path) -> None:
    with browser(tmp_path, 390, 844) as page:
        opened(page, ask)
        (tmp_path / "small.png").write_bytes(file_of(pixels))
        page.keys("#files", str(tmp_path / "small.png"))
        page.until(f"{STATES}.join() === 'ready'")
        page.run("document.querySelector('[value=formula]').click()")
        select = "const field = document.querySelector('#formula select'); field.value = 'sr:F';"
        page.run(f"{select} field.dispatchEvent(new Event('input', {{ bubbles: true }}))")
        assert page.run("return document.querySelector('#formula [type=text]').value") == "4"
        page.run("document.querySelector('#steps').value = 2")
        page.click("#restore")
        page.until(f"{STATES}.join() === 'done'")
        assert page.until("document.querySelector('#facts').textContent").startswith("28 × 20 to 112 × 80")
        # Nothing is wider than the screen.
        assert page.run("return document.documentElement.scrollWidth") == 390
        page.screenshot(tmp_path / "phone.png")
        with Image.open(io.BytesIO((tmp_path / "phone.png").read_bytes())) as image:
            assert image.width == 390
