"""The drawn faces and the book made of them, measured against what they promise.

    .venv/bin/python benchmarks/drawn.py [--real list_attr_celeba.txt] [--seeds 5]

Times the drawing of 10,000 portraits; compares 20,000 people with CelebA's statistics (with `--real`, their correlations
too). Then clones the checkout into a temporary folder, so that nothing trained earlier is found, runs `fairnb book` there,
samples the memory of all its processes, and repeats the experiment with other faces and another seed each time, for the
spread. Prints tables and exits 1 where a promise is not kept.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd
import torch
from photographs import ROOT, run_book

from fairnb.book.tables import summary
from fairnb.data import decode_images, draw_faces
from fairnb.data.celeba import read_attributes
from fairnb.data.drawn.people import draw_people, read_statistics
from fairnb.experiment import Experiment

Claim = tuple[str, object, str, bool]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--real", type=Path, help="CelebA's list_attr_celeba.txt, or its first rows")
    parser.add_argument("--seeds", type=int, default=5, help="how many times the experiment is run")
    arguments = parser.parse_args()
    claims = drawing() + people(arguments.real)
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "fairnb"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        seconds, gigabytes = run_book(clone, [])
        claims.append(("whole book, minutes", seconds / 60, "≤ 15", seconds <= 15 * 60))
        claims.append(("memory of all processes, GB", gigabytes, "≤ 4", gigabytes <= 4))
        print(claims, flush=True)
        rows = []
        for seed in range(arguments.seeds):
            rows.append(experiment(seed, clone / "runs"))
            print(rows[-1], flush=True)  # a later failure loses nothing
        seen = pd.DataFrame(rows)
    claims += phenomenon(seen)
    table = pd.DataFrame(claims, columns=["what", "seen", "promised", "kept"])
    print(table.to_string(index=False, float_format="{:.4g}".format))
    print(f"\nexperiments, each with faces and a training of its own, on test:\n{seen.round(4).to_string(index=False)}")
    print(f"\nspread:\n{seen.drop(columns='seed').agg(['mean', 'min', 'max']).round(4).T.to_string()}")
    return int(not all(kept for *_, kept in claims))


def drawing() -> list[Claim]:
    """Seconds for 10,000 portraits at 64×64."""
    faces = draw_faces([8000, 1000, 1000])
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        decode_images(faces.images, 64, folder)
        seconds = time.perf_counter() - start
    return [("10,000 portraits at 64×64, seconds", seconds, "≤ 20", seconds <= 20)]


def people(real: Path | None) -> list[Claim]:
    """Shares, correlations and the best accuracy of 20,000 people; the worst of five populations for the shares."""
    table = read_statistics()
    most = 0.0
    for seed in range(5):
        intensity, labels = draw_people(0, 20_000, seed, table)
        for group in (0, 1):
            share = labels[labels[:, table.male] == bool(group)].double().mean(dim=0)
            most = max(most, float((share - table.share_of_group[group]).abs().max()))
    claims: list[Claim] = [("share of a label in a group, most off, five populations", most, "≤ 0.01", most <= 0.01)]
    best = ((intensity > 0) == labels).double().mean(dim=0)
    wanted = torch.maximum(table.published, torch.maximum(table.share, 1 - table.share) + 0.01)
    off = float((best - wanted).abs().max())
    claims.append(("best accuracy, most off from what networks reach on CelebA", off, "≤ 0.03", off <= 0.03))
    if real:
        values = torch.tensor(read_attributes(real)[2])
        first, second = torch.triu_indices(len(table.names), len(table.names), 1)
        drawn, counted = (torch.corrcoef(each.double().T)[first, second] for each in (labels, values))
        apart = float((drawn - counted).abs().mean())
        claims.append(("pairwise phi, mean absolute difference", apart, "≤ 0.02", apart <= 0.02))
    return claims


def experiment(seed: int, runs: Path) -> dict[str, float]:
    """The demo's experiment with other faces and another training; seed 0 is loaded from the book's own run."""
    run = Experiment.open(f"seed-{seed}" if seed else "demo", runs=runs, seed=seed, drawn_seed=seed)
    run.search("dynamic weighting")
    run.search("multi-task")
    labels, groups = run.labels(), run.groups()
    means = summary(labels).set_index("method")
    analysed = set(labels.label[labels.analysed])
    base = groups[(groups.method == "base") & (groups.split == "test") & groups.label.isin(analysed)]
    return {
        "seed": seed,
        "labels": len(analysed),
        "accuracy": means.accuracy["base"],
        "underestimated": int((base.groupby("label").us.min() < 0.8).sum()),
        "uei_base": means.uei["base"],
        "uei_dynamic": means.uei["dynamic weighting"],
        "uei_multi": means.uei["multi-task"],
        "loss_dynamic": means.accuracy_loss["dynamic weighting"],
        "loss_multi": means.accuracy_loss["multi-task"],
        "higher_dynamic": int(means.higher["dynamic weighting"]),
        "higher_multi": int(means.higher["multi-task"]),
    }


def phenomenon(seen: pd.DataFrame) -> list[Claim]:
    """What the book promises of its drawn faces, in every experiment."""

    def each(what: str, values: pd.Series, promised: str, kept: pd.Series) -> Claim:
        return what, f"{values.mean():.3f} ({values.min():.3f} to {values.max():.3f})", promised, bool(kept.all())

    low = seen.underestimated / seen.labels
    half = seen.uei_multi / seen.uei_base
    lower = seen.uei_dynamic / seen.uei_base
    return [
        each("base: share of labels with a US below 0.8", low, "≥ 1/3", low >= 1 / 3),
        each("dynamic weighting: mean UEI, share of the base's", lower, "< 1", lower < 1),
        each("dynamic weighting: labels with a higher UEI", seen.higher_dynamic, "some", seen.higher_dynamic > 0),
        each("multi-task: mean UEI, share of the base's", half, "≤ 0.5", half <= 0.5),
        each("multi-task: accuracy loss", seen.loss_multi, "≤ 0.05", seen.loss_multi <= 0.05),
        each("multi-task: labels with a higher UEI", seen.higher_multi, "fewer", seen.higher_multi < seen.higher_dynamic),
    ]


if __name__ == "__main__":
    sys.exit(main())
