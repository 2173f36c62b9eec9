"""From images to batches on the device, read from the decoded array or from files, with identical pixels."""

from __future__ import annotations

import multiprocessing
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
from torch.utils.data import DataLoader, Dataset, default_convert, get_worker_info
from tqdm import tqdm

from fairnb.data.crops import centre_crops, normalise
from fairnb.data.decoded import (
    check_images,
    decode_images,
    decoded_bytes,
    enlarge,
    is_decoded,
    read_images,
    shown_shape,
    stored_shape,
)
from fairnb.data.images import Images

if TYPE_CHECKING:
    from lightning_fabric import Fabric

BATCH = 128  # images per forward pass
PREFETCH = 2  # batches ready per worker


class Feed:
    """Feeds images to the device of this process; nothing is read before it is needed."""

    def __init__(
        self, images: Images, resize: int, crop: int, *, cache: str | Path, fabric: Fabric,
        form: str = "auto", workers: int = -1,
    ) -> None:  # fmt: skip
        """Prepare to read images.

        Args:
            resize, crop: pixels of the shorter side after scaling, and of the square that the network sees.
            cache: folder of the decoded array.
            fabric: the device, and the other processes.
            form: 'cached' decodes every image once into an array on disk; 'files' decodes at each use and takes no space;
                'auto' is 'cached' if the array exists, or fits into half of the free memory and onto the disk.
            workers: processes that read; 0 reads in this one, between steps; -1 is 0 on a CPU, and on a GPU one per
                processor core for files, two for the array.
        """
        self.images, self.resize, self.crop, self.cache, self.fabric = images, resize, crop, Path(cache), fabric
        self._form, self._workers = form, workers

    @cached_property
    def form(self) -> str:
        """'cached' or 'files', with 'auto' resolved."""
        if self._form != "auto":
            return self._form
        if is_decoded(self.images, self.resize, self.cache):
            return "cached"
        self.cache.mkdir(parents=True, exist_ok=True)
        room = min(psutil.virtual_memory().available / 2, shutil.disk_usage(self.cache).free)
        return "cached" if decoded_bytes(self.images, self._stored) <= room else "files"

    @cached_property
    def workers(self) -> int:
        """Number of reading processes, with -1 resolved."""
        if self._workers >= 0:
            return self._workers
        if self.fabric.device.type == "cpu":
            return 0  # workers would compete with the network for the cores
        if _no_shared_memory():
            return 0
        return 2 if self.form == "cached" else _cores()  # a GPU should not wait

    def prepare(self) -> None:
        """Decode the images, or check that all can be decoded, unless that was done before; raises as `decode_images`."""
        self._pictures  # noqa: B018

    def batches(self, order: Sequence[Tensor]) -> Iterator[Tensor]:
        """Images of each batch of row numbers: uint8 [B, H, W, 3] on the device.

        Raises OSError if the workers have no shared memory, or too little for their batches.
        """
        self._loader.batch_sampler[:] = [rows.tolist() for rows in order]  # type: ignore[index]
        self._refuse_little_shared_memory(max(map(len, order), default=0))
        for batch in self._loader:
            yield enlarge(batch.to(self.fabric.device, non_blocking=True), shown_shape(self._stored, self.resize))

    @torch.no_grad()
    def apply(self, function: Callable[[Tensor], Tensor], rows: Tensor, *, title: str, autocast: bool = False) -> Tensor:
        """Apply a network, or a method of one, from [B, 3, S, S] to [B, …], to the centre crops of these images.

        The processes of a group take batches in turn, the same batches as one process would, and all receive the whole:
        float32 [N, …] on the CPU, in the order of `rows`. `autocast` computes in the training's precision.
        """
        fabric = self.fabric
        mine = rows.split(BATCH)[fabric.global_rank :: fabric.world_size]
        images = tqdm(self.batches(mine), title, len(mine), unit="batch", leave=False, disable=not fabric.is_global_zero)
        found: dict[int, Tensor] = {}
        # features are exact float32, which TF32 would round
        exact = torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False)
        with fabric.autocast() if autocast else nullcontext(), exact:
            for place, batch in enumerate(images):
                inputs = normalise(centre_crops(batch, self.crop))
                found[fabric.global_rank + place * fabric.world_size] = function(inputs).float()
        if fabric.world_size == 1:
            return torch.cat(list(found.values())).cpu()
        # the shape, even in a process without a batch
        shape = function(torch.zeros(1, 3, self.crop, self.crop, device=fabric.device)).shape[1:]
        whole = torch.zeros(len(rows), *shape, device=fabric.device)
        for place, values in found.items():
            whole[place * BATCH : place * BATCH + len(values)] = values
        torch.distributed.all_reduce(whole)  # each row comes from one process; the others add 0
        return whole.cpu()

    @cached_property
    def _stored(self) -> tuple[int, int]:
        return stored_shape(self.images, self.resize)

    @cached_property
    def _pictures(self) -> _Pictures:
        with self.fabric.rank_zero_first(local=True):  # the others find the work done
            if self.form == "cached":
                decoded = decode_images(self.images, self.resize, self.cache).filename
                return _Pictures(self.images, self._stored, Path(str(decoded)))
            check_images(self.images, self.cache)
            return _Pictures(self.images, self._stored, None)

    @cached_property
    def _loader(self) -> DataLoader:
        own: Any = {"generator": torch.Generator()}  # or it would draw from the global one
        own |= {"pin_memory": self.fabric.device.type == "cuda", "worker_init_fn": _leave_signals}
        if self.workers:
            own |= {"num_workers": self.workers, "prefetch_factor": PREFETCH, "persistent_workers": True}
        return DataLoader(self._pictures, batch_sampler=[], collate_fn=default_convert, **own)

    def _refuse_little_shared_memory(self, most: int) -> None:
        """Raise OSError if /dev/shm cannot be used, or is too small for the workers' batches, which would kill them."""
        place = Path("/dev/shm")
        if self.workers and (reason := _no_shared_memory()):
            raise OSError(f"workers={self.workers} hand over images through {place}, which fails ({reason}): say workers=0")
        needed = self.workers * PREFETCH * decoded_bytes(self.images, self._stored) // max(len(self.images), 1) * most
        if place.is_dir() and needed > (free := shutil.disk_usage(place).free):
            raise OSError(
                f"{self.workers} workers hand over up to {needed / 1e6:.0f} MB through {place}, which has "
                f"{free / 1e6:.0f} MB free: give it more (docker run --shm-size), or take fewer workers"
            )


def _no_shared_memory() -> str:
    """Why processes cannot share memory here, as in some sandboxes; empty where they can."""
    try:
        multiprocessing.Lock()
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _cores() -> int:
    """Processor cores for each of this machine's processes of a group."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))


class _Pictures(Dataset):
    """Reads batches from the decoded array, or from the images if there is none."""

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
        shares = np.array_split(rows, min(len(rows), _cores()))  # without workers, every core reads while the network waits
        return torch.cat(list(self._pool.map(lambda share: read_images(self.images, share.tolist(), self.shape), shares)))

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(_cores())

    def __getstate__(self) -> dict[str, Any]:  # a worker opens its own
        return {name: value for name, value in vars(self).items() if name not in ("_array", "_pool")}


def _leave_signals(_: int) -> None:
    """Leave Ctrl-C to the training, which saves and then ends its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
