"""Stage one of the method: train for accuracy alone, keep the best epoch, and run the backbone once for its features.

The recipe follows section 3 of the paper and, where it is silent, the setting it refers to: Wang et al., "Towards fairness
in visual recognition", CVPR 2020. Lightning Fabric does the placement and the precision; the loop is written out.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from lightning.fabric import Fabric
from sklearn.metrics import average_precision_score
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torchvision.transforms.v2 import functional as F
from tqdm import tqdm

from fairnb.data import Faces, decode_images
from fairnb.files import content_key, load_notes, load_tensors, save_table, save_tensors, seeded
from fairnb.messages import unknown
from fairnb.metrics import accuracy, contingency_table, underestimation_index
from fairnb.model import MultiLabelNet, build_model

IMAGENET_MEAN, IMAGENET_STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
DEVICES = ("auto", "cpu", "cuda", "mps")


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what the base model becomes; the defaults are the paper's."""

    backbone: str = "resnet50"  # a torchvision classification model
    weights: str = "IMAGENET1K_V1"  # torchvision weights by name; '' trains from scratch
    hidden: int = 2048  # width of the first of the two fully connected layers
    dropout: float = 0.5  # between the two
    resize: int = 256  # pixels of the shorter side after decoding
    image_size: int = 224  # pixels of the square that the network sees: a random crop in training, the centre after
    epochs: int = 50
    batch_size: int = 32
    learning_rate: float = 1e-4  # of Adam
    weight_decay: float = 0.0
    precision: str = "auto"  # 'bf16-mixed', '32-true', …; auto: bf16 where the machine computes in it
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
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate={self.learning_rate} must be above 0")
        if not self.weight_decay >= 0 or not 0 <= self.dropout < 1:
            raise ValueError(f"weight_decay={self.weight_decay} must not be negative, dropout={self.dropout} in [0, 1)")


@dataclass(frozen=True, eq=False)
class BaseModel:
    """A trained network and how it got there.

    Attributes:
        model: the network at its best epoch, in evaluation mode, on the device it was trained on.
        history: one row an epoch: epoch, loss, val_loss, val_map, val_accuracy, val_uei, seconds, images_per_second, best.
    """

    model: MultiLabelNet
    history: pd.DataFrame

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


@dataclass(frozen=True, eq=False)
class Features:
    """What the last layer reads, computed once a split: the second stage needs nothing else.

    Attributes:
        x: float32 [N, D] ≥ 0, penultimate features.
        labels: bool [N, L].
        group: int64 [N] in 0..G-1.
        groups: G, also where a group has nobody in this split.
    """

    x: Tensor
    labels: Tensor
    group: Tensor
    groups: int

    def __post_init__(self) -> None:
        """Refuse parts that do not belong together.

        Raises:
            ValueError: if the numbers of images differ.
        """
        rows = {name: len(getattr(self, name)) for name in ("x", "labels", "group")}
        if len(set(rows.values())) > 1:
            found = ", ".join(f"{count:,} rows in {name}" for name, count in rows.items())
            raise ValueError(f"features, labels and groups are of different images: {found}")

    def to(self, device: torch.device | str) -> Features:
        """The same on another device."""
        return Features(self.x.to(device), self.labels.to(device), self.group.to(device), self.groups)


def resolve(device: str = "auto", precision: str = "auto") -> tuple[str, str]:
    """What 'auto' means on this machine: the device and the precision that will be used.

    Raises:
        ValueError: for an unknown device (nearest name), or one that this machine does not have.
    """
    if device not in DEVICES:
        raise ValueError(unknown("device", device, DEVICES))
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "auto": True, "cpu": True}
    if not present[device]:
        raise ValueError(f"device {device!r} is not on this machine: choose 'cpu', or 'auto' for the best there is")
    if device == "auto":
        device = next((name for name in ("cuda", "mps") if present[name]), "cpu")
    if precision == "auto":
        precision = "bf16-mixed" if _computes_in_bf16(device) else "32-true"
    return device, precision


def make_fabric(device: str = "auto", precision: str = "auto") -> Fabric:
    """Fabric on one device; for the errors see `resolve`."""
    device, precision = resolve(device, precision)
    return Fabric(accelerator=device, devices=1, precision=precision)  # type: ignore[arg-type]


def _computes_in_bf16(device: str) -> bool:
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def train_base(faces: Faces, recipe: Recipe, folder: str | Path, *, cache: str | Path, device: str = "auto") -> BaseModel:
    """Train the base model, go on where an interrupted training stopped, or load what is finished.

    Args:
        faces: the dataset; its train split is fitted, its validation split chooses the epoch.
        recipe: what to train.
        folder: where `base.safetensors` (the best epoch) and `history.csv` are left, and a checkpoint while it runs.
            An epoch draws its random numbers from the seed and its own number, so a resumed run ends as an
            uninterrupted one.
        cache: where the decoded images lie, or will.
        device: one of `DEVICES`.

    Raises:
        ValueError: for an unknown backbone, weights or device, unreadable images, a folder that holds another training,
            or a loss that is no number.
        FileNotFoundError: if pretrained weights are not to be had.
    """
    folder = Path(folder)
    fabric = make_fabric(device, recipe.precision)
    labels = len(faces.label_names)
    model = build_model(recipe.backbone, labels, recipe.hidden, recipe.dropout, recipe.weights or None, seed=recipe.seed)
    _try_one_batch(model, recipe)
    weights_path, history_path, checkpoint_path = (
        folder / name for name in ("base.safetensors", "history.csv", "checkpoint.safetensors")
    )
    key = content_key(recipe_key(faces, recipe, device))
    for path in (weights_path, checkpoint_path):
        if path.exists() and load_notes(path).get("recipe") != key:
            raise ValueError(f"{path} was trained by another recipe or on other images: choose another folder")
    if history_path.exists() and weights_path.exists():
        model.load_state_dict(load_tensors(weights_path))
        return BaseModel(model.to(fabric.device).eval(), pd.read_csv(history_path))

    pictures = decode_images(faces.images, recipe.resize, cache)
    folder.mkdir(parents=True, exist_ok=True)
    model = model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(
        model.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=fabric.device.type != "mps"
    )
    network, optim = fabric.setup(model, optimizer)
    rows = _load_checkpoint(checkpoint_path, model, optimizer) if checkpoint_path.exists() else []
    with torch.backends.cudnn.flags(enabled=True, deterministic=True, benchmark=False):
        for epoch in range(len(rows) + 1, recipe.epochs + 1):
            start = time.perf_counter()
            title = f"epoch {epoch}/{recipe.epochs}" + (f", validation mAP {rows[-1]['val_map']:.3f}" if rows else "")
            loss = _train_epoch(fabric, network, optim, faces, pictures, recipe, epoch, title)
            seconds = time.perf_counter() - start
            measured = _validate(fabric, model, faces, recipe, cache)
            if not math.isfinite(measured["val_map"]):
                raise ValueError("no validation image carries any label: no epoch can be called the best")
            speed = len(faces.rows("train")) / seconds
            rows.append({"epoch": epoch, "loss": loss, **measured, "seconds": seconds, "images_per_second": speed})
            if measured["val_map"] >= max(row["val_map"] for row in rows):
                save_tensors(weights_path, model.state_dict(), recipe=key)
            _save_checkpoint(checkpoint_path, model, optimizer, rows, key)
    history = pd.DataFrame(rows)
    history["best"] = history.index == len(history) - 1 - history.val_map[::-1].argmax()  # a tie goes to the later epoch
    save_table(history_path, history)  # the last thing written: with it the training is finished
    checkpoint_path.unlink(missing_ok=True)
    model.load_state_dict(load_tensors(weights_path))
    return BaseModel(model.eval(), history)


@torch.no_grad()
def apply(
    function: Callable[[Tensor], Tensor], faces: Faces, split: str, recipe: Recipe, fabric: Fabric, cache: str | Path
) -> Tensor:
    """Run a network, or a method of one, over the centre crops of a split: [N, …] on the CPU, in file order."""
    pictures = decode_images(faces.images, recipe.resize, cache)
    batches = _centre_batches(fabric, pictures, faces.rows(split), recipe, split)
    # TF32 would round the float32 that the features promise
    with fabric.autocast(), torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
        return torch.cat([function(batch).float().cpu() for batch in batches])


def extract_features(
    faces: Faces, base: BaseModel, recipe: Recipe, *, layer: str = "penultimate", cache: str | Path, device: str = "auto"
) -> dict[str, Features]:
    """Run the backbone once over validation and test: `{"valid": Features, "test": Features}`, on the CPU.

    `layer` names a method of the network: 'penultimate', what the last layer reads, or 'pooled', what the layer before it
    reads. The features are computed in float32 whatever the training's precision: the tables of results depend on them.
    """
    fabric = make_fabric(device, "32-true")
    model = base.model.to(fabric.device).eval()
    groups = len(faces.group_names)
    return {
        split: Features(
            apply(getattr(model, layer), faces, split, recipe, fabric, cache),
            faces.labels[faces.rows(split)],
            faces.group[faces.rows(split)],
            groups,
        )
        for split in ("valid", "test")
    }


def save_features(path: Path, features: dict[str, Features]) -> None:
    """Write the features of splits as one safetensors file."""
    parts = {f"{split}.{name}": getattr(part, name) for split, part in features.items() for name in ("x", "labels", "group")}
    save_tensors(path, parts, groups=json.dumps({split: part.groups for split, part in features.items()}))


def load_features(path: Path) -> dict[str, Features]:
    """The features of splits that `save_features` wrote, mapped: read where they are used.

    Raises:
        ValueError: if the file is damaged or holds something else, with its path.
    """
    saved, notes = load_tensors(path), load_notes(path)
    if "groups" not in notes:
        raise ValueError(f"{path} does not say how many groups there are: delete it to make it anew")
    return {
        split: Features(saved[f"{split}.x"], saved[f"{split}.labels"], saved[f"{split}.group"], count)
        for split, count in json.loads(notes["groups"]).items()
    }


def load_heads(path: Path) -> Tensor:
    """The last layer of a network in a safetensors file, such as a run's `base.safetensors`: float32 [L, D + 1].

    Raises:
        ValueError: if the file is damaged, with its path.
    """
    saved = load_tensors(path)
    return torch.cat([saved["head.weight"], saved["head.bias"].unsqueeze(1)], dim=1)


def weighted_mean_average_precision(scores: Tensor, labels: Tensor, group: Tensor) -> float:
    """Mean average precision in which every group's positives weigh the same: Wang et al. (2020), section 5.

    Of a label's positives, those of group g weigh N / (G · N_g), where N counts the label's positives and N_g those in g;
    negatives weigh 1. For two groups: (N_m + N_f) / (2 N_own).

    Args:
        scores: [N, L], higher is more positive.
        labels: bool [N, L].
        group: int64 [N].

    Returns:
        The mean over the labels that have a positive, in [0, 1]; NaN where none has.
    """
    member = torch.nn.functional.one_hot(group).double()  # [N, G]
    counts = labels.double().T @ member  # [L, G] positives per group
    weight = counts.sum(1, keepdim=True) / (counts > 0).sum(1, keepdim=True) / counts.clamp(min=1)
    weights = torch.where(labels, (member @ weight.T), 1.0)  # [N, L]
    return float(
        np.mean(
            [
                average_precision_score(labels[:, j].numpy(), scores[:, j].numpy(), sample_weight=weights[:, j].numpy())
                for j in range(labels.shape[1])
                if bool(labels[:, j].any())
            ]
            or [math.nan]
        )
    )


def _train_epoch(
    fabric: Fabric,
    network: Callable[[Tensor], Tensor],
    optimizer: Any,
    faces: Faces,
    pictures: np.ndarray,
    recipe: Recipe,
    epoch: int,
    title: str,
) -> float:
    """One pass over the training split; returns its mean loss."""
    network.train()  # type: ignore[attr-defined]
    draw = seeded(recipe.seed, "epoch", epoch)
    rows = faces.rows("train")
    rows = rows[torch.randperm(len(rows), generator=draw)]
    total, seen = 0.0, 0
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(int(torch.randint(2**62, (), generator=draw)))  # dropout knows only the global generator
        with tqdm(total=len(rows), desc=title, unit="image", mininterval=1, leave=False) as bar:
            for chosen in rows.split(recipe.batch_size):
                images = _augment(_take(pictures, chosen), recipe.image_size, draw)
                target = fabric.to_device(faces.labels[chosen].float())
                logits = network(_normalise(fabric.to_device(images)))
                loss = binary_cross_entropy_with_logits(logits.float(), target)
                value = loss.item()
                if not math.isfinite(value):
                    raise ValueError(
                        f"the loss became {value} in epoch {epoch} after {seen:,} images: lower learning_rate "
                        f"(now {recipe.learning_rate}); the checkpoint of epoch {epoch - 1} is kept"
                    )
                optimizer.zero_grad()
                fabric.backward(loss)
                optimizer.step()
                total, seen = total + value * len(chosen), seen + len(chosen)
                bar.update(len(chosen))
                bar.set_postfix(loss=f"{total / seen:.4f}", refresh=False)
    return total / seen


def _validate(fabric: Fabric, model: nn.Module, faces: Faces, recipe: Recipe, cache: str | Path) -> dict[str, float]:
    rows = faces.rows("valid")
    logits = apply(model.eval(), faces, "valid", recipe, fabric, cache)
    labels, group = faces.labels[rows], faces.group[rows]
    tables = contingency_table((logits > 0).T, labels.T, group, len(faces.group_names))
    return {
        "val_loss": float(binary_cross_entropy_with_logits(logits, labels.float())),
        "val_map": weighted_mean_average_precision(logits, labels, group),
        "val_accuracy": float(accuracy(tables).mean()),
        "val_uei": float(underestimation_index(tables).mean()),
    }


def _centre_batches(fabric: Fabric, pictures: np.ndarray, rows: Tensor, recipe: Recipe, split: str) -> Iterator[Tensor]:
    """Batches of centre crops, normalised, on the device."""
    for chosen in tqdm(rows.split(128), f"reading {split}", unit="batch", mininterval=1, leave=False):
        images = F.center_crop(_take(pictures, chosen), [recipe.image_size, recipe.image_size])
        yield _normalise(fabric.to_device(images))


def _take(pictures: np.ndarray, rows: Tensor) -> Tensor:
    """Rows of the decoded images as uint8 [B, 3, H, W], channels last in memory."""
    return torch.from_numpy(pictures[rows.numpy()]).permute(0, 3, 1, 2)


def _augment(images: Tensor, size: int, draw: torch.Generator) -> Tensor:
    """A random crop and a flip of half of the images, each image its own; torchvision's crop a batch at once the same."""
    b, _, height, width = images.shape
    top = torch.randint(height - size + 1, (b, 1), generator=draw)
    left = torch.randint(width - size + 1, (b, 1), generator=draw)
    flip = torch.rand(b, 1, generator=draw) < 0.5
    across = torch.arange(size)
    y = top + across  # [B, size]
    x = left + torch.where(flip, size - 1 - across, across)  # [B, size]
    crop = images.permute(0, 2, 3, 1)[torch.arange(b)[:, None, None], y[:, :, None], x[:, None, :]]  # [B, size, size, 3]
    return crop.permute(0, 3, 1, 2)


def _normalise(images: Tensor) -> Tensor:
    """uint8 0..255 to float32 with ImageNet's mean and spread."""
    return F.normalize(images.float() / 255, IMAGENET_MEAN, IMAGENET_STD)


@torch.no_grad()
def _try_one_batch(model: MultiLabelNet, recipe: Recipe) -> None:
    """Some architectures need larger images than the recipe gives: find out before images are decoded."""
    try:
        model.eval()(torch.zeros(1, 3, recipe.image_size, recipe.image_size))
    except (RuntimeError, ValueError, AssertionError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{recipe.backbone} does not take images of {recipe.image_size} pixels: {reason}") from None


@torch.no_grad()
def _save_checkpoint(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, rows: list[dict[str, float]], key: str
) -> None:
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"adam.{index}.{name}": torch.as_tensor(value) for name, value in state.items()}
    save_tensors(path, tensors, history=json.dumps(rows), recipe=key)


@torch.no_grad()
def _load_checkpoint(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> list[dict[str, float]]:
    """Put the checkpoint's weights and Adam's moments in place; returns the history so far."""
    tensors = load_tensors(path)
    model.load_state_dict({name[6:]: tensor for name, tensor in tensors.items() if name.startswith("model.")})
    parameters = list(model.parameters())
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("adam."):
            _, index, key = name.split(".", 2)
            parameter = parameters[int(index)]
            if (
                tensor.shape == parameter.shape
            ):  # fused Adam walks through memory: a moment must lie there as its weight does
                tensor = torch.empty_like(parameter).copy_(tensor)
            state.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return json.loads(load_notes(path)["history"])


def recipe_key(faces: Faces, recipe: Recipe, device: str = "auto") -> dict[str, Any]:
    """What decides the base model, as JSON: the key under which it is shared between runs.

    Kind of device and arithmetic are part of it: the same seed gives the same bits only on the same machine.
    """
    device, precision = resolve(device, recipe.precision)
    return {**asdict(recipe), "device": device, "precision": precision, "faces": faces.fingerprint()}
