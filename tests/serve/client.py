"""Requests of the page's server, and the files that they send."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPMessage
from typing import Any

import numpy as np
from PIL import Image

from rddm_fast.serve.server import Server


@dataclass(frozen=True)
class Answer:
    status: int
    headers: HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        """The sentence of an answer that is an error."""
        assert self.status >= 400 and self.headers["Content-Type"] == "application/json"
        return self.json["error"]

    @property
    def pixels(self) -> np.ndarray:
        """The picture of the answer, uint8 (H, W, 3), as Pillow reads it."""
        assert self.status == 200, self.body
        with Image.open(io.BytesIO(self.body)) as image:
            return np.asarray(image.convert("RGB"))


@dataclass
class Client:
    server: Server

    def __call__(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Answer:
        """Ask once, on a connection of its own; a header's name is written with _."""
        connection = HTTPConnection("127.0.0.1", self.server.server_port, timeout=60)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body, named)
        answer = connection.getresponse()
        told = Answer(answer.status, answer.headers, answer.read())
        connection.close()
        return told


def file_of(pixels: np.ndarray, format: str = "PNG", **options: Any) -> bytes:
    """The bytes of a picture's file, as Pillow writes it."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format, **options)
    return buffer.getvalue()
