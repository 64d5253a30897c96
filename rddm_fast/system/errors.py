"""Errors told in one sentence."""


def one_line(error: BaseException) -> str:
    """An error's message on one line, or the name of its type where it has none."""
    return " ".join(str(error).split()) or type(error).__name__
