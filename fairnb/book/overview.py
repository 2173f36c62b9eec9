"""What a folder of images and annotations holds: counts in words, and a page of examples that needs no network."""

from __future__ import annotations

import base64
import io
from html import escape
from pathlib import Path

import pandas as pd
import torch
from PIL import Image
from torch import Tensor

from fairnb.book.tables import shown, standalone
from fairnb.data import SPLITS, Data, Faces
from fairnb.data.labelling import labelled
from fairnb.data.layouts import LAYOUTS, layout_of
from fairnb.run.files import write_beside
from fairnb.run.messages import some

SENSITIVE = ("Male", "gender", "sex", "race", "ethnicity")  # columns that are looked for where none is named
EXAMPLES = 8  # of each group
STYLE = "img { height: 110px; } figure { display: inline-block; margin: 0.2em; }"


def look(folder: Path, given: dict[str, object]) -> tuple[Data, Faces]:
    """Open a folder as what its files say it is, unless `given`, parameters of data, says more.

    Missing values do not stop it: they count as absent, which `Faces.told` says. Errors as of `open_dataset`.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder}")
    known = {"data": layout_of(folder) if "data" not in given else given["data"], "data_root": str(folder.resolve())}
    wanted = {"missing": "negative"} | given | known
    read = LAYOUTS[(data := Data(**wanted)).data].read(folder, data)
    if "sensitive" not in given:
        names = list(map(str, read.table.columns))
        lower = {name.lower(): name for name in reversed(names)}
        found = [lower[name.lower()] for name in SENSITIVE if name.lower() in lower]
        if not found:
            raise ValueError(
                f"which attribute splits people into groups? Say -p sensitive=…, one or several of {some(names, 12)}"
            )
        data = data.but(sensitive=found[0])
    return data, labelled(read, data).limited(data.max_images)


def counts(faces: Faces) -> pd.DataFrame:
    """Images of each group, in the groups' order, and split."""
    splits = {split: torch.bincount(faces.group[faces.rows(split)], minlength=len(faces.group_names)) for split in SPLITS}
    return pd.DataFrame({"group": faces.group_names} | {split: found.numpy() for split, found in splits.items()})


def labels(faces: Faces) -> pd.DataFrame:
    """Share of each label in each group of training, and the fewest positives of a group in validation and test."""
    shares = faces.prevalence("train").share.to_numpy().reshape(len(faces.label_names), len(faces.group_names))
    fewest = pd.DataFrame({"fewest positives": faces.fewest_positives().numpy()})
    groups = pd.DataFrame(shares, columns=list(faces.group_names))  # one may be called label
    return pd.concat([pd.DataFrame({"label": faces.label_names}), groups, fewest], axis=1)


def page(data: Data, faces: Faces) -> str:
    """The page: what was read and assumed, counts, and the first images of each group."""
    train = faces.rows("train")
    shows = []
    for code, name in enumerate(faces.group_names):
        rows = train[faces.group[train] == code][:EXAMPLES].tolist()
        shows.append(f"<h3>{escape(name)}</h3>" + "".join(_figure(faces, row) for row in rows))
    told = "".join(f"<li>{escape(line)}</li>" for line in faces.told)
    titled = {"Images": counts(faces), "Share of each label in training, and fewest positives to judge by": labels(faces)}
    tables = "".join(f"<h2>{title}</h2><div>{shown(table).to_html()}</div>" for title, table in titled.items())
    return standalone(
        f"<p>Read as <b>{data.data}</b>: {len(faces):,} images, {len(faces.label_names)} labels, groups by "
        f"{escape(faces.sensitive)}.</p><ul>{told}</ul>{tables}<h2>Examples</h2>{''.join(shows)}",
        Path(data.data_root).name, STYLE,
    )  # fmt: skip


def save_page(path: Path, data: Data, faces: Faces) -> None:
    """Write the page; ValueError if an image that it shows cannot be decoded."""
    text = page(data, faces)
    with write_beside(path) as beside:
        beside.write_text(text, encoding="utf-8")


def _figure(faces: Faces, row: int) -> str:
    names = [name for name, there in zip(faces.label_names, faces.labels[row].tolist(), strict=True) if there]
    words = escape(", ".join(names) or "no label", quote=True)
    return f'<figure><img src="data:image/jpeg;base64,{_jpeg(faces.images[row])}" alt="{words}" title="{words}"></figure>'


def _jpeg(image: Tensor) -> str:
    small = Image.fromarray(image.permute(1, 2, 0).numpy())
    small.thumbnail((220, 220))
    small.save(file := io.BytesIO(), "JPEG")
    return base64.b64encode(file.getvalue()).decode()
