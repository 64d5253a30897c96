"""The errors of models that cannot be read: one sentence each, which says what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ..system.errors import one_line


class ModelError(ValueError):
    """A model cannot be read; the message is one sentence that says what to do."""


class MissingArgument(ModelError):
    """A published checkpoint does not store something that is needed; `name` is the argument to pass."""

    def __init__(self, name: str, reason: str, choices: str) -> None:
        super().__init__(f"{reason}: pass {name}= ({choices})")
        self.name, self.reason, self.choices = name, reason, choices


@contextmanager
def reading(source: object) -> Iterator[None]:
    """Turn whatever a malformed file makes Python raise while it is read into a ModelError that names `source`.

    A file can be wrong in more ways than are looked for. A ValueError is a sentence already, and only lacks the name.
    """
    try:
        yield
    except ModelError:
        raise
    except KeyError as error:
        raise ModelError(f"{source} has no field {error}: save the model again") from error
    except ValueError as error:
        raise ModelError(f"{source}: {one_line(error)}") from error
    except Exception as error:
        raise ModelError(f"{source} cannot be read as a model: {one_line(error)}") from error
