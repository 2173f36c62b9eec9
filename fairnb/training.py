"""Stage one of the method: train for accuracy alone and keep the best epoch.

The recipe follows section 3 of the paper and, where it is silent, the setting it refers to: Wang et al., "Towards fairness
in visual recognition", CVPR 2020. Lightning Fabric does the placement, the precision and the processes; the loop is written
out. Every step draws its random numbers from the seed and its own place, so a training that was stopped anywhere goes on to
the same end.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits
from tqdm import tqdm

from fairnb import tables
from fairnb.checkpoint import Course, Requests, alone, load_checkpoint, refuse_little_room
from fairnb.data import Faces
from fairnb.data.crops import cut_squares, normalise, random_places
from fairnb.data.feeding import Feed, apply
from fairnb.metrics import accuracy, contingency_table, underestimation_index
from fairnb.model import MultiLabelNet, build_model
from fairnb.run.device import resolve
from fairnb.run.files import load_notes, load_tensors, save_table, save_tensors
from fairnb.run.keys import content_key, seeded
from fairnb.run.messages import SPEED, some, unknown
from fairnb.weighting import reweighing, weighted_mean_average_precision

if TYPE_CHECKING:
    from lightning_fabric import Fabric

MITIGATIONS = ("", "reweighing", "domain-independent")
SCHEDULES = ("constant", "one-cycle")
TELL_AFTER = 5.0  # seconds of steps from which the speed of a training is told
LOOK_EVERY = 16  # steps between two looks at the losses where a look makes the CPU wait for a GPU
FILES = ("base.safetensors", "history_us.csv", "history.csv")  # what a training leaves; the last one says that it is whole


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what the base model becomes; the defaults are the paper's."""

    backbone: str = "resnet50"  # a torchvision classification model
    weights: str = "IMAGENET1K_V1"  # torchvision weights by name; '' trains from scratch
    hidden: int = 2048  # width of the first of the two fully connected layers
    dropout: float = 0.5  # between the two
    resize: int = 256  # pixels of the shorter side after scaling
    image_size: int = 224  # pixels of the square that the network sees: a random crop in training, the centre after
    epochs: int = 50
    batch_size: int = 32  # images a step, of all processes together
    learning_rate: float = 1e-4  # of Adam; the highest one where it changes
    schedule: str = "constant"  # of the learning rate; 'one-cycle' rises and falls once, see `one_cycle`
    weight_decay: float = 0.0
    precision: str = "auto"  # 'bf16-mixed', '32-true', …; auto: bf16 where the machine computes in it
    compiled: bool = False  # torch.compile: minutes at the start, and fewer, larger pieces of work for a GPU
    mitigation: str = ""  # 'reweighing' or 'domain-independent', to compare with; '' trains for accuracy alone
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse values that no training can use.

        Raises:
            ValueError: with the value and what it must be.
        """
        for name in ("hidden", "resize", "image_size", "epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        if self.image_size > self.resize:
            raise ValueError(f"image_size={self.image_size} is cut out of resize={self.resize}: it cannot be larger")
        if self.mitigation not in MITIGATIONS:
            raise ValueError(unknown("mitigation", self.mitigation, MITIGATIONS))
        if self.schedule not in SCHEDULES:
            raise ValueError(unknown("schedule", self.schedule, SCHEDULES))
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate={self.learning_rate} must be above 0")
        if not self.weight_decay >= 0 or not 0 <= self.dropout < 1:
            raise ValueError(f"weight_decay={self.weight_decay} must not be negative, dropout={self.dropout} in [0, 1)")


@dataclass(frozen=True, eq=False)
class BaseModel:
    """A trained network and how it got there.

    Attributes:
        model: the network at its best epoch, in evaluation mode, on the device it was trained on.
        history: one row an epoch: epoch, loss, val_loss, val_map, val_accuracy, val_uei, best; images_per_second; and where
            its seconds went: training (waiting for images included), waiting, validating, saving.
        us: one row an epoch, label and group, on validation: epoch, label, group, n, positives, predicted_positives, us.
    """

    model: MultiLabelNet
    history: pd.DataFrame
    us: pd.DataFrame

    @property
    def heads(self) -> Tensor:
        """The last layer, float32 [L, D + 1] on the CPU: where every search starts."""
        return self.model.heads.cpu()

    @property
    def hidden(self) -> Tensor:
        """The layer before the last, float32 [D, F + 1] on the CPU."""
        return self.model.hidden_layer.cpu()

    @property
    def best_epoch(self) -> int:
        """The epoch that was kept, from 1."""
        return int(self.history.epoch[self.history.best].iloc[0])

    @property
    def seconds(self) -> float:
        """What the training took, all its sessions together."""
        return float(self.history[["training", "validating", "saving"]].to_numpy().sum())


def train_base(faces: Faces, recipe: Recipe, folder: str | Path, feed: Feed, *, tensorboard: bool = False) -> BaseModel:
    """Train the base model, go on where an interrupted training stopped, or load what is finished.

    Args:
        faces: the dataset; its train split is fitted, its validation split chooses the epoch.
        recipe: what to train.
        folder: where the best epoch's weights and the course of training are left (`FILES`), and a checkpoint while it
            runs. Processes that train together all need to see it.
        feed: the images of `faces`, scaled and cut by the recipe, on their way to the devices.
        tensorboard: also write logs for TensorBoard into `folder/tensorboard`.

    Raises:
        ValueError: for an unknown backbone or weights, unreadable images, a batch that the processes cannot share, a folder
            that holds another training or one under way, or a loss that is no number.
        FileNotFoundError: if pretrained weights are not to be had.
        OSError: if the folder cannot be written to, or its disk has no room for the checkpoints.
        KeyboardInterrupt: after Ctrl-C, or the signal that ends programs, once the step is done and saved.
    """
    folder, fabric = Path(folder), feed.fabric
    model = build_model(
        recipe.backbone,
        len(faces.label_names),
        recipe.hidden,
        recipe.dropout,
        recipe.weights or None,
        seed=recipe.seed,
        domains=len(faces.group_names) if recipe.mitigation == "domain-independent" else 1,
    )
    _try_one_batch(model, recipe)
    if recipe.batch_size % fabric.world_size:
        raise ValueError(f"batch_size={recipe.batch_size} cannot be shared out evenly among {fabric.world_size} processes")
    key = content_key(recipe_key(faces, recipe, fabric.device.type))
    for name in ("base.safetensors", "checkpoint.safetensors"):
        if (folder / name).exists() and load_notes(folder / name).get("recipe") != key:
            raise ValueError(f"{folder / name} was trained by another recipe or on other images: choose another folder")
    if not all((folder / name).exists() for name in FILES):
        with alone(folder, fabric):
            if fabric.is_global_zero:
                refuse_little_room(folder, model)
            feed.prepare()
            _Training(fabric, model, faces, recipe, folder, feed, key, tensorboard).run()
            fabric.barrier()
    if fabric.is_global_zero:
        (folder / "checkpoint.safetensors").unlink(missing_ok=True)  # killed between the last file and this
    model = model.merged()
    model.load_state_dict(load_tensors(folder / "base.safetensors"))
    history, us = pd.read_csv(folder / "history.csv"), pd.read_csv(folder / "history_us.csv")
    return BaseModel(model.to(fabric.device).eval(), history, us)


def recipe_key(faces: Faces, recipe: Recipe, device: str = "auto") -> dict[str, Any]:
    """What decides the base model, as JSON: the key under which it is shared between runs.

    Kind of device and arithmetic are part of it: the same seed gives the same bits only on the same machine.
    """
    device, precision = resolve(device, recipe.precision)
    known = asdict(recipe)
    if recipe.schedule == "constant":
        del known["schedule"]  # trainings from before there was a choice keep their key
    return {**known, "device": device, "precision": precision, "faces": faces.fingerprint()}


def one_cycle(step: int, steps: int) -> float:
    """Share of the highest learning rate at a step, 0 to `steps` - 1: Smith and Topin (2019).

    It rises from 1/25 to 1 over the first three tenths of the steps and falls to 1/250,000, each along half a cosine.
    """
    peak = 0.3 * steps - 1
    low, high, share = (1 / 25, 1.0, step / peak) if step <= peak else (1.0, 4e-6, (step - peak) / (steps - 1 - peak))
    return high + (low - high) * (1 + math.cos(math.pi * share)) / 2


class _Training:
    """One training: the loop over epochs and steps, and what is kept of it."""

    def __init__(
        self,
        fabric: Fabric,
        model: MultiLabelNet,
        faces: Faces,
        recipe: Recipe,
        folder: Path,
        feed: Feed,
        key: str,
        tensorboard: bool,
    ) -> None:
        self.fabric, self.faces, self.recipe, self.folder, self.feed, self.key = fabric, faces, recipe, folder, feed, key
        self.model = model.to(memory_format=torch.channels_last)
        adam = torch.optim.Adam(
            model.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=fabric.device.type != "mps"
        )
        network: Any = torch.compile(self.model) if recipe.compiled else self.model
        self.network, self.optimizer = fabric.setup(network, adam)
        self.adam, self.course, self.rows = adam, Course(), faces.rows("train")
        self.weight: Tensor | None = None  # [N, L] of the whole dataset's labels in the loss
        if recipe.mitigation == "reweighing":
            weights = reweighing(faces.labels[self.rows], faces.group[self.rows], len(faces.group_names))
            self.weight = weights[faces.group.unsqueeze(1), torch.arange(len(faces.label_names)), faces.labels.long()]
        self.checkpoint = folder / "checkpoint.safetensors"
        if self.checkpoint.exists():
            self.course = load_checkpoint(self.checkpoint, self.model, adam)
        self.size = len(self._batches(1))  # steps of an epoch
        self.since = 0.0
        self.began: tuple[float, int] | None = None  # when this session's first steps were done, and how many
        self.log = _logger(folder, self.done) if tensorboard and fabric.is_global_zero else None

    @property
    def done(self) -> int:
        """Steps done in all."""
        return len(self.course.rows) * self.size + self.course.steps

    @property
    def seen(self) -> int:
        """Images seen of the epoch under way."""
        return min(self.course.steps * self.recipe.batch_size, len(self.rows))

    def run(self) -> None:
        """Train what is left, and leave the files."""
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
        us = [
            tables.group_rows("base", {"valid": counts}, self.faces.label_names, self.faces.group_names).assign(epoch=epoch)
            for epoch, counts in enumerate(self.course.counts, start=1)
        ]
        columns = ["epoch", "label", "group", "n", "positives", "predicted_positives", "us"]
        save_table(self.folder / "history_us.csv", pd.concat(us)[columns])
        save_table(self.folder / "history.csv", history)

    def _batches(self, epoch: int) -> list[Tensor]:
        """The rows of every step of an epoch. A last batch too small for each process's batch norm is left out."""
        order = torch.randperm(len(self.rows), generator=seeded(self.recipe.seed, "epoch", epoch))
        batches = list(self.rows[order].split(self.recipe.batch_size))
        few = min(self.recipe.batch_size, 2 * self.fabric.world_size)
        return batches[:-1] if len(batches[-1]) < few and len(batches) > 1 else batches

    def _epoch(self, bar: tqdm, stop: Requests) -> None:
        """What is left of a pass over the training split."""
        fabric, course, recipe = self.fabric, self.course, self.recipe
        epoch, rank, world = len(course.rows) + 1, fabric.global_rank, fabric.world_size
        bar.set_description(f"epoch {epoch}/{recipe.epochs}", refresh=False)
        every = LOOK_EVERY if fabric.device.type == "cuda" else 1
        batches = self._batches(epoch)
        left = range(course.steps, len(batches))
        mine = [batches[step][rank::world] for step in left]
        losses: list[Tensor] = []  # of the steps since the last look
        self.network.train()
        self.since = time.perf_counter()
        with torch.random.fork_rng(devices=[fabric.device] if fabric.device.type == "cuda" else []):  # no other GPU
            for step, own, images in zip(left, mine, self._waited(self.feed.batches(mine)), strict=False):
                count = len(batches[step])
                draw = seeded(recipe.seed, "epoch", epoch, "step", step)
                places = random_places(count, (images.shape[2], images.shape[3]), recipe.image_size, draw)
                torch.manual_seed(int(torch.randint(2**62, (), generator=draw)) + rank)  # dropout knows no other generator
                inputs = normalise(cut_squares(images, recipe.image_size, *(part[rank::world] for part in places)))
                targets = fabric.to_device(self.faces.labels[own].float())
                domain = None if self.model.domains == 1 else fabric.to_device(self.faces.group[own])
                weight = None if self.weight is None else fabric.to_device(self.weight[own])
                # the mean over processes, which DDP takes, is then the mean over images
                loss = binary_cross_entropy_with_logits(self.network(inputs, domain).float(), targets, weight)
                loss = loss * (len(own) * world / count)
                if recipe.schedule == "one-cycle":
                    share = one_cycle((epoch - 1) * self.size + step, recipe.epochs * self.size)
                    for weights in self.adam.param_groups:
                        weights["lr"] = recipe.learning_rate * share
                self.optimizer.zero_grad()
                fabric.backward(loss)
                self.optimizer.step()
                losses.append(loss.detach())
                if len(losses) == every or step == left[-1]:
                    self._look(batches, losses, bar, stop)
                    losses.clear()

    def _look(self, batches: list[Tensor], losses: list[Tensor], bar: tqdm, stop: Requests) -> None:
        """Read the losses of the last steps, show them, and see whether to stop: all processes see the same."""
        course, epoch = self.course, len(self.course.rows) + 1
        asked = torch.tensor([float(stop.asked)], device=self.fabric.device)
        seen_here = torch.cat([torch.stack(losses), asked])
        if self.fabric.world_size > 1:
            torch.distributed.all_reduce(seen_here)
        *means, asked_share = (seen_here / self.fabric.world_size).tolist()
        for value, rows in zip(means, batches[course.steps :], strict=False):
            if not math.isfinite(value):
                names = self.faces.images.names
                kept = f"{self.checkpoint} keeps what was good" if self.checkpoint.exists() else "nothing had been saved yet"
                raise ValueError(
                    f"the loss became {value} in epoch {epoch}, step {course.steps + 1:,} of {len(batches):,} "
                    f"(images {some([names[row] for row in rows.tolist()], 3)}): lower learning_rate "
                    f"(now {self.recipe.learning_rate}), or look at the images; {kept}"
                )
            course.loss, course.steps = course.loss + value * len(rows), course.steps + 1
            bar.update(len(rows))
        now = time.perf_counter()
        course.training, self.since = course.training + now - self.since, now
        shown = {"loss": f"{course.loss / self.seen:.4f}"}
        if course.rows:
            shown["mAP"] = f"{course.rows[-1]['val_map']:.3f}"
        bar.set_postfix(shown, refresh=False)
        self._tell_speed(bar, now)
        if self.log:
            self.log.add_scalar("training loss", means[-1], self.done)
        if asked_share > 0:
            self._save_checkpoint()
            self.fabric.barrier()
            if not self.fabric.is_global_zero:
                raise SystemExit(130)  # the first process tells
            raise KeyboardInterrupt(
                f"stopped in epoch {epoch} of {self.recipe.epochs} after {course.steps:,} of {len(batches):,} steps and "
                f"saved in {self.checkpoint}: the same command, or cell, goes on from there"
            )

    def _tell_speed(self, bar: tqdm, now: float) -> None:
        """Once, some seconds after the first steps, say how long the training will take."""
        if self.began is None:
            self.began = now, self.done
        start, first = self.began
        if self.done <= first or now - start < TELL_AFTER:
            return
        self.began = math.inf, self.done  # never again
        speed = (self.done - first) * self.recipe.batch_size / (now - start)
        left = (self.recipe.epochs * self.size - self.done) * self.recipe.batch_size
        looked_at = (self.recipe.epochs - len(self.course.rows)) * len(self.faces.rows("valid"))
        if self.fabric.is_global_zero:  # a look at an image costs about a third of a step's forward and backward pass
            bar.write(SPEED.format(left=left, speed=speed, seconds=(left + looked_at / 3) / speed), file=sys.stderr)

    def _waited(self, images: Iterator[Tensor]) -> Iterator[Tensor]:
        """The same images, the seconds spent on waiting for them noted."""
        while True:
            start = time.perf_counter()
            batch = next(images, None)
            self.course.waiting += time.perf_counter() - start
            if batch is None:
                return
            yield batch

    def _validate(self) -> None:
        """Measure the epoch on the validation split, and note it."""
        start, course, faces = time.perf_counter(), self.course, self.faces
        rows = faces.rows("valid")
        if self.fabric.world_size > 1:  # batch norm's averages are of each process's own images: take the first one's
            for buffer in self.model.buffers():
                torch.distributed.broadcast(buffer, 0)
        logits = apply(self.model.eval(), rows, self.feed, title="validation", autocast=True)
        labels, group = faces.labels[rows], faces.group[rows]
        counts = contingency_table((logits > 0).T, labels.T, group, len(faces.group_names))
        precision = weighted_mean_average_precision(logits, labels, group)
        if not math.isfinite(precision):
            raise ValueError("no validation image carries any label: no epoch can be called the best")
        row: dict[str, float] = {
            "epoch": len(course.rows) + 1,
            "loss": course.loss / self.seen,
            "val_loss": float(binary_cross_entropy_with_logits(logits, labels.float())),
            "val_map": precision,
            "val_accuracy": float(accuracy(counts).mean()),
            "val_uei": float(underestimation_index(counts).mean()),
            "images_per_second": self.seen / course.training,
            "training": course.training,
            "waiting": course.waiting,
            "validating": time.perf_counter() - start,
            "saving": 0.0,
        }
        self.course = Course([*course.rows, row], [*course.counts, counts])
        if self.log:
            for name in ("val_loss", "val_map", "val_accuracy", "val_uei", "images_per_second"):
                self.log.add_scalar(name.replace("val_", "validation "), row[name], self.done)

    def _keep(self) -> None:
        """Save the epoch, and its weights if they are the best so far."""
        start, rows = time.perf_counter(), self.course.rows
        if self.fabric.is_global_zero and rows[-1]["val_map"] >= max(row["val_map"] for row in rows):
            save_tensors(self.folder / "base.safetensors", self.model.merged().state_dict(), recipe=self.key)
        self._save_checkpoint()
        rows[-1]["saving"] = time.perf_counter() - start

    @torch.no_grad()
    def _save_checkpoint(self) -> None:
        if not self.fabric.is_global_zero:
            return
        course = self.course
        tensors = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        for index, state in self.adam.state_dict()["state"].items():
            tensors |= {f"adam.{index}.{name}": torch.as_tensor(value) for name, value in state.items()}
        if course.counts:
            tensors["counts"] = torch.stack(course.counts)
        plain = {name: value for name, value in vars(course).items() if name != "counts"}
        save_tensors(self.checkpoint, tensors, course=json.dumps(plain), recipe=self.key)


def _logger(folder: Path, step: int) -> Any:
    """TensorBoard's writer; what an interrupted session logged beyond `step` is taken back."""
    from torch.utils.tensorboard import SummaryWriter  # slow to import

    return SummaryWriter(folder / "tensorboard", purge_step=step, flush_secs=20)


@torch.no_grad()
def _try_one_batch(model: MultiLabelNet, recipe: Recipe) -> None:
    """Some architectures need larger images than the recipe gives: find out before images are decoded."""
    try:
        model.eval()(torch.zeros(1, 3, recipe.image_size, recipe.image_size))
    except (RuntimeError, ValueError, AssertionError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{recipe.backbone} does not take images of {recipe.image_size} pixels: {reason}") from None
