"""Settings of training: `read_settings` of damaged and made-up files, `--set` texts, and the model they describe."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from rddm_fast.models.errors import ModelError
from rddm_fast.system.extras import require
from rddm_fast.training.from_settings import model_of
from rddm_fast.training.presets import PRESETS, preset
from rddm_fast.training.settings import RunSettings, SettingsError, read_settings, setting_of

from . import mutate
from .contract import Found, kept

BOMB = b"a: &a [x,x,x,x,x,x,x,x,x]\n" + b"".join(
    b"%c: &%c [*%c,*%c,*%c,*%c,*%c,*%c,*%c,*%c,*%c]\n" % (b + 1, b + 1, *[b] * 9) for b in range(ord("a"), ord("i"))
)
"""YAML of 400 bytes whose value is written in gigabytes."""
SCRAPS = (
    *(b"model: *x", b"? [1]\n: 2", b"!!python/object:os.system {}", b"2001-99-99", b"<<: 3", b"&a [*a]", b"!!int x"),
    *(
        b"!!float x",
        b"!!timestamp x",
        b"!!binary x",
        b"0x" + b"f" * 5000,
        b"1" * 5000,
        b"---\n---",
        b"%YAML 9.9\n---\n",
    ),
    *(
        b"\t",
        b"\x00",
        b"\xff",
        b"{" * 5000,
        b"[" * 100_000,
        b"- " * 2000,
        b"1:" * 5000,
        b"!!set {1, 2}",
        b".nan",
        b"\x85",
    ),
    *(b"1" * 400 + b":30", b"!!omap [a]", b"!!pairs [[1]]", b"=", b"&a {*a: 1}", b"? &a [*a]\n: 1", BOMB),
)


def call(rng: random.Random, folder: Path) -> Found:
    """Read a settings file that is made in `folder` and a `--set` text, and build what they describe."""
    form = rng.choice(("yaml", "json"))
    path = folder / f"run.{form}"
    whole = RunSettings.of(preset(rng.choice(sorted(PRESETS))))
    values: Any = whole.as_mapping()
    values["model"] |= {"dim": 8, "mults": [1, 2]}
    how = rng.choice(("values", "values", "text", "scrap", "nothing", "set"))
    if how == "values":
        values = mutate.of_value(rng, values)
    elif how == "nothing":
        values = mutate.drawn(rng)
    content = _written(values, form)
    if how == "text":
        content = mutate.of_bytes(rng, content, SCRAPS)
    elif how == "scrap":
        content = rng.choice((b"", b"model: ", b"train:\n  lr: ", b"preset: ", content)) + rng.choice(SCRAPS)
    path.write_bytes(content)
    texts = [_set_text(rng, whole) for _ in range(2 if how == "set" else rng.random() < 0.2)]

    def read_and_build() -> None:
        file = {} if how == "set" else read_settings(path)
        named = file.pop("preset", None)
        run = RunSettings.of({} if named is None else preset(named), file, *map(setting_of, texts))
        for text_form in ("yaml", "json"):
            again = folder / f"again.{text_form}"
            again.write_text(run.text(text_form), encoding="utf-8")
            assert repr(RunSettings.of(read_settings(again))) == repr(run), "written settings are read differently"
        if run.model.dim * max(run.model.mults) <= 64 or max(run.model.dim, *run.model.mults) > 1 << 30:
            model_of(run.model, bool(run.model.mask), run.data.side)

    # What the model's own classes refuse is a ValueError of theirs; a ModelError is about model.start_from.
    return kept(how, read_and_build, (SettingsError, ModelError, ValueError))


def _written(values: Any, form: str) -> bytes:
    if form == "json":
        return json.dumps(values).encode()
    return require("yaml", "train").safe_dump(values, sort_keys=False, allow_unicode=True).encode()


def _set_text(rng: random.Random, run: RunSettings) -> str:
    section, names = rng.choice(list(run.as_mapping().items()))
    value = rng.choice(
        (
            rng.choice(SCRAPS).decode("latin-1"),
            str(rng.choice(mutate.VALUES[:5])),
            repr(mutate.drawn(rng, 1)),
            "auto",
            "0.1",
        )
    )
    text = f"{section}.{rng.choice(list(names))}={value}"
    return mutate.of_bytes(rng, text.encode()).decode(errors="surrogateescape") if rng.random() < 0.3 else text
