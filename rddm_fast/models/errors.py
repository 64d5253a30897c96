"""The errors of models that cannot be read: one sentence each, which says what to do."""

from __future__ import annotations


class ModelError(ValueError):
    """A model cannot be read; the message is one sentence that says what to do."""


class MissingArgument(ModelError):
    """A published checkpoint does not store something that is needed; `name` is the argument to pass."""

    def __init__(self, name: str, reason: str, choices: str) -> None:
        super().__init__(f"{reason}: pass {name}= ({choices})")
        self.name, self.reason, self.choices = name, reason, choices
