"""`rddm-fast serve`."""

from __future__ import annotations

import webbrowser
from typing import Annotated

import typer

from ..common.app import Device, Where, command, device_of, out


@command
def serve(
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port on 127.0.0.1; 0: one that is free.")] = 0,
    open_page: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    device: Where = Device.auto,
) -> None:
    """Restore pictures on a page in the browser: drop them, see before and after, save the results.

    The page is served by this computer to this computer alone (127.0.0.1). No picture leaves it, and no file is written
    but what is saved. Ctrl-C ends it.
    """
    from ...serve.server import Server

    try:
        server = Server(port, device_of(device))
    except OSError as error:
        raise ValueError(
            f"port is {port}, which cannot be used ({error.strerror}): take another, or 0 for a free one"
        ) from error
    out.print(f"The page is at {server.url} (Ctrl-C ends it)")
    if open_page:
        webbrowser.open(server.url)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        out.print("ending")
    finally:
        server.stop()
