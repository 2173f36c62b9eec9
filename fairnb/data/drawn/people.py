"""Sampled people: intensities and labels with the statistics of CelebA's annotations, and noise where annotators disagree.

A person in group g has two standard normal latents per attribute, linked by the attribute's clarity ρ:

    picture     v                              correlated between attributes, by one matrix per group
    annotators  z = ρ v + √(1 − ρ²) e          their judgement of the picture; e is independent noise
    label       y = [z > t]                    with t such that P[y = 1] is the label's share in CelebA's group
    intensity   x = v − t / ρ                  drawn in the portrait

So the labels follow a Gaussian copula given the group, seen through noise. P[y = 1 | x] = Φ(x ρ / √(1 − ρ²)) is the same in
both groups: the best classifier predicts the label where x > 0 and does not need the group. If ρ < 1 and the label is rare,
it predicts the label too seldom, US = Φ(−t / ρ) / Φ(−t) < 1, the more so the rarer the label. Nothing else moves US from 1.
(`Male` itself is drawn first, in the same way. The other labels depend on it, so they help to predict it.)
"""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from fairnb.run.files import write_beside
from fairnb.run.messages import some

CELEBA = Path(__file__).with_name("celeba_statistics.csv")
GROUPS = ("without Male", "with Male")
COLUMNS = ("attribute", "published", "clarity", "share", *(f"share {group}" for group in GROUPS))
NEVER = 8.0  # standard deviations from the boundary where an attribute is always or never there
ABOUT = """\
# Statistics of the first 20,000 rows of CelebA's list_attr_celeba.txt (Liu, Luo, Wang and Tang, ICCV 2015), fitted by
# scripts/fit_celeba_statistics.py. published: accuracy of MCNN-AUX (Hand and Chellappa, AAAI 2017). clarity: correlation of
# picture and annotators. share: of the images with the label. The others: correlations of what pictures show, by group.
"""


@dataclass(frozen=True, eq=False)
class Statistics:
    """The distribution of people: A attributes, `Male` among them, in the two groups without and with it; all float64."""

    names: tuple[str, ...]  # of the A attributes
    published: Tensor  # [A] in 0..1, accuracy of a published network, from which the clarity was set
    clarity: Tensor  # [A] in (0, 1], correlation ρ of picture and annotators
    share: Tensor  # [A] in 0..1, share of people with each label
    share_of_group: Tensor  # [2, A], the same in each group; 0 and 1 for `Male` itself
    correlation: Tensor  # [2, A, A], of the picture's latents in each group

    @property
    def male(self) -> int:
        """Column of `Male`."""
        return self.names.index("Male")

    def save(self, path: Path) -> None:
        """Write the table as CSV, to four digits."""
        columns = [self.published, self.clarity, self.share, *self.share_of_group, *self.correlation.flatten(0, 1)]
        values = pd.DataFrame(torch.stack(columns, dim=1).numpy(), columns=_columns(self.names)[1:])
        with write_beside(path) as beside, beside.open("w", encoding="utf-8") as file:
            file.write(ABOUT)
            values.set_index(pd.Index(self.names, name="attribute")).to_csv(file, float_format="%.4f")


def read_statistics(path: str | Path = CELEBA) -> Statistics:
    """Read a table written by `Statistics.save`; FileNotFoundError if it is missing, ValueError if it is invalid."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"no table of statistics {path}")
    try:
        table = pd.read_csv(path, comment="#", index_col="attribute")
    except ValueError as error:  # pandas' parser errors are ValueErrors
        raise ValueError(f"{path} is no table of statistics: {error}") from None
    names, wanted = tuple(table.index), _columns(tuple(table.index))[1:]
    if missing := [column for column in wanted if column not in table]:
        raise ValueError(f"{path}: {len(missing):,} columns are missing: {some(missing)}")
    if "Male" not in names:
        raise ValueError(f"{path} has no attribute 'Male', by which the shares are grouped")
    values = table[wanted].apply(pd.to_numeric, errors="coerce").replace([float("inf"), -float("inf")], float("nan"))
    if (gaps := values.isna().any(axis=1)).any():
        raise ValueError(f"{path}: values are missing or no numbers for {some(values.index[gaps])}")
    columns = torch.tensor(values.to_numpy(), dtype=torch.float64).T
    shares, correlation = columns[:5], columns[5:].reshape(2, len(names), len(names))
    male = names.index("Male")
    if not bool(((shares >= 0) & (shares <= 1)).all()) or not bool((columns[1] > 0).all()):
        raise ValueError(f"{path}: published accuracy and shares lie within 0 to 1, clarity above 0 and up to 1")
    for group, matrix in zip(GROUPS, correlation, strict=True):
        if (matrix.diagonal() != 1).any() or not torch.equal(matrix, matrix.T) or torch.linalg.eigvalsh(matrix)[0] <= 0:
            raise ValueError(f"{path}: the columns {group!r} are no correlation matrix")
        if matrix[male].abs().sum() != 1:
            raise ValueError(f"{path}: Male is constant within a group, so its correlations there must be 0")
    if shares[3:5, male].tolist() != [0, 1]:
        raise ValueError(f"{path}: the shares of Male in the two groups are 0 and 1 by definition")
    return Statistics(names, columns[0], columns[1], columns[2], columns[3:5], correlation)


def check_seed(seed: int) -> None:
    """Raise ValueError unless the seed is a whole number from 0 to 2⁶³ − 1, as generators need."""
    if not isinstance(seed, Integral) or isinstance(seed, bool) or not 0 <= seed < 2**63:
        raise ValueError(f"the seed of the drawn faces must be a whole number from 0 to 2⁶³ − 1: got {seed!r}")


def _columns(names: tuple[str, ...]) -> list[str]:
    return [*COLUMNS, *(f"{name} {group}" for group in GROUPS for name in names)]


def draw_people(first: int, count: int, seed: int, statistics: Statistics) -> tuple[Tensor, Tensor]:
    """Sample people `first` to `first + count` (from 0) of an endless population; a person does not depend on `count`.

    The latents are points of a scrambled Sobol sequence, which fills the space more evenly than independent draws: among
    20,000 people, each label's share in each group matches CelebA's to within a percent. Returns intensities, float32
    [count, A], in standard deviations from the boundary of the best classifier, and labels, bool [count, A].
    """
    if count < 1:
        raise ValueError(f"people={count} must be at least 1")
    check_seed(seed)
    clarity, male, size = statistics.clarity, statistics.male, len(statistics.names)
    sequence = torch.quasirandom.SobolEngine(2 * size, scramble=True, seed=seed).fast_forward(first)
    latents = torch.special.ndtri(sequence.draw(count, dtype=torch.float64).clamp(1e-9, 1 - 1e-9))
    picture, noise = latents.split(size, dim=1)
    noise = (1 - clarity**2).sqrt() * noise
    threshold = -torch.special.ndtri(statistics.share)[male]
    is_male = clarity[male] * picture[:, male] + noise[:, male] > threshold
    roots = torch.linalg.cholesky(statistics.correlation)
    tied = torch.zeros_like(picture)
    for column in range(size):  # not a matrix product, whose last bit may depend on the number of people
        tied = tied + picture[:, column, None] * roots[is_male.long(), :, column]
    thresholds = -torch.special.ndtri(statistics.share_of_group)[is_male.long()]
    thresholds[:, male] = threshold
    labels = clarity * tied + noise > thresholds
    return (tied - thresholds / clarity).clamp(-NEVER, NEVER).float(), labels
