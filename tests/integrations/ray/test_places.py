"""Folders and stores by their address, in fsspec's memory:// and on the disk, without a cluster."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

pytest.importorskip("fsspec")

import fsspec

from rddm_fast.images.picture import ImageError, Picture, decoded, encoded, write_image
from rddm_fast.integrations.ray.cluster import ClusterError, divided
from rddm_fast.integrations.ray.jobs import check_apart, planned
from rddm_fast.integrations.ray.places import Place

PICTURE = Picture(torch.rand(3, 8, 10, generator=torch.Generator().manual_seed(0)))
PNG = encoded(PICTURE, Path("a.png"))


@pytest.fixture(params=["memory", "disk"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The address of an empty folder."""
    if request.param == "disk":
        yield str(tmp_path)
        return
    yield "memory://bucket/folder"
    fsspec.filesystem("memory").store.clear()


def put(address: str, data: bytes = PNG) -> None:
    files, path = fsspec.url_to_fs(address)
    files.makedirs(path.rpartition("/")[0], exist_ok=True)
    files.pipe_file(path, data)


def test_what_is_restored_skipped_and_left_out(store: str) -> None:
    for name in ("b.JPG", "a.gif", "a.png", "sub/c.png", "sub/.hidden.png", "notes.txt", "raw.dng", "out/old.png"):
        put(f"{store}/in/{name}")
    put(f"{store}/in/out/b.JPG")
    put(f"{store}/in/out/sub/c.png", b"")  # an empty file is no result
    source, target = Place.of(f"{store}/in"), Place.of(f"{store}/in/out")
    plans = list(planned(source, target, overwrite=False))
    inside = str(source)
    jobs = [(job.source, job.target) for plan in plans for job in plan.jobs]
    assert jobs == [
        (f"{inside}/a.gif", f"{inside}/out/a.png"),
        (f"{inside}/sub/c.png", f"{inside}/out/sub/c.png"),
    ]
    skipped, failed = (outcome for plan in plans for outcome in plan.outcomes)
    if not skipped.skipped:
        skipped, failed = failed, skipped
    assert (skipped.source, skipped.target) == (f"{inside}/b.JPG", f"{inside}/out/b.JPG")
    both = f"{inside}/a.gif and {inside}/a.png would both be written to {inside}/out/a.png; rename one of them"
    assert failed.source == f"{inside}/a.png" and failed.error == both
    assert [name for plan in plans for name in plan.left_out] == [f"{inside}/notes.txt", f"{inside}/raw.dng"]
    again = [job for plan in planned(source, target, overwrite=True) for job in plan.jobs]
    assert len(again) == 3


def test_a_picture_is_read_and_written_as_on_the_disk(store: str) -> None:
    put(f"{store}/a.png")
    picture = Place.of(f"{store}/a.png").read()
    assert torch.equal(picture.pixels, decoded(PNG, Path("a.png")).pixels)
    Place.of(f"{store}/new/a.tif").write(picture)
    assert torch.equal(Place.of(f"{store}/new/a.tif").read().pixels, picture.pixels)
    assert list(Place.of(f"{store}/new").entries()) == ["a.tif"]


def test_errors_name_the_address(store: str) -> None:
    put(f"{store}/broken.png", PNG[:60])
    place = Place.of(f"{store}/broken.png")
    with pytest.raises(ImageError) as damaged:
        place.read()
    assert str(damaged.value).startswith(f"{place} is damaged and cannot be read: ")
    with pytest.raises(ImageError, match=r"none\.png does not exist$"):
        Place.of(f"{store}/none.png").read()
    with pytest.raises(ImageError) as bad:
        Place.of(f"{store}/a.xyz").write(PICTURE)
    assert str(bad.value).startswith(f"{store}/a.xyz cannot be written: use one of .bmp")


def test_a_source_without_images_is_an_outcome(store: str) -> None:
    put(f"{store}/raw/a.dng")
    for name, sentence in (("raw", "raw holds no image ("), ("none", "none does not exist")):
        (outcome,) = [
            outcome
            for plan in planned(Place.of(f"{store}/{name}"), Place.of(f"{store}/out"), overwrite=False)
            for outcome in plan.outcomes
        ]
        assert sentence in str(outcome.error)
    (plan,) = planned(Place.of(f"{store}/raw/a.dng"), Place.of(f"{store}/out"), overwrite=False)
    assert [job.target for job in plan.jobs] == [f"{Place.of(store)}/out/a.png"]


def test_what_a_killed_writer_left_is_removed(tmp_path: Path) -> None:
    write_image(tmp_path / "in" / "a.png", PICTURE)
    (tmp_path / "out").mkdir()
    left = tmp_path / "out" / ".a.png.abcd1234.png"
    left.write_bytes(b"half")
    assert any(plan.jobs for plan in planned(Place.of(tmp_path / "in"), Place.of(tmp_path / "out"), overwrite=False))
    assert not left.exists()


def test_results_must_be_whole_and_over_no_input(tmp_path: Path) -> None:
    place = Place.of(tmp_path / "in")
    for target, sentence in (
        (Place.of(tmp_path), f"which holds {place}: a result could overwrite an image"),
        (place, f"which holds {place}"),
        (Place.of(tmp_path / "one.png"), "the name of one result: on a cluster, name a folder"),
        (Place("sftp://host/a", "sftp", "/a"), "where a result could appear in part: use one of file://, s3://"),
    ):
        with pytest.raises(ValueError, match=r"^output is ") as error:
            check_apart(place, target)
        assert sentence in str(error.value)


def test_an_address_that_cannot_be_opened_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"^nosuch://a is no address that fsspec knows: "):
        Place.of("nosuch://a")
    with pytest.raises(ValueError, match=r"^zip://a::memory://b.zip is an address in another: "):
        Place.of("zip://a::memory://b.zip")
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(ImportError, match=r"^s3://bucket/a cannot be read: Install s3fs to access S3$"):
        Place.of("s3://bucket/a")


def test_a_cluster_is_divided() -> None:
    gpus = divided({"CPU": 128.0, "GPU": 8.0}, 1, workers=None, device="auto")
    assert (gpus.workers, gpus.gpus, gpus.cpus, gpus.io_cpus, gpus.threads) == (8, 1, 1.0, 1.0, None)
    few = divided({"CPU": 8.0, "GPU": 8.0}, 1, workers=None, device="auto")
    assert few.cpus * few.workers + 4 * few.io_cpus <= 8
    cpus = divided({"CPU": 64.0}, 2, workers=None, device="auto")
    assert (cpus.workers, cpus.gpus, cpus.cpus, cpus.threads) == (2, 0, 16.0, 32)
    small = divided({"CPU": 2.0}, 1, workers=2, device="auto")
    assert (small.cpus, small.io_cpus, small.threads) == (0.5, 0.25, 1)
    assert divided({"CPU": 8.0, "GPU": 1.0}, 1, workers=None, device="cpu").threads == 8
    with pytest.raises(ClusterError, match="no machine of the cluster has a GPU"):
        divided({"CPU": 8.0}, 1, workers=None, device="cuda")
    with pytest.raises(ClusterError, match="workers must be at most 1, the cluster's GPUs, not 2"):
        divided({"CPU": 8.0, "GPU": 1.0}, 1, workers=2, device="auto")
