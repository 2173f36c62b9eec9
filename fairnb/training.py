"""Stage one of the method: train for accuracy alone and keep the best epoch.

The recipe follows section 3 of the paper and, where it is silent, its reference: Wang et al., "Towards fairness in visual
recognition", CVPR 2020. Lightning Fabric handles placement, precision and processes. Every step draws its random numbers
from the seed and its own position, so an interrupted training resumes to the same result.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits
from tqdm import tqdm

from fairnb import tables
from fairnb.checkpoint import Course, Requests, load_checkpoint, refuse_little_room, save_checkpoint
from fairnb.data import Faces
from fairnb.data.crops import cut_squares, normalise, random_places
from fairnb.data.feeding import Feed
from fairnb.metrics import accuracy, contingency_table, underestimation_index
from fairnb.model import BaseModel, MultiLabelNet, build_model, known_weights
from fairnb.run.device import resolve
from fairnb.run.files import load_notes, load_tensors, save_table, save_tensors
from fairnb.run.keys import content_key, seeded
from fairnb.run.lock import alone
from fairnb.run.messages import SPEED, some
from fairnb.run.parameters import Recipe
from fairnb.weighting import reweighing, weighted_mean_average_precision

if TYPE_CHECKING:
    from lightning_fabric import Fabric

TELL_AFTER = 5.0  # seconds of steps before the speed is printed
LOOK_EVERY = 16  # steps between readings of the losses on a GPU, where each makes the CPU wait
FILES = ("base.safetensors", "history_us.csv", "history.csv")  # results of a training; the last one marks it complete


def train_base(faces: Faces, recipe: Recipe, folder: str | Path, feed: Feed, *, tensorboard: bool = False) -> BaseModel:
    """Train the base model on `faces`, resume an interrupted training, or load a finished one.

    The folder receives `FILES`, a checkpoint meanwhile, and logs in `tensorboard/` if asked; all processes that train
    together must see it. `feed` gives the images, scaled and cropped by the recipe.

    ValueError: an unknown backbone or weights, no compiler for `compiled`, unreadable images, a batch that the processes
    cannot share, a folder that holds another training or one under way, or a loss that is not finite. FileNotFoundError: no
    pretrained weights. OSError: a folder that cannot be written to, or no room for the checkpoints. KeyboardInterrupt:
    stopped by a signal, and saved.
    """
    folder, fabric = Path(folder), feed.fabric
    model = build_model(
        recipe.backbone, len(faces.label_names), recipe.hidden, recipe.dropout, recipe.weights or None, seed=recipe.seed,
        domains=len(faces.group_names) if recipe.mitigation == "domain-independent" else 1,
    )  # fmt: skip
    _try_one_batch(model, recipe)
    if recipe.batch_size % fabric.world_size:
        raise ValueError(f"batch_size={recipe.batch_size} cannot be shared out evenly among {fabric.world_size} processes")
    key = content_key(recipe_key(faces, recipe, fabric.device.type))
    for name in ("base.safetensors", "checkpoint.safetensors"):
        if (folder / name).exists() and load_notes(folder / name).get("recipe") != key:
            raise ValueError(f"{folder / name} was trained by another recipe or on other images: choose another folder")
    if not all((folder / name).exists() for name in FILES):
        with alone(folder) if fabric.is_global_zero else nullcontext():
            if fabric.is_global_zero:
                refuse_little_room(folder, model)
            if recipe.compiled:
                _try_compiler(fabric.device)
            feed.prepare()
            _Training(fabric, model, faces, recipe, folder, feed, key, tensorboard).run()
            fabric.barrier()
    if fabric.is_global_zero:
        (folder / "checkpoint.safetensors").unlink(missing_ok=True)
    model = model.merged()
    model.load_state_dict(load_tensors(folder / "base.safetensors"))
    history, us = (tables.read(folder / name) for name in ("history.csv", "history_us.csv"))
    return BaseModel(model.to(fabric.device).eval(), history, us)


def refuse_unfit(recipe: Recipe) -> None:
    """Raise ValueError for a backbone, weights or sizes that `train_base` would refuse, without fetching anything."""
    known_weights(recipe.backbone, recipe.weights)
    _try_one_batch(build_model(recipe.backbone, labels=1, hidden=1), recipe)


def recipe_key(faces: Faces, recipe: Recipe, device: str = "auto") -> dict[str, Any]:
    """All that determines the base model, also the kind of device and the precision: the key under which runs share it."""
    device, precision = resolve(device, recipe.precision)
    # Older trainings, without a choice of schedule, keep their key.
    known = recipe.model_dump(exclude={"schedule"} if recipe.schedule == "constant" else None)
    return {**known, "device": device, "precision": precision, "faces": faces.fingerprint()}


def one_cycle(step: int, steps: int) -> float:
    """Share of the highest learning rate at a step: from 1/25 up to 1, then to 1/250,000 (Smith and Topin 2019)."""
    peak = 0.3 * steps - 1
    low, high, share = (1 / 25, 1.0, step / peak) if step <= peak else (1.0, 4e-6, (step - peak) / (steps - 1 - peak))
    return high + (low - high) * (1 + math.cos(math.pi * share)) / 2


class _Training:
    """One training: the loop over epochs and steps, and its course."""

    def __init__(
        self, fabric: Fabric, model: MultiLabelNet, faces: Faces, recipe: Recipe, folder: Path, feed: Feed, key: str,
        tensorboard: bool,
    ) -> None:  # fmt: skip
        self.fabric, self.faces, self.recipe, self.folder, self.feed, self.key = fabric, faces, recipe, folder, feed, key
        self.model = model.to(memory_format=torch.channels_last)
        adam = torch.optim.Adam(
            model.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=fabric.device.type != "mps"
        )
        network: Any = torch.compile(self.model) if recipe.compiled else self.model
        self.network, self.optimizer = fabric.setup(network, adam)
        self.adam, self.course, self.rows = adam, Course(), faces.rows("train")
        self.weight: Tensor | None = None  # [N, L] of each label in the loss, over all splits
        if recipe.mitigation == "reweighing":
            weights = reweighing(faces.labels[self.rows], faces.group[self.rows], len(faces.group_names))
            self.weight = weights[faces.group.unsqueeze(1), torch.arange(len(faces.label_names)), faces.labels.long()]
        self.checkpoint = folder / "checkpoint.safetensors"
        if self.checkpoint.exists():
            self.course = load_checkpoint(self.checkpoint, self.model, adam)
        self.size = len(self._batches(1))  # steps of an epoch
        self.log: Any = None
        self.began: tuple[float, int] | None = None  # time of this session's first look, and steps done then
        if tensorboard and fabric.is_global_zero:
            from torch.utils.tensorboard import SummaryWriter  # slow to import

            # entries of an interrupted session beyond this step are dropped
            self.log = SummaryWriter(folder / "tensorboard", purge_step=self.done, flush_secs=20)

    @property
    def done(self) -> int:
        """Steps done in all epochs."""
        return len(self.course.rows) * self.size + self.course.steps

    @property
    def seen(self) -> int:
        """Images seen in the current epoch."""
        return min(self.course.steps * self.recipe.batch_size, len(self.rows))

    def run(self) -> None:
        """Train the remaining epochs and write the histories."""
        total = self.recipe.epochs * len(self.rows)
        done = len(self.course.rows) * len(self.rows) + self.course.steps * self.recipe.batch_size
        with (
            Requests() as stop,
            torch.backends.cudnn.flags(enabled=True, deterministic=True, benchmark=False),
            tqdm(
                total=total, initial=done, unit="image", smoothing=0.05, mininterval=1 if sys.stderr.isatty() else 10,
                leave=False, disable=not self.fabric.is_global_zero,
            ) as bar,
        ):  # fmt: skip
            while len(self.course.rows) < self.recipe.epochs:
                self._epoch(bar, stop)
                self._validate()
                self._keep()
        if not self.fabric.is_global_zero:
            return
        history = pd.DataFrame(self.course.rows)
        history["best"] = history.index == len(history) - 1 - history.val_map[::-1].argmax()  # a tie goes to the later epoch
        names = self.faces.label_names, self.faces.group_names
        epochs = enumerate(self.course.counts, start=1)
        us = pd.concat([tables.group_rows("base", {"valid": n}, *names).assign(epoch=epoch) for epoch, n in epochs])
        columns = ["epoch", "label", "group", "n", "positives", "predicted_positives", "us"]
        save_table(self.folder / "history_us.csv", us[columns])
        save_table(self.folder / "history.csv", history)

    def _batches(self, epoch: int) -> list[Tensor]:
        """Rows of each step of an epoch, without a last batch too small for each process's batch norm."""
        order = torch.randperm(len(self.rows), generator=seeded(self.recipe.seed, "epoch", epoch))
        batches = list(self.rows[order].split(self.recipe.batch_size))
        few = min(self.recipe.batch_size, 2 * self.fabric.world_size)
        return batches[:-1] if len(batches[-1]) < few and len(batches) > 1 else batches

    def _epoch(self, bar: tqdm, stop: Requests) -> None:
        """The rest of a pass over the training split."""
        fabric, course, recipe = self.fabric, self.course, self.recipe
        epoch, rank, world = len(course.rows) + 1, fabric.global_rank, fabric.world_size
        bar.set_description(f"epoch {epoch}/{recipe.epochs}", refresh=False)
        every = LOOK_EVERY if fabric.device.type == "cuda" else 1
        batches = self._batches(epoch)
        left = range(course.steps, len(batches))
        mine = [batches[step][rank::world] for step in left]
        losses: list[Tensor] = []  # since the last look
        self.network.train()
        self.since = time.perf_counter()
        with torch.random.fork_rng(devices=[fabric.device] if fabric.device.type == "cuda" else []):  # no other GPU
            for step, own, images in zip(left, mine, self._waited(self.feed.batches(mine)), strict=False):
                losses.append(self._step(epoch, step, own, images, len(batches[step])))
                if len(losses) == every or step == left[-1]:
                    self._look(batches, losses, bar, stop)
                    losses.clear()

    def _step(self, epoch: int, step: int, rows: Tensor, images: Tensor, count: int) -> Tensor:
        """Learn from this process's `rows` of a batch of `count` images; its loss, [], which nobody has waited for."""
        fabric, recipe, rank, world = self.fabric, self.recipe, self.fabric.global_rank, self.fabric.world_size
        draw = seeded(recipe.seed, "epoch", epoch, "step", step)
        places = random_places(count, (images.shape[1], images.shape[2]), recipe.image_size, draw)
        torch.manual_seed(int(torch.randint(2**62, (), generator=draw)) + rank)  # dropout takes no generator
        inputs = normalise(cut_squares(images, recipe.image_size, *(part[rank::world] for part in places)))
        targets = fabric.to_device(self.faces.labels[rows].float())
        domain = None if self.model.domains == 1 else fabric.to_device(self.faces.group[rows])
        weight = None if self.weight is None else fabric.to_device(self.weight[rows])
        loss = binary_cross_entropy_with_logits(self.network(inputs, domain).float(), targets, weight)
        loss = loss * (len(rows) * world / count)  # DDP's mean over processes is then the mean over images
        if recipe.schedule == "one-cycle":
            share = one_cycle((epoch - 1) * self.size + step, recipe.epochs * self.size)
            self.adam.param_groups[0]["lr"] = recipe.learning_rate * share
        self.optimizer.zero_grad()
        fabric.backward(loss)
        self.optimizer.step()
        return loss.detach()

    def _look(self, batches: list[Tensor], losses: list[Tensor], bar: tqdm, stop: Requests) -> None:
        """Read and show the losses of the last steps, and stop if asked; all processes see the same."""
        course, epoch = self.course, len(self.course.rows) + 1
        seen_here = torch.cat([torch.stack(losses), torch.tensor([float(stop.asked)], device=self.fabric.device)])
        if self.fabric.world_size > 1:
            torch.distributed.all_reduce(seen_here)
        *means, asked_share = (seen_here / self.fabric.world_size).tolist()
        for value, rows in zip(means, batches[course.steps :], strict=False):
            if not math.isfinite(value):
                names = self.faces.images.names
                kept = f"{self.checkpoint} is still good" if self.checkpoint.exists() else "nothing had been saved yet"
                raise ValueError(
                    f"the loss became {value} in epoch {epoch}, step {course.steps + 1:,} of {len(batches):,} "
                    f"(images {some([names[row] for row in rows.tolist()], 3)}): lower learning_rate "
                    f"(now {self.recipe.learning_rate}), or look at the images; {kept}"
                )
            course.loss, course.steps = course.loss + value * len(rows), course.steps + 1
            bar.update(len(rows))
        now = time.perf_counter()
        course.training, self.since = course.training + now - self.since, now
        best = {"mAP": f"{course.rows[-1]['val_map']:.3f}"} if course.rows else {}
        bar.set_postfix({"loss": f"{course.loss / self.seen:.4f}"} | best, refresh=False)
        self._tell_speed(bar, now)
        if self.log:
            self.log.add_scalar("training loss", means[-1], self.done)
        if asked_share > 0:
            self._save_checkpoint()
            self.fabric.barrier()
            if not self.fabric.is_global_zero:
                raise SystemExit(130)  # the first process prints the message
            raise KeyboardInterrupt(
                f"stopped in epoch {epoch} of {self.recipe.epochs} after {course.steps:,} of {len(batches):,} steps and "
                f"saved in {self.checkpoint}: the same command, or cell, resumes there"
            )

    def _tell_speed(self, bar: tqdm, now: float) -> None:
        """Once, some seconds after the first steps, print the estimated duration."""
        start, first = self.began = self.began or (now, self.done)
        if self.done <= first or now - start < TELL_AFTER:
            return
        self.began = math.inf, self.done  # print once only
        speed = (self.done - first) * self.recipe.batch_size / (now - start)
        left = (self.recipe.epochs * self.size - self.done) * self.recipe.batch_size
        validated = (self.recipe.epochs - len(self.course.rows)) * len(self.faces.rows("valid"))
        if self.fabric.is_global_zero:  # validating an image costs about a third of a training step
            bar.write(SPEED.format(left=left, speed=speed, seconds=(left + validated / 3) / speed), file=sys.stderr)

    def _waited(self, images: Iterator[Tensor]) -> Iterator[Tensor]:
        """Pass the images on, and note the seconds spent waiting for them."""
        start = time.perf_counter()
        for batch in images:
            self.course.waiting += time.perf_counter() - start
            yield batch
            start = time.perf_counter()
        self.course.waiting += time.perf_counter() - start

    def _validate(self) -> None:
        """Evaluate the epoch on the validation split, and note the results."""
        start, course, faces, rows = time.perf_counter(), self.course, self.faces, self.faces.rows("valid")
        if self.fabric.world_size > 1:  # batch norm's averages differ between processes: take the first one's
            for buffer in self.model.buffers():
                torch.distributed.broadcast(buffer, 0)
        logits = self.feed.apply(self.model.eval(), rows, title="validation", autocast=True)
        labels, group = faces.labels[rows], faces.group[rows]
        counts = contingency_table((logits > 0).T, labels.T, group, len(faces.group_names))
        precision = weighted_mean_average_precision(logits, labels, group)
        if not math.isfinite(precision):
            raise ValueError("no validation image carries any label: no epoch can be called the best")
        row: dict[str, float] = {
            "epoch": len(course.rows) + 1, "loss": course.loss / self.seen,
            "val_loss": float(binary_cross_entropy_with_logits(logits, labels.float())), "val_map": precision,
            "val_accuracy": float(accuracy(counts).mean()), "val_uei": float(underestimation_index(counts).mean()),
            "images_per_second": self.seen / course.training,
            "training": course.training, "waiting": course.waiting, "validating": time.perf_counter() - start, "saving": 0.0,
        }  # fmt: skip
        self.course = Course([*course.rows, row], [*course.counts, counts])
        if self.log:
            for name in ("val_loss", "val_map", "val_accuracy", "val_uei", "images_per_second"):
                self.log.add_scalar(name.replace("val_", "validation "), row[name], self.done)

    def _keep(self) -> None:
        """Save a checkpoint, and the weights if they are the best so far."""
        start, rows = time.perf_counter(), self.course.rows
        if self.fabric.is_global_zero and rows[-1]["val_map"] >= max(row["val_map"] for row in rows):
            save_tensors(self.folder / "base.safetensors", self.model.merged().state_dict(), recipe=self.key)
        self._save_checkpoint()
        rows[-1]["saving"] = time.perf_counter() - start

    def _save_checkpoint(self) -> None:
        if self.fabric.is_global_zero:
            save_checkpoint(self.checkpoint, self.model, self.adam, self.course, self.key)


@torch.no_grad()
def _try_one_batch(model: MultiLabelNet, recipe: Recipe) -> None:
    """Refuse images too small for the architecture before any are decoded."""
    try:
        model.eval()(torch.zeros(1, 3, recipe.image_size, recipe.image_size))
    except (RuntimeError, ValueError, AssertionError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{recipe.backbone} does not take images of {recipe.image_size} pixels: {reason}") from None


def _try_compiler(device: torch.device) -> None:
    """Refuse `compiled` where torch.compile finds no compiler, likewise before any images are decoded."""
    try:
        torch.compile(lambda x: x + 1)(torch.zeros(2, device=device))
    except RuntimeError as error:  # of which all its errors are
        raise ValueError(f"compiled=True, but torch.compile fails here: {str(error).splitlines()[0]}") from None
