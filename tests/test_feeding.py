"""Both ways of reading images, and what is done to a batch on the device."""

import pickle
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from fairnb.data import draw_faces, read_celeba
from fairnb.data.crops import centre_crops, cut_squares, normalise, random_places
from fairnb.data.feeding import Feed
from fairnb.run.device import join_group, make_fabric
from fairnb.run.parameters import Machine
from tests.conftest import make_celeba


def feed_of(images, tmp_path, resize=20, crop=16, **settings):
    return Feed(images, resize, crop, cache=tmp_path / "cache", fabric=make_fabric("cpu", "32-true"), **settings)


ORDER = [torch.tensor([3, 1, 190]), torch.tensor([5, 5]), torch.tensor([0])]


@pytest.mark.parametrize("layout", ["folder", "zip", "kaggle"])
@pytest.mark.parametrize("resize", [20, 48])  # smaller and larger than the images
def test_files_and_cache_give_the_same_pixels(tmp_path, layout, resize):
    """By workers and without; they are torchvision's Resize of the image on disk."""
    images = read_celeba(make_celeba(tmp_path / "data", layout)).images
    ways: list[dict[str, Any]] = [
        {"form": "cached"},
        {"form": "cached", "workers": 1},
        {"form": "files", "workers": 0},
        {"form": "files", "workers": 2},
    ]
    found = [list(feed_of(images, tmp_path, resize, **way).batches(ORDER)) for way in ways]
    for batches in found:
        for batch, rows in zip(batches, ORDER, strict=True):
            expected = torch.stack([v2.Resize(resize)(images[row]) for row in rows.tolist()])
            assert batch.dtype == torch.uint8
            assert torch.equal(batch.permute(0, 3, 1, 2), expected)


def test_workers_stay_and_take_another_order(tmp_path, celeba):
    feed = feed_of(read_celeba(celeba).images, tmp_path, form="files", workers=2)
    first = list(feed.batches(ORDER))
    next(iter(feed.batches(ORDER)))  # left in the middle
    second = list(feed.batches(ORDER[::-1]))
    assert all(torch.equal(one, other) for one, other in zip(first, second[::-1], strict=True))


def test_a_zip_travels_to_other_processes(tmp_path):
    images = read_celeba(make_celeba(tmp_path / "data", "zip")).images
    again = pickle.loads(pickle.dumps(images))
    assert torch.equal(again[7], images[7])
    assert again.fingerprint() == images.fingerprint()


def test_drawn_faces_are_fed_too(tmp_path):
    images = draw_faces([20, 10, 10]).images
    for form in ("cached", "files"):
        (batch,) = feed_of(images, tmp_path, 34, 32, form=form, workers=0).batches([torch.tensor([1, 2])])
        assert torch.equal(batch.permute(0, 3, 1, 2), torch.stack(images.read([1, 2], 34)))


def test_auto_takes_what_memory_holds(tmp_path, celeba, monkeypatch):
    images = read_celeba(celeba).images
    memory = SimpleNamespace(available=192 * 24 * 20 * 3 * 2)
    monkeypatch.setattr("psutil.virtual_memory", lambda: memory)
    assert feed_of(images, tmp_path).form == "cached"
    memory.available -= 2
    assert feed_of(images, tmp_path).form == "files"
    feed_of(images, tmp_path, form="cached").prepare()
    assert feed_of(images, tmp_path).form == "cached"  # what is there is used


def test_damaged_files_are_found_before_the_first_batch(tmp_path):
    root = make_celeba(tmp_path / "data")
    for name in ("000009.jpg", "000180.jpg"):
        (root / "img_align_celeba" / name).write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"2 of 192 images cannot be decoded: 000009\.jpg, 000180\.jpg \(not an image"):
        feed_of(read_celeba(root).images, tmp_path, form="files").prepare()


def test_files_are_looked_through_once(tmp_path, celeba, monkeypatch):
    images = read_celeba(celeba).images
    feed_of(images, tmp_path, form="files").prepare()
    monkeypatch.setattr(type(images), "read", lambda *_: pytest.fail("read again"))
    from fairnb.data.decoded import check_images

    check_images(images, tmp_path / "cache")


def test_no_shared_memory_is_told_or_left_alone(tmp_path, celeba, monkeypatch):
    def refused() -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("multiprocessing.Lock", refused)
    feed = feed_of(read_celeba(celeba).images, tmp_path, form="files", workers=2)
    with pytest.raises(OSError, match=r"^workers=2 hand over .* which fails \(Read-only file system\): say workers=0$"):
        next(iter(feed.batches(ORDER)))
    chosen = feed_of(read_celeba(celeba).images, tmp_path, form="files")
    chosen.fabric = SimpleNamespace(device=torch.device("cuda"))
    assert chosen.workers == 0


def test_little_shared_memory_is_found_first(tmp_path, celeba, monkeypatch):
    feed = feed_of(read_celeba(celeba).images, tmp_path, form="files", workers=2)
    feed.prepare()
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 10**4})())
    with pytest.raises(OSError, match=r"2 workers hand over up to .* /dev/shm, which has 0 MB free"):
        list(feed.batches([torch.arange(30)]))


def test_squares_are_cut_out_of_each_image():
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (40, 9, 7, 3), generator=draw, dtype=torch.uint8)
    top, left, flip = random_places(40, (9, 7), 5, draw)
    cut = cut_squares(images, 5, top, left, flip)
    for image, square, y, x, flipped in zip(images, cut, top, left, flip, strict=True):
        expected = F.crop(image.permute(2, 0, 1), int(y), int(x), 5, 5)
        assert torch.equal(square, F.hflip(expected) if flipped else expected)
    assert 8 < int(flip.sum()) < 32
    assert set(top.flatten().tolist()) == set(range(5))  # every place that there is
    assert set(left.flatten().tolist()) == set(range(3))


@pytest.mark.parametrize("size", [1, 4, 5, 6, 7])  # even and odd differences
def test_centre_crops_are_torchvisions(size):
    images = torch.randint(0, 256, (2, 12, 7, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    assert torch.equal(centre_crops(images, size), F.center_crop(images.permute(0, 3, 1, 2), [size, size]))


def test_normalised_values_by_hand():
    images = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 3, 2, 2)
    found = normalise(images)
    np.testing.assert_allclose(found[:, :, 0, 0], [[-2.1179, -2.0357, -1.8044], [2.2489, 2.4286, 2.64]], atol=1e-4)


def test_a_group_that_cannot_be_is_refused(monkeypatch):
    for name in ("devices", "num_nodes"):
        with pytest.raises(ValueError, match=f"{name}=0 must be at least 1"):
            Machine(**{name: 0})
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(ValueError, match="2 processes were started on each of 2 machines: leave the two parameters out"):
        join_group("cpu", devices=4)
