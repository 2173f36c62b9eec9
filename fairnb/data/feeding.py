"""From images to batches on the device: read from the decoded array, or from their files by worker processes.

    feed = Feed(faces.images, resize=256, crop=224, cache="runs/cache", fabric=make_fabric())
    for images in feed.batches(faces.rows("valid").split(128)):    # uint8 [B, 3, 313, 256], scaled, on the device
        normalise(centre_crops(images, feed.crop))                 # float32 [B, 3, 224, 224]

Either way gives the same pixels, so the choice between them changes how long a training takes and nothing else.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info
from tqdm import tqdm

from fairnb.data.crops import centre_crops, normalise
from fairnb.data.decoded import check_images, decode_images, decoded_bytes, is_decoded, read_images, stored_shape
from fairnb.data.images import Images
from fairnb.run.messages import unknown

if TYPE_CHECKING:
    from lightning_fabric import Fabric

FORMS = ("auto", "cached", "files")
BATCH = 128  # images that the backbone looks at together
PREFETCH = 2  # batches that each worker has ready


class Feed:
    """Images on their way to the device of this process.

    Attributes:
        crop: pixels of the square that the network sees.
        fabric: where they go.
    """

    def __init__(
        self,
        images: Images,
        resize: int,
        crop: int,
        *,
        cache: str | Path,
        fabric: Fabric,
        form: str = "auto",
        workers: int = -1,
    ) -> None:
        """Nothing is read before it is asked for.

        Args:
            images: N pictures.
            resize: pixels of the shorter side after scaling.
            crop: pixels of the square that the network sees.
            cache: where the decoded array lies, or will.
            fabric: the device, and the other processes.
            form: 'cached' decodes every image once into an array on disk; 'files' decodes it whenever it is needed, and
                takes no room; 'auto' is 'cached' where the array is there, or half of the free memory and the disk hold it.
            workers: processes that read; 0 reads in this one, between steps; -1 is 0 on a CPU, and on a GPU one a
                processor core for files, two for the array.

        Raises:
            ValueError: for another form, or fewer workers than -1.
        """
        check_feed(form, workers)
        self.images, self.resize, self.crop, self.cache, self.fabric = images, resize, crop, Path(cache), fabric
        self._form, self._workers = form, workers

    @cached_property
    def form(self) -> str:
        """'cached' or 'files', what 'auto' means here."""
        if self._form != "auto":
            return self._form
        if is_decoded(self.images, self.resize, self.cache):
            return "cached"
        self.cache.mkdir(parents=True, exist_ok=True)
        room = min(psutil.virtual_memory().available / 2, shutil.disk_usage(self.cache).free)
        return "cached" if decoded_bytes(self.images, self._stored) <= room else "files"

    @cached_property
    def workers(self) -> int:
        """Processes that read, what -1 means here."""
        if self._workers >= 0:
            return self._workers
        if self.fabric.device.type == "cpu":
            return 0  # workers would take turns with the network on the same cores, and make it wait
        return 2 if self.form == "cached" else _cores()  # a GPU should not wait

    def prepare(self) -> None:
        """Decode the images, or see that each can be; at once where an earlier call did.

        Raises:
            ValueError: if images cannot be decoded (all of them counted, the first ones named with the reason).
            OSError: if the disk has no room for the decoded array.
        """
        self._pictures  # noqa: B018

    def batches(self, order: Sequence[Tensor]) -> Iterator[Tensor]:
        """The images of each of these batches of row numbers: uint8 [B, 3, H, W] in channels-last memory, on the device.

        Raises:
            OSError: if the workers have too little shared memory for what they hand over.
        """
        from torchvision.transforms.v2.functional import resize  # slow to import

        self._loader.batch_sampler.batches = [rows.tolist() for rows in order]  # type: ignore[union-attr]
        self._refuse_little_shared_memory(max(map(len, order), default=0))
        height, width = self._stored
        scale = self.resize / min(height, width)
        whole = [max(self.resize, int(height * scale)), max(self.resize, int(width * scale))]
        for batch in self._loader:
            images = batch.to(self.fabric.device, non_blocking=True).permute(0, 3, 1, 2)
            yield resize(images, whole, antialias=True) if scale > 1 else images

    @cached_property
    def _stored(self) -> tuple[int, int]:
        return stored_shape(self.images, self.resize)

    @cached_property
    def _pictures(self) -> _Pictures:
        with self.fabric.rank_zero_first(local=True):  # the others find it done
            if self.form == "cached":
                return _Pictures(
                    self.images, self._stored, Path(str(decode_images(self.images, self.resize, self.cache).filename))
                )
            check_images(self.images, self.cache)
            return _Pictures(self.images, self._stored, None)

    @cached_property
    def _loader(self) -> DataLoader:
        return DataLoader(
            self._pictures,
            batch_sampler=_Order(),
            collate_fn=_as_it_is,
            num_workers=self.workers,
            prefetch_factor=PREFETCH if self.workers else None,
            persistent_workers=self.workers > 0,
            pin_memory=self.fabric.device.type == "cuda",
            worker_init_fn=_leave_signals,
            generator=torch.Generator(),  # or it would draw from the global one
        )

    def _refuse_little_shared_memory(self, most: int) -> None:
        """Workers hand their batches over there; a full one would kill them in mid-air."""
        place = Path("/dev/shm")
        needed = self.workers * PREFETCH * decoded_bytes(self.images, self._stored) // max(len(self.images), 1) * most
        if place.is_dir() and needed > (free := shutil.disk_usage(place).free):
            raise OSError(
                f"{self.workers} workers hand over up to {needed / 1e6:.0f} MB through {place}, which has "
                f"{free / 1e6:.0f} MB free: give it more (docker run --shm-size), or take fewer workers"
            )


@torch.no_grad()
def apply(function: Callable[[Tensor], Tensor], rows: Tensor, feed: Feed, *, title: str, autocast: bool = False) -> Tensor:
    """Run a network, or a method of one, over the centre crops of these images.

    The processes of a group take a batch each in turn, the same batches that one process would, and all receive the whole.

    Args:
        function: images float32 [B, 3, S, S] to [B, …].
        rows: int64 [N], row numbers.
        feed: the images.
        title: what is being done, for the progress bar.
        autocast: compute in the training's precision; else in float32.

    Returns:
        float32 [N, …] on the CPU, in the order of `rows`.
    """
    fabric = feed.fabric
    batches = rows.split(BATCH)
    mine = batches[fabric.global_rank :: fabric.world_size]
    images = tqdm(feed.batches(mine), title, len(mine), unit="batch", leave=False, disable=not fabric.is_global_zero)
    found: dict[int, Tensor] = {}
    # TF32 would round the float32 that the features promise
    exact = torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False)
    with fabric.autocast() if autocast else nullcontext(), exact:
        for place, batch in enumerate(images):
            inputs = normalise(centre_crops(batch, feed.crop))
            found[fabric.global_rank + place * fabric.world_size] = function(inputs).float()
    if fabric.world_size == 1:
        return torch.cat(list(found.values())).cpu()
    # the shape, also for a process that had no batch
    shape = function(torch.zeros(1, 3, feed.crop, feed.crop, device=fabric.device)).shape[1:]
    whole = torch.zeros(len(rows), *shape, device=fabric.device)
    for place, values in found.items():
        whole[place * BATCH : place * BATCH + len(values)] = values
    torch.distributed.all_reduce(whole)  # a sum: each row is one process's, and the others add 0
    return whole.cpu()


def check_feed(form: str, workers: int) -> None:
    """Refuse what no `Feed` takes.

    Raises:
        ValueError: with the value and what it must be.
    """
    if form not in FORMS:
        raise ValueError(unknown("feed", form, FORMS))
    if workers < -1:
        raise ValueError(f"workers={workers} must be -1 (chosen for this machine), 0 or more")


def _cores() -> int:
    """Processor cores for each of this machine's processes of a group."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))


class _Pictures(Dataset):
    """A batch at a time from the decoded array, or from the images where there is none."""

    def __init__(self, images: Images, shape: tuple[int, int], decoded: Path | None) -> None:
        self.images, self.shape, self.decoded = images, shape, decoded

    @cached_property
    def _array(self) -> np.ndarray:
        return np.load(str(self.decoded), mmap_mode="r")

    def __getitems__(self, rows: list[int]) -> Tensor:
        if self.decoded is not None:
            return torch.from_numpy(self._array[rows])
        if get_worker_info() is not None:
            return read_images(self.images, rows, self.shape)
        shares = np.array_split(rows, min(len(rows), _cores()))  # no workers: every core while the network rests
        return torch.cat(list(self._pool.map(lambda share: read_images(self.images, share.tolist(), self.shape), shares)))

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(_cores())

    def __getstate__(self) -> dict[str, Any]:  # a worker opens what is its own
        return {name: value for name, value in vars(self).items() if name not in ("_array", "_pool")}


class _Order:
    """The batches that the loader is to bring next; its workers stay from one epoch to the next."""

    batches: list[list[int]]

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


def _as_it_is(batch: Any) -> Any:
    return batch


def _leave_signals(_: int) -> None:
    """Ctrl-C is for the training, which ends its workers when it has saved."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
