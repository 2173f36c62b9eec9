"""The drawn faces and the book made of them, measured against what they promise.

    .venv/bin/python benchmarks/drawn.py [--real list_attr_celeba.txt] [--seeds 5]

Times the drawing of 10,000 portraits; compares 20,000 people with CelebA's statistics (with `--real`, their correlations and
the cells of Male and Young too, for `results/cells.csv`). Then clones the checkout into a temporary folder, so that nothing
trained earlier is found, runs `fairnb book` there, samples the memory of all its processes, and repeats the experiment with
other faces and another seed each time, for the spread. Prints tables and exits 1 where a promise is not kept.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd
import torch
from measuring import Claim, at_most, verdict
from phenomenon import every, phenomenon, swept
from photographs import book

from fairnb.data import decode_images, draw_faces
from fairnb.data.drawn.people import draw_people, read_statistics
from fairnb.data.drawn.portrait import ATTRIBUTES
from fairnb.data.layouts import read_attributes
from fairnb.run.files import save_table

ROOT = Path(__file__).parents[1]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--real", type=Path, help="CelebA's list_attr_celeba.txt, or its first rows")
    parser.add_argument("--seeds", type=int, default=5, help="how many times the experiment is run")
    arguments = parser.parse_args()
    claims, seeds = [drawing(), *people(arguments.real)], list(range(arguments.seeds))
    verdict(claims)  # a later failure loses nothing
    with book() as (clone, costs):
        verdict(costs)
        seen = swept(clone, name="seeds", zip={"seed": seeds, "drawn_seed": seeds})
    some, fewer = seen.higher_dynamic > 0, seen.higher < seen.higher_dynamic
    claims += [*costs, *phenomenon(seen)]
    claims.append(every("dynamic weighting: labels with a higher UEI", seen.higher_dynamic, "some", some))
    claims.append(every("multi-task: labels with a higher UEI", seen.higher, "fewer", fewer))
    print(f"\nexperiments, each with faces and a training of its own, on test:\n{seen.round(4).to_string(index=False)}")
    print(f"\nspread:\n{seen.drop(columns=['seed', 'drawn_seed']).agg(['mean', 'min', 'max']).round(4).T.to_string()}")
    return verdict(claims)


def drawing() -> Claim:
    """Seconds for 10,000 portraits at 64×64."""
    faces = draw_faces([8000, 1000, 1000])
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        decode_images(faces.images, 64, folder)
        return at_most("10,000 portraits at 64×64, seconds", time.perf_counter() - start, 20)


def people(real: Path | None) -> list[Claim]:
    """Shares, correlations and the best accuracy of 20,000 people; the worst of five populations for the shares."""
    table, most = read_statistics(), 0.0
    for seed in range(5):
        intensity, labels = draw_people(0, 20_000, seed, table)
        for group in (0, 1):
            share = labels[labels[:, table.male] == bool(group)].double().mean(dim=0)
            most = max(most, float((share - table.share_of_group[group]).abs().max()))
    best = ((intensity > 0) == labels).double().mean(dim=0)
    wanted = torch.maximum(table.published, torch.maximum(table.share, 1 - table.share) + 0.01)
    claims = [
        at_most("share of a label in a group, most off, five populations", most, 0.01),
        at_most("best accuracy, most off from what networks reach on CelebA", float((best - wanted).abs().max()), 0.03),
    ]
    if real:
        values = torch.tensor(read_attributes(real).drop(columns="image").astype(int).to_numpy() > 0)
        first, second = torch.triu_indices(len(table.names), len(table.names), 1)
        drawn, counted = (torch.corrcoef(each.double().T)[first, second] for each in (labels, values))
        claims.append(at_most("pairwise phi, mean absolute difference", float((drawn - counted).abs().mean()), 0.02))
        claims.append(at_most("share of a label in a cell of Male and Young, mean difference", cells(values, labels), 0.02))
    return claims


def cells(real: torch.Tensor, drawn: torch.Tensor) -> float:
    """Write `results/cells.csv`, the four cells of Male and Young; the mean difference of labels' shares."""
    male, young = ATTRIBUTES.index("Male"), ATTRIBUTES.index("Young")
    others, rows = [i for i in range(len(ATTRIBUTES)) if i not in (male, young)], []
    for sex, age in itertools.product((False, True), repeat=2):
        own = [each[(each[:, male] == sex) & (each[:, young] == age)] for each in (real, drawn)]
        off = (own[0][:, others].double().mean(0) - own[1][:, others].double().mean(0)).abs()
        shares = {
            name: len(part) / len(each) for name, part, each in zip(("real", "drawn"), own, (real, drawn), strict=True)
        }
        name = f"{('female', 'male')[sex]}, {('not Young', 'Young')[age]}"
        rows.append({"cell": name, **shares, "mean difference": float(off.mean()), "largest difference": float(off.max())})
    table = pd.DataFrame(rows)
    save_table(ROOT / "results" / "cells.csv", table.round(4))
    print(f"\n{table.round(4).to_string(index=False)}")
    return float(table["mean difference"].mean())


if __name__ == "__main__":
    sys.exit(main())
