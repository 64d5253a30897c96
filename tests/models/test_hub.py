"""Models on the Hub, without a network: a folder in the Hub's cache layout, and uploads that stay here."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from commands import error_of, run, succeeded
from small_models import assert_same_bits, images, small_model

pytest.importorskip("huggingface_hub")

import huggingface_hub
import huggingface_hub.constants
from huggingface_hub import errors

from rddm_fast import load_model, push_model
from rddm_fast.diffusion.cold_restorer import ColdRestorer
from rddm_fast.diffusion.residual_unets import ResidualUnets
from rddm_fast.images.picture import Picture, read_image, write_image
from rddm_fast.inverse.cold import Recipe
from rddm_fast.models.card import MARK, UNNAMED
from rddm_fast.models.errors import ModelError
from rddm_fast.models.folder import load_cold_restorer, save_model

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(name="cache", autouse=True)
def _cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty cache of huggingface_hub's, which may not ask the network."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "cache"


def repository(cache: Path, name: str, revision: str = "main") -> Path:
    """The folder in the cache of a repository's only commit."""
    here = cache / f"models--{name.replace('/', '--')}"
    (here / "refs").mkdir(parents=True)
    (here / "refs" / revision).write_text(COMMIT)
    (here / "snapshots" / COMMIT).mkdir(parents=True)
    return here / "snapshots" / COMMIT


@pytest.mark.parametrize("revision", [None, "v1", COMMIT])
def test_a_model_of_the_hub_is_loaded(revision: str | None, cache: Path) -> None:
    diffusion = small_model(dim=8)
    save_model(repository(cache, "me/rain.v1", revision or "main"), diffusion)
    loaded = load_model("hub:me/rain.v1" + ("" if revision is None else f"@{revision}"))
    assert_same_bits(loaded.state_dict(), diffusion.state_dict())


def test_a_cold_restorer_of_the_hub_is_loaded(cache: Path) -> None:
    recipe = Recipe.parsed("cold:fade").values()
    save_model(repository(cache, "me/fade"), ColdRestorer(ResidualUnets(8, networks="one", dim_mults=[1, 2]), recipe))
    assert load_cold_restorer("hub:me/fade").recipe == recipe
    with pytest.raises(ModelError, match="is a restorer of Cold Diffusion, not an RDDM model"):
        load_model("hub:me/fade")


def test_commands_take_a_model_of_the_hub(cache: Path, tmp_path: Path) -> None:
    save_model(repository(cache, "me/rain.pt"), small_model("pred_res", dim=8))
    write_image(tmp_path / "in.png", Picture(pixels=images(3, 16, 16)))
    succeeded(run("restore", tmp_path / "in.png", "-m", "hub:me/rain.pt", "-o", tmp_path / "out", "--device", "cpu"))
    assert read_image(tmp_path / "out" / "in.png").pixels.shape == (3, 16, 16)
    error = error_of(run("restore", tmp_path / "in.png", "-m", "hub:me/other", "-o", tmp_path / "out"))
    assert "hub:me/other is not in the local cache" in error


@pytest.mark.parametrize("name", ["hub:", "hub:rain", "hub:me/rain@", "hub:me/rain@a b", "hub:me/ra in", "hub:a/b/c"])
def test_a_name_that_is_none(name: str) -> None:
    with pytest.raises(ModelError) as error:
        load_model(name)
    assert str(error.value) == f"{name} names no model on the Hub: write hub:owner/name, or hub:owner/name@revision"


def test_what_is_not_in_the_cache_while_offline(cache: Path) -> None:
    (repository(cache, "me/half") / "config.json").write_text("{}")
    for name, sentence in (
        (
            "hub:me/rain",
            "hub:me/rain is not in the local cache, and HF_HUB_OFFLINE forbids to fetch it: unset that, or load the "
            "model once where there is a network",
        ),
        ("hub:me/half", "hub:me/half is not a model of rddm_fast: the repository holds no model.safetensors"),
    ):
        with pytest.raises(ModelError) as error:
            load_model(name)
        assert str(error.value) == sentence


def answered(kind: type[Exception], status: int) -> Exception:
    """An error of huggingface_hub's for an answer of this status, whatever its version makes answers of."""
    error = kind.__new__(kind, f"{status} Client Error")
    error.response = SimpleNamespace(status_code=status)  # type: ignore[attr-defined]
    return error


LOST = errors.LocalEntryNotFoundError("Got: ConnectError: name resolution\nAn error happened")


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (
            answered(errors.RepositoryNotFoundError, 404),
            "there is no model me/rain on the Hub, or it is private: correct the name, or log in by `hf auth login`",
        ),
        (
            answered(errors.GatedRepoError, 403),
            "hub:me/rain@v2 is gated: ask for access on https://huggingface.co/me/rain and log in by `hf auth login`",
        ),
        (
            answered(errors.RevisionNotFoundError, 404),
            "me/rain has no revision v2: see https://huggingface.co/me/rain/commits",
        ),
        (
            LOST,
            "hub:me/rain@v2 is not in the local cache, and the Hub cannot be reached: check the network connection",
        ),
        (
            OSError(28, "No space left\non device"),
            "hub:me/rain@v2 cannot be fetched: [Errno 28] No space left on device",
        ),
    ],
    ids=["absent", "gated", "revision", "no network", "full disk"],
)
def test_what_the_hub_answers_is_one_sentence(error: Exception, sentence: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(*_arguments: Any, **_options: Any) -> str:
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", answer)
    with pytest.raises(ModelError) as raised:
        load_model("hub:me/rain@v2")
    assert str(raised.value) == sentence


def test_without_huggingface_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for use in (lambda: load_model("hub:me/rain"), lambda: push_model(tmp_path, "me/rain")):
        with pytest.raises(ImportError) as error:
            use()
        assert str(error.value) == "huggingface_hub is not installed; pip install 'rddm_fast[hub]' installs it"


# -- to the Hub ---------------------------------------------------------------------------------------------------


@pytest.fixture
def pushed(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What huggingface_hub was asked to do."""
    asked: list[dict[str, Any]] = []

    def create(repository: str, **options: Any) -> None:
        asked.append({"create": repository, **options})

    def upload(**options: Any) -> str:
        asked.append(options)
        return "https://huggingface.co/me/rain/commit/1"

    monkeypatch.setattr(huggingface_hub, "create_repo", create)
    monkeypatch.setattr(huggingface_hub, "upload_folder", upload)
    return asked


@pytest.mark.parametrize("name", ["me/rain", "hub:me/rain"])
def test_push_uploads_the_models_files(name: str, pushed: list[dict[str, Any]], tmp_path: Path) -> None:
    save_model(tmp_path, small_model(dim=8))
    assert push_model(tmp_path, name, private=True) == "https://huggingface.co/me/rain/commit/1"
    created, uploaded = pushed
    assert created == {"create": "me/rain", "private": True, "exist_ok": True}
    assert (uploaded["repo_id"], Path(uploaded["folder_path"])) == ("me/rain", tmp_path)
    assert uploaded["allow_patterns"] == ["config.json", "model.safetensors", "README.md"]
    text = (tmp_path / "README.md").read_text()
    assert "# me/rain\n" in text and 'load_model("hub:me/rain")' in text and UNNAMED not in text


def test_push_keeps_a_card_that_somebody_wrote(pushed: list[dict[str, Any]], tmp_path: Path) -> None:
    save_model(tmp_path, small_model(dim=8))
    written = (tmp_path / "README.md").read_text().replace(MARK, "") + "\nMine.\n"
    (tmp_path / "README.md").write_text(written)
    push_model(tmp_path, "me/rain")
    save_model(tmp_path, small_model(dim=8))
    assert (tmp_path / "README.md").read_text() == written and len(pushed) == 2


def test_what_cannot_be_pushed(pushed: list[dict[str, Any]], tmp_path: Path) -> None:
    save_model(tmp_path / "model", small_model(dim=8))
    save_model(tmp_path / "damaged", small_model(dim=8))
    (tmp_path / "damaged" / "config.json").write_text("[")
    for folder, name, sentence in (
        ("nowhere", "me/rain", f"{tmp_path}/nowhere is not a model folder: it holds no config.json"),
        (
            "damaged",
            "me/rain",
            f"{tmp_path}/damaged is not a model folder: its config.json is damaged or of another kind",
        ),
        ("model", "rain", "hub:rain names no model on the Hub: write hub:owner/name, or hub:owner/name@revision"),
        ("model", "me/rain@v1", "a model is pushed to a repository, not to a revision of it: leave out @v1"),
    ):
        with pytest.raises(ModelError) as error:
            push_model(tmp_path / folder, name)
        assert str(error.value) == sentence
    assert pushed == []


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (
            answered(errors.HfHubHTTPError, 403),
            "the Hub does not let you write to me/rain: log in by `hf auth login` as one who may",
        ),
        (
            errors.LocalTokenNotFoundError("no token"),
            "the Hub does not let you write to me/rain: log in by `hf auth login` as one who may",
        ),
        (errors.OfflineModeIsEnabled("offline"), "HF_HUB_OFFLINE forbids to push to me/rain: unset it"),
        (ConnectionError("no\nroute"), "the model cannot be pushed to me/rain: no route"),
    ],
)
def test_why_it_was_not_pushed(
    error: Exception, sentence: str, pushed: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def answer(**_options: Any) -> str:
        raise error

    save_model(tmp_path, small_model(dim=8))
    monkeypatch.setattr(huggingface_hub, "upload_folder", answer)
    with pytest.raises(ModelError) as raised:
        push_model(tmp_path, "me/rain")
    assert str(raised.value) == sentence and len(pushed) == 1
