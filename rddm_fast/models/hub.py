"""Models on the Hugging Face Hub: `load_model("hub:owner/name")` and `push_model` (`pip install 'rddm_fast[hub]'`).

A repository holds what a model folder holds. What was fetched once stays in huggingface_hub's cache, also without a
network.
"""

from __future__ import annotations

import json
import re
from os import PathLike
from pathlib import Path
from typing import Any

from ..system.errors import one_line
from ..system.extras import require
from .card import FILE, write_card
from .errors import ModelError

PREFIX = "hub:"
FILES = ("config.json", "model.safetensors")
_NAME = re.compile(r"(?P<repository>[\w.-]+/[\w.-]+)(?:@(?P<revision>\S+))?")


def is_on_hub(name: str | PathLike[str]) -> bool:
    """Return whether a model's name is one on the Hub."""
    return str(name).startswith(PREFIX)


def fetched(name: str) -> Path:
    """Fetch the model "hub:owner/name" or "hub:owner/name@revision"; return its folder in the cache.

    Args:
        name: the revision is a branch, a tag or a commit; without one it is the main branch.

    Raises:
        ModelError: the name is no such name, the repository or its revision does not exist, is closed to this user or
            holds no model, or it is not in the cache and cannot be reached.
        ImportError: huggingface_hub is not installed.
    """
    hub = require("huggingface_hub", "hub")
    errors = require("huggingface_hub.errors", "hub")
    repository, revision = _parsed(name)
    page = f"https://huggingface.co/{repository}"
    try:
        folder = Path(hub.snapshot_download(repository, revision=revision, allow_patterns=list(FILES)))
    except errors.GatedRepoError as error:
        raise ModelError(f"{name} is gated: ask for access on {page} and log in by `hf auth login`") from error
    except errors.RepositoryNotFoundError as error:
        raise ModelError(
            f"there is no model {repository} on the Hub, or it is private: correct the name, or log in by "
            "`hf auth login`"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise ModelError(f"{repository} has no revision {revision}: see {page}/commits") from error
    except errors.LocalEntryNotFoundError as error:
        if isinstance(error.__cause__, errors.OfflineModeIsEnabled):
            advice = "HF_HUB_OFFLINE forbids to fetch it: unset that, or load the model once where there is a network"
        else:
            advice = "the Hub cannot be reached: check the network connection"
        raise ModelError(f"{name} is not in the local cache, and {advice}") from error
    except Exception as error:
        raise ModelError(f"{name} cannot be fetched: {one_line(error)}") from error
    for file in FILES:
        if not (folder / file).is_file():
            raise ModelError(f"{name} is not a model of rddm_fast: the repository holds no {file}")
    return folder


def push_model(
    folder: str | PathLike[str], repository: str, *, private: bool = False, message: str = "Upload an RDDM model"
) -> str:
    """Upload a model folder to the Hub, and return the address of the commit.

    The repository is made if it does not exist. The folder's model card gets the repository's name, unless somebody
    has rewritten it.

    Args:
        folder: a folder that `save_model` wrote.
        repository: "owner/name".
        private: whether a new repository is private.
        message: the commit's message.

    Raises:
        ModelError: the folder holds no model, the name is not one, or the Hub does not take it.
        ImportError: huggingface_hub is not installed.
    """
    hub = require("huggingface_hub", "hub")
    repository, revision = _parsed(repository if is_on_hub(repository) else PREFIX + repository)
    if revision is not None:
        raise ModelError(f"a model is pushed to a repository, not to a revision of it: leave out @{revision}")
    folder = Path(folder)
    for file in FILES:
        if not (folder / file).is_file():
            raise ModelError(f"{folder} is not a model folder: it holds no {file}")
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        write_card(folder, config, repository)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{folder} is not a model folder: its config.json is damaged or of another kind") from error
    try:
        hub.create_repo(repository, private=private, exist_ok=True)
        commit = hub.upload_folder(
            repo_id=repository, folder_path=folder, allow_patterns=[*FILES, FILE], commit_message=message
        )
    except Exception as error:
        raise ModelError(_why_not_pushed(repository, error)) from error
    return str(commit)


def _parsed(name: str) -> tuple[str, str | None]:
    """Return the repository and the revision of "hub:owner/name@revision"."""
    found = _NAME.fullmatch(name.removeprefix(PREFIX))
    if found is None:
        raise ModelError(f"{name} names no model on the Hub: write {PREFIX}owner/name, or {PREFIX}owner/name@revision")
    return found["repository"], found["revision"]


def _why_not_pushed(repository: str, error: Any) -> str:
    errors = require("huggingface_hub.errors", "hub")
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, errors.OfflineModeIsEnabled):
        return f"HF_HUB_OFFLINE forbids to push to {repository}: unset it"
    if isinstance(error, errors.LocalTokenNotFoundError) or status in (401, 403):
        return f"the Hub does not let you write to {repository}: log in by `hf auth login` as one who may"
    return f"the model cannot be pushed to {repository}: {one_line(error)}"
