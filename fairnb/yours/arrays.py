"""Arrays, tensors and data frames of a classifier that is not ours, read and checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from fairnb.data.labelling import Attributes
from fairnb.data.table import Column
from fairnb.run.messages import some
from fairnb.run.parameters import Data

Kind = Literal["binary", "probabilities", "logits"]
CUTS = {"binary": 0.5, "probabilities": 0.5, "logits": 0.0}  # a score above predicts the label, unless a threshold is given


def matrix(values: Any, what: str) -> tuple[Tensor, list[str]]:
    """Numbers of an array, tensor or data frame as a tensor [N, K], and its columns' names, none if it has no names.

    ValueError without rows, and with their count and the first place for values that are missing or no finite numbers.
    """
    names = list(map(str, values.columns)) if hasattr(values, "columns") else []
    if isinstance(values, Tensor):
        numbers = values.detach().cpu()
        numbers = numbers.float() if numbers.is_floating_point() and numbers.dtype != torch.float64 else numbers
    else:
        array = np.asarray(values)
        if array.dtype.kind not in "biuf":
            flat = pd.to_numeric(pd.Series(array.ravel(), dtype=object), errors="coerce")
            array = flat.to_numpy(dtype=float, na_value=np.nan).reshape(array.shape)
        array = array.astype(np.int64) if array.dtype.kind == "u" else array  # torch counts in few unsigned types
        numbers = torch.tensor(np.ascontiguousarray(array))
    if numbers.dim() == 1:
        numbers = numbers.unsqueeze(1)
        names = names or [str(name) for name in (getattr(values, "name", None),) if name]
    if numbers.dim() != 2:
        raise ValueError(f"{what} has the shape {tuple(numbers.shape)}: rows are images, columns labels")
    if not len(numbers):
        raise ValueError(f"{what} is empty")
    if numbers.is_floating_point() and bool((gaps := ~numbers.isfinite()).any()):
        row, column = gaps.nonzero()[0].tolist()
        place = f"column {names[column]}" if names else f"column {column}"
        raise ValueError(
            f"{what} holds {int(gaps.sum()):,} values that are missing or no finite numbers, first in row {row}, {place}"
        )
    return numbers, names


def truths(values: Any) -> tuple[Tensor, list[str]]:
    """True labels, bool [N, L], of 0 and 1 or −1 and 1, and their names; another value raises ValueError."""
    numbers, names = matrix(values, "truth")
    one = numbers == 1
    if not any(bool((one | (numbers == no)).all()) for no in (0, -1)):
        found = some(f"{value:g}" for value in numbers.unique().tolist())
        raise ValueError(f"truth holds {found}: it must be 0 and 1, or -1 and 1")
    return numbers > 0, names


def scores(values: Any, kind: Kind | None, told: list[str]) -> tuple[Tensor, list[str], Kind]:
    """Scores [N, L] as given, the columns' names, and their kind, found out if it is None.

    What was assumed is added to `told`. Probabilities outside 0..1, or binary predictions other than 0 and 1, raise
    ValueError.
    """
    numbers, names = matrix(values, "prediction")
    inside = numbers.dtype == torch.bool or bool(((numbers >= 0) & (numbers <= 1)).all())
    binary = numbers.dtype == torch.bool or (inside and bool(((numbers == 0) | (numbers == 1)).all()))
    if kind is None and not binary:
        told.append(
            "scores all lie in 0..1 and are read as probabilities: above 0.5 predicts a label (or say kind='logits')"
            if inside
            else "scores are read as logits: above 0 predicts a label"
        )
    kind = kind or ("binary" if binary else "probabilities" if inside else "logits")
    if kind not in CUTS:
        raise ValueError(f"kind={kind!r} must be one of {', '.join(CUTS)}")
    if (kind == "probabilities" and not inside) or (kind == "binary" and not binary):
        outside = (numbers < 0) | (numbers > 1) if kind == "probabilities" else (numbers != 0) & (numbers != 1)
        low, high = (float(end) for end in numbers.aminmax())
        wanted = "in 0..1" if kind == "probabilities" else "0 or 1"
        raise ValueError(
            f"prediction holds {int(outside.sum()):,} values that are not {wanted}, as kind={kind!r} says; they go from "
            f"{low:g} to {high:g}: say kind='logits' for logits"
        )
    return numbers, names, kind


def plain(values: Any) -> np.ndarray:
    """An array of whatever holds values, also a tensor on another device."""
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)


def same_rows(of: str, /, **parts: Any) -> None:
    """Raise ValueError, with the sizes of all, unless these have as many rows; None is skipped."""
    sizes = {name: tuple(part.shape) for name, part in parts.items() if part is not None}
    if len({shape[0] for shape in sizes.values()}) > 1:
        shown = ", ".join(f"{name} {' × '.join(f'{size:,}' for size in shape)}" for name, shape in sizes.items())
        raise ValueError(f"these are of different {of} (rows × columns): {shown}")


def matched(
    true: Tensor, numbers: Tensor, given: Sequence[str] | None, columns: tuple[Sequence[str], Sequence[str]]
) -> tuple[list[str], Tensor]:
    """Names of the L labels, and the scores [N, L] in their order.

    Names that are given are of the columns in their order. Otherwise those of the truth's and the scores' own columns count,
    and bring the scores into the truth's order. Numbers or names that differ raise ValueError.
    """
    first, second = columns if given is None else ([], [])
    names = list(
        map(str, list([] if given is None else given) or first or second or (f"label {i}" for i in range(true.shape[1])))
    )
    if not true.shape[1] == numbers.shape[1] == len(names):
        raise ValueError(
            f"truth has {true.shape[1]} labels, prediction {numbers.shape[1]}, and there are {len(names)} names"
        )
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"two labels are named {twice[0]!r}")
    if first and second:
        if odd := sorted(set(first) ^ set(second)):
            raise ValueError(f"the columns of truth and prediction differ in {some(odd)}: name them alike, or give names=…")
        numbers = numbers[:, [second.index(name) for name in names]]
    return names, numbers


def cut(numbers: Tensor, kind: Kind, threshold: Any, names: Sequence[str]) -> Tensor:
    """Predictions bool [N, L]: scores above the threshold, one for all, one per label, or by the labels' names."""
    if threshold is None:
        threshold = CUTS[kind]
    threshold = threshold.to_dict() if isinstance(threshold, pd.Series) else threshold
    if isinstance(threshold, Mapping):
        if odd := set(threshold) ^ set(names):
            raise ValueError(f"threshold must name every label once, and differs in {some(sorted(map(str, odd)))}")
        threshold = [threshold[name] for name in names]
    limits = torch.as_tensor(threshold, dtype=torch.float64)
    if limits.dim() > 1 or limits.numel() not in (1, len(names)):
        raise ValueError(f"threshold has {limits.numel()} values for {len(names)} labels: give one, or one per label")
    return numbers > (limits if numbers.dtype == torch.float64 else limits.to(torch.float32))


def attributes(
    group: Any, bins: Mapping[str, Sequence[float]] | None = None, *, products: bool = False, every: bool = False
) -> dict[str, Column]:
    """The groups by each sensitive attribute, and by the product of all; a column is an attribute, an array is called group.

    1 and 0, or yes and no, make the groups `not Young` and `Young`; words are groups by themselves; numbers need `bins`, the
    numbers where groups begin. Groups that nobody is in are left out, and an attribute with one value raises ValueError,
    unless `every` group is wanted.
    """
    if hasattr(group, "columns") or isinstance(group, Mapping):
        names = list(group.columns if hasattr(group, "columns") else group)
        table = pd.DataFrame({str(name): np.asarray(group[name]) for name in names})
    else:
        values = plain(group)
        if values.ndim != 1:
            raise ValueError(
                f"group has the shape {values.shape}: give one value per image, or a data frame of named columns"
            )
        name = str(getattr(group, "name", None) or "group")
        if name == "group" and values.dtype.kind in "biu":
            values = np.array([f"group {int(value)}" for value in values])
        table = pd.DataFrame({name: values})
    data = Data(sensitive=tuple(table.columns), bins=dict(bins or {}))
    wanted = [(name,) for name in table.columns] + ([tuple(table.columns)] if products and len(table.columns) > 1 else [])
    found = {}
    for several in wanted:
        column = Attributes(table, data.but(sensitive=several), "group").groups()
        if every:
            found[" and ".join(several)] = column
            continue
        present = np.unique(column.codes[column.codes >= 0]).tolist()
        place = np.full(len(column.words) + 1, -1)  # missing stays missing
        place[present] = range(len(present))
        if len(present) < 2:
            only = column.words[present[0]] if present else "nothing"
            raise ValueError(f"{' and '.join(several)} holds one value, {only!r}: groups are compared, so two are needed")
        found[" and ".join(several)] = Column("", place[column.codes], [column.words[i] for i in present])
    return found


def numbered(person: Any) -> Tensor | None:
    """People as numbers, int64 [N]; None stays None."""
    if person is None:
        return None
    codes = pd.factorize(plain(person))[0]
    if gaps := int((codes < 0).sum()):
        raise ValueError(f"person is missing for {gaps:,} images, first in row {int((codes < 0).argmax())}")
    return torch.from_numpy(codes.astype(np.int64))
