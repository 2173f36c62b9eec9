"""Deal a new validation and test from the people of training: splits of people on whom nothing was tuned.

    .venv/bin/python benchmarks/resplit.py <folder in CelebA's layout> <new folder> [--seed 1]

The new folder has links to the images, and about as many images in each split as before; nobody is in two. The people of
the former validation and test are trained on.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd
import torch

from fairnb.run.files import write_beside
from fairnb.run.keys import seeded

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
    missing = split.index.difference(person.index)
    if len(missing):
        raise SystemExit(f"{folder / IDENTITY} has no person for {len(missing)} images, {missing[0]} among them")
    counts = split.value_counts()
    images = pd.crosstab(person, split.reindex(person.index))  # of each person, in each split
    most = images[[1, 2]].max(axis=None)
    own = images[0][(images[[1, 2]].sum(axis=1) == 0) & (images[0] <= most)]  # nobody has more of a split than anyone had
    order = torch.randperm(len(own), generator=seeded(arguments.seed, "split by people")).tolist()
    before = own.iloc[order].cumsum().sub(own.iloc[order])  # images of people dealt so far
    dealt = pd.Series(0, index=sorted(person.unique()))
    dealt[before.index[before < counts[1] + counts[2]]] = 2
    dealt[before.index[before < counts[1]]] = 1
    splits = person.map(dealt).reindex(split.index)
    if own.sum() < counts[1] + counts[2]:
        raise SystemExit(f"{folder}: people of training alone have {own.sum()} images, too few to deal others from")
    new.mkdir(parents=True)
    for path in folder.iterdir():
        if path.name != PARTITION:
            (new / path.name).symlink_to(path)
    rows = (f"{name} {code}\n" for name, code in splits.items())
    with write_beside(new / PARTITION) as path:
        path.write_text("".join(rows))
    print(splits.value_counts().sort_index().to_dict())


if __name__ == "__main__":
    main()
