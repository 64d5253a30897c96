"""Errors of the compiled ops: the sentence alone, without function, file and line."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from rddm_fast.ops import backends

pytestmark = pytest.mark.skipif(backends.build_info is None, reason=backends.why_not_compiled)

X, ONE = torch.zeros(1, 4, 4, 4), torch.ones(4)
OPS = torch.ops.rddm_fast
CALLS: dict[str, tuple[Callable[[], object], str]] = {
    "group_norm_silu": (
        lambda: OPS.group_norm_silu(X, None, ONE, ONE, 3, 1e-5, None, None),
        "group_norm_silu: the channels must divide into the groups",
    ),
    "walsh_hadamard": (lambda: OPS.walsh_hadamard(X[..., :3]), "walsh_hadamard: "),
    "forward_diffuse": (
        lambda: OPS.forward_diffuse(X, X, torch.tensor([9]), ONE, ONE, X, None, 0),
        "forward_diffuse: t[0] ",
    ),
}


@pytest.mark.parametrize("op", CALLS)
def test_an_error_is_the_sentence_alone(op: str) -> None:
    call, sentence = CALLS[op]
    with pytest.raises(RuntimeError) as raised:
        call()
    assert str(raised.value).startswith(sentence) and "csrc" not in str(raised.value)


def test_the_library_names_no_folder_of_the_machine_that_built_it() -> None:
    content = backends.LIBRARY.read_bytes()
    assert not re.findall(rb"/[\w./-]*/csrc/[\w/]+\.\w+", content)
    assert str(Path(torch.__file__).parent).encode() not in content
