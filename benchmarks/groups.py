"""What many groups and large tables cost: group thresholds for seven groups, and reading CelebA's 202,599 rows.

    .venv/bin/python benchmarks/groups.py

Thresholds of one label are searched on as many rows as CelebA's validation has, for two to fourteen groups, in a process of
its own for each, whose memory is printed. A folder with CelebA's rows and empty images is read by fairnb and, in turns, by
a plain loop over its lines that checks next to nothing. CPU seconds of one thread. Exits 1 where a claim falls short.
"""

from __future__ import annotations

import random
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

import pandas as pd
from measuring import at_most, verdict

ROWS = 202_599
THRESHOLDS = """
import resource, sys, time, torch
from fairnb.features import Features
from fairnb.methods import Problem
from fairnb.methods.thresholds import group_thresholds
torch.set_num_threads(1)
groups, rows, draw = int(sys.argv[1]), 19_867, torch.Generator().manual_seed(0)
x, group = torch.rand(rows, 256, generator=draw), torch.randint(groups, (rows,), generator=draw)
head = torch.randn(1, 257, generator=draw)
raw = x @ head[0, :-1]
head[0, -1] = -raw.mean() - 2 * raw.std()
truth = raw + 1.5 * raw.std() * torch.randn(rows, generator=draw) > raw.mean() + 1.5 * raw.std()
problem, start = Problem(Features(x, truth.unsqueeze(1), group, groups), head), time.process_time()
group_thresholds(problem)
print(time.process_time() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6)
"""
OURS = """
import sys, time
from fairnb.data import read_celeba
start = time.process_time()
assert len(read_celeba(sys.argv[1])) == 202_599
print(time.process_time() - start)
"""
PLAIN = """
import sys, time, torch
from pathlib import Path
start, root, values = time.process_time(), Path(sys.argv[1]), {"1": True, "-1": False}
def words(name):
    return [line.split() for line in (root / name).read_text().splitlines()]
rows = words("list_attr_celeba.txt")[2:]
table, names = torch.tensor([[values[word] for word in row[1:]] for row in rows]), [row[0] for row in rows]
for name in ("list_eval_partition.txt", "identity_CelebA.txt"):
    pairs = {row[0]: int(row[1]) for row in words(name)}
    torch.tensor([pairs[name] for name in names])
there = {path.name for path in (root / "img_align_celeba").iterdir()}
assert there.issuperset(names)
print(time.process_time() - start)
"""


def main() -> int:
    rows = [
        {"groups": groups} | dict(zip(("seconds", "GB"), measured(THRESHOLDS, groups), strict=True))
        for groups in (2, 4, 7, 14)
    ]
    table = pd.DataFrame(rows).set_index("groups")
    print(f"group thresholds of one label on 19,867 rows\n{table.round(2)}\n")
    with tempfile.TemporaryDirectory() as folder:
        write_celeba(Path(folder))
        turns = [(measured(OURS, folder)[0], measured(PLAIN, folder)[0]) for _ in range(3)]
    ours, alone = (median(side) for side in zip(*turns, strict=True))
    print(f"reading {ROWS:,} rows: fairnb {ours:.1f} s, a plain loop {alone:.1f} s (medians of three)\n")
    return verdict([
        at_most("group thresholds of seven groups, seconds", table.seconds[7], 1),
        at_most("group thresholds of seven groups, GB", table.GB[7], 1),
        at_most("reading and checking CelebA's rows, times a plain loop", ours / alone, 1),
    ])  # fmt: skip


def measured(code: str, *words: object) -> list[float]:
    """The numbers that a program prints."""
    done = subprocess.run([sys.executable, "-c", code, *map(str, words)], capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr[-3000:])
    return list(map(float, done.stdout.split()))


def write_celeba(root: Path) -> None:
    """CelebA's three tables, of made-up values, and empty files for images."""
    draw = random.Random(0)
    names = [f"{i + 1:06d}.jpg" for i in range(ROWS)]
    some = [" ".join(f"{draw.choice((-1, 1)):>2}" for _ in range(40)) for _ in range(5000)]
    header = " ".join(["Male", *(f"Attribute_{i}" for i in range(39))])
    lines = [str(ROWS), header, *(f"{name} {some[i % len(some)]}" for i, name in enumerate(names))]
    (root / "list_attr_celeba.txt").write_text("\n".join(lines) + "\n")
    splits = (f"{name} {0 if i < 162_770 else 1 if i < 182_637 else 2}" for i, name in enumerate(names))
    (root / "list_eval_partition.txt").write_text("\n".join(splits) + "\n")
    (root / "identity_CelebA.txt").write_text("\n".join(f"{name} {i % 10_177 + 1}" for i, name in enumerate(names)) + "\n")
    (root / "img_align_celeba").mkdir()
    for name in names:
        (root / "img_align_celeba" / name).touch()


if __name__ == "__main__":
    sys.exit(main())
