"""The command line: `rddm-fast demo | restore | models | evaluate | compile | tune | export | train | paths | …`.

Commands are thin, one per file: each turns its options into a call of the module that does the work, and prints. A
user's mistake ends in one sentence and exit code 1; `--debug` shows the traceback instead.
"""

from .common.app import app, main

# isort: split
# Importing a command registers it, in the order in which --help lists them.
from . import demo, restore, evaluate, export, train, paths, convert, doctor, ddim, bench, env  # noqa: F401, I001
from .ahead import compile, tune  # noqa: F401
from .inverse import cold, operators  # noqa: F401
from .seeing import models, serve  # noqa: F401

__all__ = ["app", "main"]
