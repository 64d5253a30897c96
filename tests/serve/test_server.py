"""The page's server, asked by HTTP alone: every address, what it refuses, and what it never does."""

import base64
import io
import json
import re
import threading
import time
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from client import Client, file_of
from PIL import Image

from rddm_fast.images.picture import Picture
from rddm_fast.inverse.operators.named import parsed
from rddm_fast.models.catalogue import BUILT_IN
from rddm_fast.models.folder import load_model
from rddm_fast.restoration.report import PAGE as SHARED
from rddm_fast.restoration.restore import Restorer
from rddm_fast.restoration.solve import Solver
from rddm_fast.serve.limits import MOST_BYTES


def picture_of(pixels: np.ndarray) -> Picture:
    return Picture(pixels=torch.from_numpy(pixels).permute(2, 0, 1) / 255)


def in_8_bits(pixels: torch.Tensor) -> np.ndarray:
    return (pixels.clamp(0, 1) * 255).round().permute(1, 2, 0).byte().numpy()


def test_the_page_and_all_that_it_names_are_there(ask: Client) -> None:
    page = ask("GET", "/")
    assert page.status == 200 and page.headers["Content-Type"].startswith("text/html")
    named: list[str] = []
    inline: list[str] = []

    class Names(HTMLParser):
        def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
            values = dict(attributes)
            named.extend(values[name] or "" for name in ("src", "href") if name in values)
            inline.extend(name for name in values if name == "style" or name.startswith("on"))
            if tag == "style" or (tag == "script" and "src" not in values):
                inline.append(tag)

    Names().feed(page.body.decode())
    assert inline == []
    scripts = [name for name in named if name.endswith(".js")]
    assert {"slider.js", "main.js"} <= set(scripts) and "slider.css" in named
    while scripts:
        script = ask("GET", f"/{scripts.pop()}").body.decode()
        scripts += (found := re.findall(r'from "\./(\w+\.js)"', script))
        named += found
    types = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
    for name in {name for name in named if not name.startswith("data:")}:
        answer = ask("GET", f"/{name}")
        assert answer.status == 200 and answer.headers["Content-Type"].startswith(types[name[name.rindex(".") :]])
        assert b"http://" not in answer.body.replace(b"http://www.w3.org", b"") and b"https://" not in answer.body
    # The slider is that of the page of restore --html.
    assert ask("GET", "/slider.js").body == (SHARED / "slider.js").read_bytes()
    assert b'<figure class="slider">' in page.body and b"$" not in page.body


def test_every_answer_forbids_the_browser_everything_else(ask: Client) -> None:
    for answer in (ask("GET", "/"), ask("GET", "/main.js"), ask("GET", "/none"), ask("BREW", "/")):
        rules = dict(rule.split(" ", 1) for rule in answer.headers["Content-Security-Policy"].split("; "))
        assert rules["default-src"] == rules["frame-ancestors"] == rules["form-action"] == rules["base-uri"] == "'none'"
        assert rules["script-src"] == rules["style-src"] == rules["connect-src"] == "'self'"
        assert answer.headers["X-Content-Type-Options"] == "nosniff" and answer.headers["Cache-Control"] == "no-store"


def test_what_the_page_offers_is_what_the_models_say(ask: Client) -> None:
    offered = ask("GET", "/models").json
    assert offered["models"][0]["name"] == "derain"
    named = {model["name"]: model for model in offered["models"]}
    settings = {path.parent.name: json.loads(path.read_text())["diffusion"] for path in BUILT_IN.glob("*/config.json")}
    assert set(named) == {name for name in settings if settings[name]["condition"]}
    assert {named[name]["wrong"] for name in ("derain", "denoise", "lowlight")} == {"rain", "noise", "too dark"}
    assert [name for name in named if named[name]["mask"]] == [n for n in named if settings[n]["input_condition"]]
    operators = [f"{one['name']}:{one['argument']}".rstrip(":") for one in offered["operators"]]
    assert [parsed(operator)[0] for operator in operators] == [one["name"] for one in offered["operators"]]
    assert {"sr:4", "inpaint"} <= set(operators) and "cs:0.25" not in operators
    assert ".png" in offered["reads"] and "ddrm" in {method["name"] for method in offered["methods"]}


def test_a_picture_is_restored_as_by_the_package(ask: Client, pixels: np.ndarray) -> None:
    answer = ask("POST", "/restore?model=derain&steps=2&name=a.jpg", file_of(pixels))
    assert answer.headers["Content-Type"] == "image/png" and float(answer.headers["X-Seconds"]) > 0
    restorer = Restorer(load_model("derain"), steps=2)
    assert np.array_equal(answer.pixels, in_8_bits(restorer(picture_of(pixels)).pixels))
    # In the file's own format; a format that is not written becomes PNG.
    for name, kind in (("a.jpg", "image/jpeg"), ("a.webp", "image/webp"), ("a.gif", "image/png"), ("", "image/png")):
        own = ask("POST", f"/restore?steps=2&format=own&name={name}", file_of(pixels))
        assert own.headers["Content-Type"] == kind
        assert abs(own.pixels.astype(int) - answer.pixels).max() <= (24 if kind == "image/jpeg" else 0)


def test_a_mask_follows_the_picture_and_is_stretched(ask: Client, pixels: np.ndarray) -> None:
    mask = np.zeros((10, 14), np.uint8)
    mask[:, :7] = 255
    picture, small, large = file_of(pixels), file_of(mask), file_of(mask.repeat(2, 0).repeat(2, 1))
    answers = [ask("POST", f"/restore?model=inpaint&steps=1&mask={len(m)}", picture + m) for m in (small, large)]
    assert answers[0].pixels.shape == pixels.shape and np.array_equal(answers[0].pixels, answers[1].pixels)
    assert "needs a mask" in ask("POST", "/restore?model=inpaint&name=a.png", picture).error
    assert "takes no mask" in ask("POST", f"/restore?model=derain&mask={len(small)}", picture + small).error
    assert "the picture comes first" in ask("POST", f"/restore?model=inpaint&mask={len(small)}", small).error
    assert "the mask of a.png" in ask("POST", "/restore?model=inpaint&mask=3&name=a.png", picture + b"bad").error


def test_a_formula(ask: Client, pixels: np.ndarray) -> None:
    answer = ask("POST", "/solve?operator=sr:2&steps=3&sigma_y=0.02&back=1&times=2", file_of(pixels))
    solver = Solver(load_model("prior-photos"), "sr:2", steps=3, sigma_y=0.02, travel=(1, 2), tile=256)
    assert answer.pixels.shape == (40, 56, 3)
    assert np.array_equal(answer.pixels, in_8_bits(solver(picture_of(pixels)).pixels))
    wrong = {
        "operator=sr:0": "sr:0",
        "operator=nosuch": "unknown operator",
        "operator=cs:0.25": "cannot be a measurement",
        "operator=inpaint": "needs a mask",
        "operator=color&method=magic": "choose ddnm",
        "operator=sr:2&method=ddrm&back=2": "not a setting",
        "operator=sr:2&sigma_y=many": "write a number",
        "operator=sr:2&sigma_y=-1": "0 or more",
        "operator=sr:2&sigma_y=nan": "write a number",
        "operator=sr:9999": "million pixels are made",
        "": "operator is missing",
    }
    for settings, sentence in wrong.items():
        assert sentence in ask("POST", f"/solve?{settings}", file_of(pixels)).error


def test_the_film_ends_in_the_result(ask: Client, pixels: np.ndarray) -> None:
    frames = ask("POST", "/film?model=derain&steps=2", file_of(pixels)).json["frames"]
    assert [frame["t"] for frame in frames] == [1000, 500, 0]
    head, _, data = frames[-1]["image"].partition(",")
    assert head == "data:image/png;base64"
    with Image.open(io.BytesIO(base64.b64decode(data))) as last:
        assert np.array_equal(last, ask("POST", "/restore?model=derain&steps=2", file_of(pixels)).pixels)


def test_conversion_keeps_what_a_picture_holds(ask: Client, pixels: np.ndarray) -> None:
    values = np.arange(20 * 28, dtype=np.uint16).reshape(20, 28) * 100
    png = ask("POST", "/convert?to=png&name=a.tif", file_of(values, "TIFF"))
    with Image.open(io.BytesIO(png.body)) as image:
        assert np.array_equal(np.asarray(image), values)
    tif = ask("POST", "/convert?to=tif&name=a.png", png.body)
    assert tif.headers["Content-Type"] == "image/tiff" and tif.body[:2] in (b"II", b"MM")
    assert ask("POST", "/convert?to=png&side=14", file_of(pixels)).pixels.shape == (10, 14, 3)
    assert ask("POST", "/convert?to=png&side=256", file_of(pixels)).pixels.shape == (20, 28, 3)
    assert "to is 'exe'" in ask("POST", "/convert?to=exe", file_of(pixels)).error


def test_a_broken_file_is_one_sentence_and_the_next_is_restored(ask: Client, pixels: np.ndarray) -> None:
    whole = file_of(np.random.default_rng(0).integers(0, 256, (20, 28, 3), np.uint8), "PNG")
    for data, sentence in (
        (b"no picture", "b.png is not a readable JPEG, PNG, TIFF, BMP, WebP or GIF image"),
        (whole[: len(whole) // 2], "b.png is damaged and cannot be read"),
        (b"", "b.png is empty (0 bytes)"),
    ):
        error = ask("POST", "/restore?steps=1&name=C:%5Cmy%5Cb.png", data).error
        assert error.startswith(sentence) and "\n" not in error
    assert "\\x1b" in ask("POST", "/restore?name=%1b%5bred.png", b"no").error
    assert ask("POST", "/restore?steps=1&name=b.png", file_of(pixels)).status == 200


def test_limits(ask: Client) -> None:
    answer = ask("POST", "/restore", b"", Content_Length=str(MOST_BYTES + 1))
    assert answer.status == 413 and "at most 64 MB" in answer.error and answer.headers["Connection"] == "close"
    assert ask("POST", "/restore", iter([b"x"]), Transfer_Encoding="chunked").status == 411  # type: ignore[arg-type]
    assert ask("POST", "/restore", b"", Content_Length="-5").status == 411
    many = Image.new("1", (8000, 8000))
    buffer = io.BytesIO()
    many.save(buffer, "PNG")
    error = ask("POST", "/restore?name=big.png", buffer.getvalue()).error
    assert error == "big.png has 8000x8000 pixels, and at most 50 million pixels are taken: make it smaller"


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "example.com"},
        {"Host": "127.0.0.1"},
        {"Host": "rebound.example:{port}"},
        {"Origin": "https://example.com"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
    ],
    ids=str,
)
def test_other_sites_are_refused(ask: Client, pixels: np.ndarray, headers: dict[str, str]) -> None:
    sent = {name: value.format(port=ask.server.server_port) for name, value in headers.items()}
    for method, path, body in (
        ("GET", "/", None),
        ("POST", "/restore?steps=1", file_of(pixels)),
        ("DELETE", "/job?job=a", None),
    ):
        assert ask(method, path, body, **sent).status == 403


def test_its_own_page_is_answered_by_both_names(ask: Client) -> None:
    for host in ("127.0.0.1", "localhost"):
        name = f"{host}:{ask.server.server_port}"
        assert ask("GET", "/models", Host=name, Origin=f"http://{name}", Sec_Fetch_Site="same-origin").status == 200
    assert ask.server.server_address[0] == "127.0.0.1"


@pytest.mark.parametrize(
    ("method", "path", "status", "sentence"),
    [
        ("GET", "/../server.py", 404, "there is nothing at GET"),
        ("GET", "/index.html", 404, "there is nothing"),
        ("GET", "/restore", 404, "there is nothing"),
        ("POST", "/models", 404, "there is nothing"),
        ("BREW", "/", 501, "BREW"),
        ("POST", "/restore?model=/etc", 400, "choose derain"),
        ("POST", "/restore?model=prior-photos", 400, "choose derain"),
        ("POST", "/restore?steps=0", 400, "a whole number from 1 to 1000"),
        ("POST", "/restore?steps=%C2%B2", 400, "a whole number from 1 to 1000"),
        ("POST", "/restore?steps=1&steps=2", 400, "steps is given twice"),
        ("POST", "/restore?stpes=1", 400, "stpes is not a setting"),
        ("POST", "/restore?job=a/b", 400, "letters, digits and hyphens"),
        ("POST", "/restore?format=exe", 400, "choose png, own"),
        ("GET", "/progress", 400, "job is missing"),
        ("GET", "/progress?job=none", 404, "no such job"),
        ("DELETE", "/job?job=none", 404, "no such job"),
        ("GET", "/models?x=1", 400, "not a setting"),
    ],
)
def test_wrong_requests(ask: Client, method: str, path: str, status: int, sentence: str) -> None:
    answer = ask(method, path, b"" if method == "POST" else None)
    assert answer.status == status and sentence in answer.error


def test_progress_and_cancelling(ask: Client, pixels: np.ndarray) -> None:
    answers = []
    path = "/solve?operator=denoising&method=ddnm&steps=1000&job=long-1"
    thread = threading.Thread(target=lambda: answers.append(ask("POST", path, file_of(pixels))))
    thread.start()
    seen = []
    while len(seen) < 2 or seen[-1]["done"] < 2:
        answer = ask("GET", "/progress?job=long-1")
        if answer.status == 200:
            seen.append(answer.json)
        time.sleep(0.01)
        assert thread.is_alive()
    assert seen[-1]["of"] == 1000 and [s["done"] for s in seen] == sorted(s["done"] for s in seen)
    second = ask("POST", path, file_of(pixels))
    assert second.status == 503 and "give each job a name of its own" in second.error
    assert ask("DELETE", "/job?job=long-1").json == {"cancelled": True}
    thread.join()
    assert answers[0].status == 409 and answers[0].error == "this job was cancelled"
    assert ask("GET", "/progress?job=long-1").status == 404
