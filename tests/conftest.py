"""A tiny dataset in CelebA's layout, made anew: coloured squares whose labels can be seen in them."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from fairnb.run.parameters import Recipe
from tests import told

NAMES = ["Bald", "Male", "Smiling", "Young", "Wearing_Hat"]
# Small enough to train in a second; its weights are a megabyte.
RECIPE = Recipe(
    backbone="shufflenet_v2_x0_5", weights="", hidden=8, resize=20, image_size=16, epochs=2, batch_size=32,
    learning_rate=3e-3, schedule="constant", dropout=0.5, precision="32-true",
)  # fmt: skip
LEARNS = RECIPE.but(backbone="resnet18")  # in a few steps, but its weights are 45 megabytes
# What a network needs of an exported folder's config.json.
CONFIG: dict[str, Any] = {
    "format": 1, "labels": ["a", "b"], "sensitive": ["g"], "groups": ["x", "y"], "bins": {}, "merge": {},
    "needs_group": True, "thresholds": {"x": [0.0, 0.5], "y": [0.1, 0.2]},
    "backbone": RECIPE.backbone, "arguments": {}, "classifier": "fc", "features": 1024, "hidden": 2,
    "stored": [32, 32], "scaled": [32, 32], "image_size": 32, "mean": [0.5] * 3, "std": [0.5] * 3,
}  # fmt: skip
SIZES = {"train": 96, "valid": 48, "test": 48}


def make_celeba(root: Path, layout: str = "folder", seed: int = 0, height: int = 44, width: int = 36) -> Path:
    """Write annotations and JPEGs in one of the layouts 'folder', 'zip' and 'kaggle'."""
    draw = torch.Generator().manual_seed(seed)
    count = sum(SIZES.values())
    chance = torch.tensor([0.3, 0.5, 0.5, 0.6, 0.25])
    values = torch.rand(count, len(NAMES), generator=draw) < chance
    partition = [code for code, n in enumerate(SIZES.values()) for _ in range(n)]
    files = [f"{i + 1:06d}.jpg" for i in range(count)]
    root.mkdir(parents=True, exist_ok=True)
    if layout == "kaggle":
        rows = [",".join([f, *("1" if v else "-1" for v in row)]) for f, row in zip(files, values, strict=True)]
        (root / "list_attr_celeba.csv").write_text("\n".join([",".join(["image_id", *NAMES]), *rows]) + "\n")
        split = [f"{f},{code}" for f, code in zip(files, partition, strict=True)]
        (root / "list_eval_partition.csv").write_text("\n".join(["image_id,partition", *split]) + "\n")
    else:
        rows = [" ".join([f, *("1" if v else "-1" for v in row)]) for f, row in zip(files, values, strict=True)]
        # the real file mixes line ends and leaves a space after the header
        (root / "list_attr_celeba.txt").write_text("\r\n".join([str(count), " ".join(NAMES) + " ", *rows]) + "\n")
        split = [f"{f} {code}" for f, code in zip(files, partition, strict=True)]
        (root / "list_eval_partition.txt").write_text("\n".join(split) + "\n")
    pictures = {}
    for file, row in zip(files, values, strict=True):
        image = torch.randint(0, 60, (height, width, 3), generator=draw, dtype=torch.uint8)
        for j, present in enumerate(row.tolist()):  # each attribute lights up a stripe of its own
            if present:
                image[j * height // 5 : (j + 1) * height // 5, :, j % 3] += 180
        jpeg = io.BytesIO()
        Image.fromarray(image.numpy()).save(jpeg, "JPEG", quality=95)
        pictures[file] = jpeg.getvalue()
    if layout == "zip":
        with zipfile.ZipFile(root / "img_align_celeba.zip", "w") as archive:
            for file, data in pictures.items():
                archive.writestr(f"img_align_celeba/{file}", data)
    else:
        folder = root / "img_align_celeba" / ("img_align_celeba" if layout == "kaggle" else "")
        folder.mkdir(parents=True)
        for file, data in pictures.items():
            (folder / file).write_bytes(data)
    return root


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--tables", type=Path, help="folder that receives faults.csv and fuzzed.csv: what tests tell")


def pytest_sessionfinish(session: pytest.Session) -> None:
    if folder := session.config.getoption("--tables"):
        told.write(folder)


def names_in(folder: Path) -> list[str]:
    """What a folder holds but locks, which stay: also what is hidden or half-written."""
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


@pytest.fixture(scope="session")
def celeba(tmp_path_factory) -> Path:
    """The dataset in the official folder's layout; not to be written to."""
    return make_celeba(tmp_path_factory.mktemp("celeba"))
