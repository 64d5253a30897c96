"""The server of the page: on this computer alone, for this page alone.

    GET  /                         the page, and its styles and scripts by their names
    GET  /models                   what it offers (JSON)
    POST /restore?model=derain     body: a picture's file; answers the result, with the seconds in X-Seconds
    POST /solve?operator=sr:4      the same, from a formula of the degradation
    POST /film?model=derain        the images of the sampler's steps (JSON)
    POST /convert?to=png           the picture in another format
    GET  /progress?job=NAME        {"done": 3, "of": 8}, in tiles or steps
    DELETE /job?job=NAME           cancel it

Settings of all that restores: steps, name (of the file), job, format (png, or own for the file's), and mask: how many
bytes at the end of the body are the file of a mask. Errors are JSON: {"error": a sentence}.
"""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

import torch

from ..images.formats import WRITE_SUFFIXES
from ..inverse.restore import METHODS
from ..restoration.report import content_policy
from ..system.errors import one_line, quoted
from ..system.memory import out_of_memory
from .jobs import Cancelled, Job, Jobs, Refused
from .limits import MOST_BYTES, SMALL
from .offer import offer
from .pages import part, parts
from .query import Query
from .restoring import Restoring, Result, Upload, converted

HOST = "127.0.0.1"
_TYPES = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".webp": "image/webp"}
_TYPES |= {".bmp": "image/bmp", ".tif": "image/tiff", ".tiff": "image/tiff"}
_POLICY = content_policy(img="'self' blob: data:", style="'self'", script="'self'", connect="'self'")
_HEADERS = {
    "Content-Security-Policy": f"{_POLICY}; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


@dataclass(frozen=True)
class Reply:
    """An answer: its status, the body with its type, and more headers."""

    body: bytes
    type: str
    status: HTTPStatus = HTTPStatus.OK
    headers: dict[str, str] = field(default_factory=dict)


class Refusal(Exception):
    """A request that is not answered otherwise than by a status and a sentence."""

    def __init__(self, status: HTTPStatus, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


class Server(ThreadingHTTPServer):
    """Serves the page on 127.0.0.1; `serve_forever` begins, `stop` ends what is at work.

    Args:
        port: 0 takes a free one.
        device: where to compute.

    Raises:
        OSError: the port is in use, or not allowed.
    """

    daemon_threads = True

    def __init__(self, port: int, device: torch.device) -> None:
        super().__init__((HOST, port), Handler)
        self.restoring, self.jobs = Restoring(device), Jobs()
        port_is_told = "" if self.server_port == 80 else f":{self.server_port}"
        self.hosts = {HOST + port_is_told, "localhost" + port_is_told}
        self.offer = offer()

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.server_port}/"

    def stop(self) -> None:
        """Cancel what is at work and close the port."""
        self.jobs.stop()
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print no traceback of a page that was closed while it was answered."""
        if not isinstance(sys.exc_info()[1], ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    """Answers the requests of one connection."""

    server: Server
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "rddm_fast", ""
    timeout = 60  # seconds without a byte of a request
    body = b""

    def do_GET(self) -> None:
        self._answer({"/models": self._models, "/progress": self._progress, **dict.fromkeys(parts(), self._part)})

    def do_POST(self) -> None:
        routes = {"/restore": self._restore, "/solve": self._solve, "/film": self._film, "/convert": self._convert}
        self._answer(routes)

    def do_DELETE(self) -> None:
        self._answer({"/job": self._cancel})

    def _answer(self, routes: Mapping[str, Callable[[Query], Reply]]) -> None:
        address = urlsplit(self.path)
        try:
            self._check_sender()
            if address.path not in routes:
                raise Refusal(HTTPStatus.NOT_FOUND, f"there is nothing at {self.command} {quoted(address.path)}")
            self.body = self._read_body()
            query = Query(address.query)
            reply = routes[address.path](query)
        except Refusal as refusal:
            self.close_connection = True  # the body was not read
            reply = _sentence(refusal.status, str(refusal))
        except Refused as error:
            reply = _sentence(HTTPStatus.SERVICE_UNAVAILABLE, str(error))
        except Cancelled:
            reply = _sentence(HTTPStatus.CONFLICT, "this job was cancelled")
        except (ConnectionError, TimeoutError):
            raise
        except (ValueError, ImportError) as error:
            reply = _sentence(HTTPStatus.BAD_REQUEST, one_line(error))
        except Exception as error:
            if out_of_memory(error):
                reply = _sentence(
                    HTTPStatus.BAD_REQUEST, "this picture needs more memory than there is: make it smaller"
                )
            else:
                traceback.print_exc()
                sentence = f"this failed, which is a bug in rddm_fast: {type(error).__name__}: {one_line(error)}"
                reply = _sentence(HTTPStatus.INTERNAL_SERVER_ERROR, sentence)
        self._send(reply)

    def _check_sender(self) -> None:
        """Refuse other sites: their pages can reach this port, by its number or by a name that leads to it."""
        if self.headers.get("Host") not in self.server.hosts:
            raise Refusal(HTTPStatus.FORBIDDEN, f"this server is {self.server.url} and answers to no other name")
        origin = self.headers.get("Origin")
        foreign = origin is not None and origin not in {f"http://{host}" for host in self.server.hosts}
        if foreign or self.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
            raise Refusal(HTTPStatus.FORBIDDEN, "this server answers its own page alone, not that of another site")

    def _read_body(self) -> bytes:
        length = self.headers.get("Content-Length", "" if self.command == "POST" else "0")
        if not (length.isascii() and length.isdigit()) or "Transfer-Encoding" in self.headers:
            raise Refusal(HTTPStatus.LENGTH_REQUIRED, "the request does not say how long its body is: Content-Length")
        if len(length) > 12 or int(length) > MOST_BYTES:
            limit = f"at most {MOST_BYTES // 2**20} MB are taken"
            raise Refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the file is too large: {limit}")
        body = self.rfile.read(int(length))
        if len(body) < int(length):
            raise ConnectionAbortedError
        return body

    # -- routes ---------------------------------------------------------------------------------------------

    def _part(self, query: Query) -> Reply:
        query.finish()
        return Reply(*part(urlsplit(self.path).path))

    def _models(self, query: Query) -> Reply:
        query.finish()
        return _json(self.server.offer)

    def _progress(self, query: Query) -> Reply:
        progress = self.server.jobs.progress(self._named_job(query))
        if progress is None:
            return _sentence(HTTPStatus.NOT_FOUND, "there is no such job")
        return _json(dict(zip(("done", "of"), progress, strict=True)))

    def _cancel(self, query: Query) -> Reply:
        found = self.server.jobs.cancel(self._named_job(query))
        return _json({"cancelled": True}) if found else _sentence(HTTPStatus.NOT_FOUND, "there is no such job")

    def _restore(self, query: Query) -> Reply:
        model, steps = self._model(query)
        upload = self._upload(query)
        suffix, restored = self._suffix(query, upload), self.server.restoring.restored
        return self._result(query, lambda job: restored(upload, suffix, model, steps, job.advance))

    def _solve(self, query: Query) -> Reply:
        settings = _solver_settings(query)
        upload = self._upload(query)
        suffix, solved = self._suffix(query, upload), self.server.restoring.solved
        return self._result(query, lambda job: solved(upload, suffix, settings, job.advance))

    def _convert(self, query: Query) -> Reply:
        suffix = "." + query.one_of("to", sorted(known[1:] for known in WRITE_SUFFIXES))
        side = query.whole("side", 1, 16 * SMALL)
        upload = self._upload(query)
        return self._result(query, lambda _: converted(upload, suffix, side))

    def _film(self, query: Query) -> Reply:
        model, steps = self._model(query)
        upload = self._upload(query)
        name = query.job()
        query.finish()
        return _json(self.server.jobs.run(name, lambda _: self.server.restoring.film(upload, model, steps)))

    # -- their settings -------------------------------------------------------------------------------------

    def _model(self, query: Query) -> tuple[str, int | None]:
        """Read the model, which must be one that is offered: no other folder is ever opened; and the steps."""
        names = [model["name"] for model in self.server.offer["models"]]
        return query.one_of("model", names, names[0]), query.whole("steps", 1, 1000)

    def _upload(self, query: Query) -> Upload:
        masked = query.whole("mask", 1, MOST_BYTES)
        if masked is None:
            return Upload(self.body, query.file())
        if masked >= len(self.body):
            raise ValueError(f"mask is {masked} bytes, and the body has {len(self.body)}: the picture comes first")
        return Upload(self.body[:-masked], query.file(), self.body[-masked:])

    def _suffix(self, query: Query, upload: Upload) -> str:
        return upload.suffix() if query.one_of("format", ["png", "own"], "png") == "own" else ".png"

    def _named_job(self, query: Query) -> str:
        name = query.job()
        query.finish()
        if name is None:
            raise ValueError("job is missing: add job=")
        return name

    def _result(self, query: Query, work: Callable[[Job], Result]) -> Reply:
        name = query.job()
        query.finish()
        result = self.server.jobs.run(name, work)
        return Reply(result.data, _TYPES[result.suffix], headers={"X-Seconds": f"{result.seconds:.3f}"})

    # -- sending --------------------------------------------------------------------------------------------

    def _send(self, reply: Reply) -> None:
        self.send_response(reply.status)
        headers = {**_HEADERS, **reply.headers, "Content-Type": reply.type, "Content-Length": str(len(reply.body))}
        if self.close_connection:
            headers["Connection"] = "close"
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(reply.body)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer what is no request of HTTP that is known, as every error is answered."""
        self.close_connection = True
        status = HTTPStatus(code)
        self._send(_sentence(status, message or status.phrase))

    def log_message(self, format: str, *args: Any) -> None:
        """Print no line for each request."""


def _solver_settings(query: Query) -> dict[str, Any]:
    """Read what `Solver` takes; what a method does not know is refused by it or by `Query.finish`."""
    method = query.one_of("method", list(METHODS), "ddnm")
    settings: dict[str, Any] = {"operator": query.text("operator"), "method": method}
    settings |= {"steps": query.whole("steps", 1, 1000), "sigma_y": query.number("sigma_y", 0.0)}
    settings["eta"] = query.number("eta", 0.85)
    if method == "ddrm":
        return settings | {"eta_b": query.number("eta_b", 1.0)}
    return settings | {"travel": (query.whole("back", 1, 1000) or 1, query.whole("times", 1, 1000) or 1)}


def _json(content: Any) -> Reply:
    return Reply(json.dumps(content).encode(), "application/json")


def _sentence(status: HTTPStatus, sentence: str) -> Reply:
    return Reply(json.dumps({"error": sentence}).encode(), "application/json", status)
