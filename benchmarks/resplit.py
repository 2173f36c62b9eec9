"""Deal a dataset's people anew to training, validation and test: a split on which nothing was tuned.

    .venv/bin/python benchmarks/resplit.py <folder in CelebA's layout> <new folder> [--seed 1]

The new folder has links to the images, and as many images in each split as before, give or take a person; nobody is in two.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd
import torch

from fairnb.files import seeded, write_beside

PARTITION, IDENTITY = "list_eval_partition.txt", "identity_CelebA.txt"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    folder, new = arguments.folder.resolve(), arguments.new
    split, person = (
        pd.read_csv(folder / name, sep=" ", names=["image", "code"], index_col="image").code
        for name in (PARTITION, IDENTITY)
    )
    counts = split.value_counts()
    images = person.reindex(split.index).value_counts().sort_index()
    order = torch.randperm(len(images), generator=seeded(arguments.seed, "split by people")).tolist()
    before = images.iloc[order].cumsum().sub(images.iloc[order])  # images of people dealt so far
    dealt = (before >= counts[0]).astype(int) + (before >= counts[0] + counts[1]).astype(int)
    new.mkdir(parents=True)
    for path in folder.iterdir():
        if path.name != PARTITION:
            (new / path.name).symlink_to(path)
    rows = (f"{name} {dealt[person[name]]}\n" for name in split.index)
    with write_beside(new / PARTITION) as path:
        path.write_text("".join(rows))
    print(person.map(dealt).reindex(split.index).value_counts().sort_index().to_dict())


if __name__ == "__main__":
    main()
