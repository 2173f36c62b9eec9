"""Base training at the paper's size: how fast images are prepared, fed and trained on, and what bf16 does to accuracy.

    .venv/bin/python benchmarks/training.py [<photographs in CelebA layout>] [--images 20000] [--keep folder]

Makes a folder in CelebA's exact layout: its 202,599 rows, partition and file names, and so many different drawn faces of
178×218 pixels; the other names are links to these. Measures on it what a run of `params/paper.yml` does, in turns with what
it is compared with: the same step on tensors that are in memory, and a plain float32 PyTorch loop. With photographs, trains
them by `params/photographs.yml` in bf16 and in float32, several seeds each. Prints tables, and exits 1 where a promise is
not kept. What takes hours is extrapolated, and says so.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from measuring import Claim, at_least, at_most, verdict
from phenomenon import swept
from PIL import Image
from torch import Tensor, nn
from tqdm import tqdm

from fairnb.checkpoint import Requests
from fairnb.data import Faces, decode_images, read_celeba
from fairnb.data.drawn.faces import DrawnImages
from fairnb.data.drawn.people import CELEBA, draw_people, read_statistics
from fairnb.data.drawn.portrait import ATTRIBUTES
from fairnb.data.faces import Chosen
from fairnb.data.feeding import Feed
from fairnb.model import build_model
from fairnb.run.device import make_fabric
from fairnb.run.parameters import Parameters, Recipe, read
from fairnb.training import _Training

ROOT = Path(__file__).resolve().parents[1]
SPLITS = (162_770, 19_867, 19_962)  # CelebA's own
TURNS = 9  # short ones in turns: a shared machine changes its speed from one minute to the next


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photographs", type=Path, nargs="?", help="for the comparison of bf16 and float32")
    parser.add_argument("--images", type=int, default=20_000, help="different faces to draw and decode")
    parser.add_argument("--steps", type=int, default=0, help="steps of a turn; 0: 3 on a CPU, 100 on a GPU")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=5, help="of the trainings on photographs")
    parser.add_argument("--keep", type=Path, help="folder that keeps the drawn files for the next time")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--compiled", action="store_true", help="also the step under torch.compile")
    arguments = parser.parse_args()
    claims: list[Claim] = []
    with tempfile.TemporaryDirectory() as scratch:
        root = make_celeba((arguments.keep or Path(scratch)) / "celeba", arguments.images)
        claims += preparing(root, arguments.images, Path(scratch))
        claims += feeding(root, arguments, Path(scratch))
        if arguments.photographs:
            claims += arithmetic(arguments)
    return verdict(claims)


def make_celeba(root: Path, different: int) -> Path:
    """CelebA's files: 202,599 rows and names, `different` of the images drawn, the others hard links to them."""
    if (root / "list_eval_partition.txt").exists():
        return root
    folder, total = root / "img_align_celeba", sum(SPLITS)
    folder.mkdir(parents=True)
    names = [f"{number:06d}.jpg" for number in range(1, total + 1)]
    intensity, labels = draw_people(0, total, 0, read_statistics(CELEBA))
    images = DrawnImages(intensity[:different], 0, 218, 178)

    def draw(start: int) -> None:
        rows = range(start, min(start + images.block, different))
        for row, image in zip(rows, images.read(rows, 178), strict=True):
            Image.fromarray(image.numpy()).save(folder / names[row], "JPEG", quality=90)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        blocks = range(0, different, images.block)
        for _ in tqdm(pool.map(draw, blocks), "drawing files", len(blocks), mininterval=10):
            pass
    for row in range(different, total):
        os.link(folder / names[row % different], folder / names[row])
    rows = [" ".join([name, *("1" if v else "-1" for v in row)]) for name, row in zip(names, labels.tolist(), strict=True)]
    (root / "list_attr_celeba.txt").write_text("\n".join([str(total), " ".join(ATTRIBUTES), *rows]) + "\n")
    codes = [code for code, count in enumerate(SPLITS) for _ in range(count)]
    partition = [f"{name} {code}" for name, code in zip(names, codes, strict=True)]
    (root / "list_eval_partition.txt").write_text("\n".join(partition) + "\n")
    return root


def preparing(root: Path, different: int, scratch: Path) -> list[Claim]:
    """Reading the annotations and looking at every file name, at full size; decoding, on the drawn files."""
    begun = time.perf_counter()
    faces = read_celeba(root)
    reading = time.perf_counter() - begun
    begun = time.perf_counter()
    faces.fingerprint()
    looking = time.perf_counter() - begun
    begun = time.perf_counter()
    array = decode_images(Chosen(faces.images, torch.arange(different)), 256, scratch / "prepared")
    decoding = time.perf_counter() - begun
    whole = (reading + looking + decoding * sum(SPLITS) / different) / 60
    size = array.nbytes / different * sum(SPLITS) / 1e9
    print(
        f"\npreparing: {sum(SPLITS):,} rows read in {reading:.1f} s, their files looked up in {looking:.1f} s; "
        f"{different:,} images of {array.shape[2]}×{array.shape[1]} decoded in {decoding:.1f} s "
        f"({different / decoding:,.0f} a second, {os.cpu_count()} cores); all of them would take {size:.1f} GB\n",
        flush=True,
    )
    return [at_most("preparing CelebA, minutes (extrapolated)", whole, 10)]


def feeding(root: Path, arguments: argparse.Namespace, scratch: Path) -> list[Claim]:
    """Images a second of `params/paper.yml` on files, on the decoded array, on tensors in memory, and of a plain loop."""
    # the weights decide nothing about speed, and are not to be had without a network
    recipe = Parameters(**read(ROOT / "params" / "paper.yml", [f"data_root={root}", "weights="])).part(Recipe)
    fabric = make_fabric(arguments.device, recipe.precision)
    device = fabric.device
    steps = arguments.steps or (3 if device.type == "cpu" else 100)
    faces = read_celeba(root)
    some = faces.limited(steps * recipe.batch_size)
    ways: dict[str, Callable[[], float]] = {"plain float32 loop": plain_loop(recipe, device, max(1, steps // 3))}
    trainings = {}
    for form in ("files", "cached"):
        feed = Feed(some.images, recipe.resize, recipe.image_size, cache=scratch / "cache", fabric=fabric, form=form)
        feed.prepare()
        training = trainings[form] = _Training(fabric, fresh(recipe, some), some, recipe, scratch / form, feed, "", False)
        ways[form] = epoch_of(training)
    ways["in memory"] = resident_steps(trainings["cached"], steps)
    if arguments.compiled:
        feed = trainings["cached"].feed
        compiled = recipe.but(compiled=True)
        training = _Training(fabric, fresh(compiled, some), some, compiled, scratch / "compiled", feed, "", False)
        ways["in memory, compiled"] = resident_steps(training, steps)
    speeds = speeds_of(ways, TURNS)
    validating = extraction(trainings["cached"], faces, 256 if device.type == "cpu" else 8192)
    workers = trainings["files"].feed.workers
    name = torch.cuda.get_device_name() if device.type == "cuda" else f"{os.cpu_count()} cores"
    print(f"{recipe.backbone} at {recipe.image_size}, batch {recipe.batch_size}, on {name}; {workers} workers for files.")
    print(f"Images a second, median and range of {TURNS} turns of {steps} steps:")
    print(speeds.agg(["median", "min", "max"]).T.round(1).to_string())
    fed = min(speeds[form].median() for form in ("files", "cached"))
    hours = recipe.epochs * (SPLITS[0] / fed + SPLITS[1] / validating["validation"]) / 3600
    print(f"validation {validating['validation']:.0f} images/s; features in float32 {validating['features']:.0f} images/s")
    print(f"extrapolated: features of {sum(SPLITS[1:]):,} images {sum(SPLITS[1:]) / validating['features']:.0f} s; ", end="")
    print(f"the {recipe.epochs} epochs of params/paper.yml {hours:.1f} hours\n", flush=True)

    return [
        ratio(speeds, "in memory", "plain float32 loop", 2.5),
        ratio(speeds, "files", "in memory", 0.95),
        ratio(speeds, "cached", "in memory", 0.95),
    ]


def speeds_of(ways: dict[str, Callable[[], float]], turns: int) -> pd.DataFrame:
    """Images a second of each way, a row a turn; one more turn before warms up."""
    return pd.DataFrame([{name: way() for name, way in ways.items()} for _ in range(turns + 1)]).iloc[1:]


def ratio(speeds: pd.DataFrame, one: str, other: str, promised: float) -> Claim:
    """The median of one way's speed, as a share of another's in the same turn."""
    return at_least(f"images a second: {one}, of {other}", statistics.median(speeds[one] / speeds[other]), promised)


def fresh(recipe: Recipe, faces: Faces) -> Any:
    return build_model(recipe.backbone, len(faces.label_names), recipe.hidden, recipe.dropout, None, seed=0)


def epoch_of(training: _Training) -> Callable[[], float]:
    """A pass of the real training over its images; returns images a second."""

    def run() -> float:
        with Requests() as stop, torch.backends.cudnn.flags(enabled=True, deterministic=True, benchmark=False):
            training._epoch(tqdm(disable=True), stop)
        course = training.course
        speed = len(training.rows) / course.training
        course.steps, course.loss, course.training, course.waiting = 0, 0.0, 0.0, 0.0
        return speed

    return run


def resident_steps(training: _Training, steps: int) -> Callable[[], float]:
    """The same step on one batch that lies ready on the device, cut and normalised."""
    images, targets = batch(training.recipe, training.model.head.out_features, training.fabric.device)
    ready = images.contiguous(memory_format=torch.channels_last), targets
    return repeated(training.network, training.optimizer, training.fabric.backward, ready, steps, deterministic=True)


def plain_loop(recipe: Recipe, device: torch.device, steps: int) -> Callable[[], float]:
    """What one writes first: float32, Adam as it comes, a batch that lies ready."""
    model = build_model(recipe.backbone, 39, recipe.hidden, recipe.dropout, None, seed=0).to(device)
    adam = torch.optim.Adam(model.parameters(), lr=recipe.learning_rate)
    return repeated(model, adam, Tensor.backward, batch(recipe, 39, device), steps, deterministic=False)


def batch(recipe: Recipe, labels: int, device: torch.device) -> tuple[Tensor, Tensor]:
    images = torch.randn(recipe.batch_size, 3, recipe.image_size, recipe.image_size, device=device)
    return images, (torch.rand(recipe.batch_size, labels, device=device) < 0.2).float()


def repeated(
    network: Any, optimizer: Any, backward: Callable[[Tensor], object], ready: tuple[Tensor, Tensor], steps: int, *,
    deterministic: bool,
) -> Callable[[], float]:  # fmt: skip
    """Steps on one batch; returns images a second."""

    def run() -> float:
        network.train()
        begun = time.perf_counter()
        with torch.backends.cudnn.flags(enabled=True, deterministic=deterministic, benchmark=False):
            for _ in range(steps):
                loss = nn.functional.binary_cross_entropy_with_logits(network(ready[0]).float(), ready[1])
                optimizer.zero_grad()
                backward(loss)
                optimizer.step()
        loss.item()  # waits for a GPU
        return steps * len(ready[0]) / (time.perf_counter() - begun)

    return run


def extraction(training: _Training, faces: Faces, images: int) -> dict[str, float]:
    """Images a second of validation and of the features, from files."""
    rows, model = faces.rows("valid")[:images], training.model.eval()
    feed = Feed(
        faces.images, training.recipe.resize, training.recipe.image_size, cache=training.folder, fabric=training.fabric,
        form="files",
    )  # fmt: skip
    feed.__dict__["_pictures"] = type(training.feed._pictures)(faces.images, feed._stored, None)  # not all looked through
    speeds = {}
    for name, function, autocast in (("validation", model, True), ("features", model.penultimate, False)):
        feed.apply(function, rows[:128], title=name, autocast=autocast)  # warms up
        begun = time.perf_counter()
        feed.apply(function, rows, title=name, autocast=autocast)
        speeds[name] = len(rows) / (time.perf_counter() - begun)
    return speeds


def arithmetic(arguments: argparse.Namespace) -> list[Claim]:
    """Validation accuracy of the photographs after training in bf16 and in float32, at the epoch kept."""

    def kept(folder: Path) -> dict[str, Any]:
        history = pd.read_csv(folder / "history.csv")
        return dict(history[history.best].iloc[0][["val_accuracy", "val_map", "val_uei"]])

    given = {"data_root": str(arguments.photographs.resolve()), "epochs": arguments.epochs, "device": arguments.device}
    grid = {"seed": list(range(arguments.seeds)), "precision": ["bf16-mixed", "32-true"]}
    table = swept(ROOT, kept, name="precision", stages=("base",), params="params/photographs.yml", set=given, grid=grid)
    print(f"photographs, {arguments.epochs} epochs, validation at the epoch kept:")
    print(table.to_string(index=False, float_format="{:.4f}".format), "\n", flush=True)
    bf16, full = (table[table.precision == name].val_accuracy.to_numpy() for name in ("bf16-mixed", "32-true"))
    difference, noise = abs(bf16.mean() - full.mean()), full.max() - full.min()
    promised = f"≤ {noise:.4f}, float32's range over seeds"
    return [("accuracy, bf16 against float32: difference of the means", difference, promised, difference <= noise)]


if __name__ == "__main__":
    sys.exit(main())
