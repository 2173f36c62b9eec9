"""The model card of an exported model, in the hub's format: its text is `card.md`, a template of Jinja.

Mitchell et al., "Model cards for model reporting", FAT* 2019.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from fairnb.book.tables import summary, with_range
from fairnb.methods import group_use

TEMPLATE = Path(__file__).with_name("card.md")
MEANS = {"accuracy": "mean accuracy over labels", "uei": "mean underestimation index over labels, 0 is ideal"}


@dataclass(frozen=True)
class Stated:
    """What only the author of a model can say."""

    license: str = ""  # as the hub names it, such as mit
    labelled_by: str = ""  # who labelled the images, in words


def card(config: Mapping[str, Any], labels: pd.DataFrame, groups: pd.DataFrame, tried: pd.DataFrame, stated: Stated) -> str:
    """README.md with its block of metadata.

    `config` is the content of config.json, `labels` and `groups` are the tables of an `Assessment` of the analysed labels on
    test, and `tried` is the run's labels.csv.
    """
    from huggingface_hub import EvalResult, ModelCard, ModelCardData  # of the extra `export`

    data, kept = config["dataset"], set(config["analysed"])
    about = {"dataset_type": data["layout"], "dataset_name": data["name"], "dataset_split": "test"}
    results = [
        EvalResult(
            "image-classification",
            metric_type=name,
            metric_name=title,
            metric_value=round(float(labels[name].mean()), 6),
            **about,
        )
        for name, title in MEANS.items()
    ]
    drawn = data["layout"] == "drawn"
    metadata = ModelCardData(
        license=stated.license or None, library_name="fairnb", pipeline_tag="image-classification", metrics=list(MEANS),
        tags=["multi-label", "fairness", "underestimation-bias", "torchvision", "onnx", *(["drawn-faces"] if drawn else [])],
        model_name=f"{config['backbone']}, {config['method']}", eval_results=results,
    )  # fmt: skip
    return str(ModelCard.from_template(
        metadata, template_str=TEMPLATE.read_text(encoding="utf-8"), config=config, stated=stated, drawn=drawn, text=text,
        group=group_use(config["method"]), others=[text(name) for name in config["labels"] if name not in kept],
        by_label=_of_labels(labels), by_group=_of_groups(groups), tried=_of_methods(tried, config["method"]),
        pixel={"uint8": "uint8", "float": "float32"}[config["input"]],
        of_group=f"[{config['groups'][0]!r}]" if config["needs_group"] else "",
    ))  # fmt: skip


def text(words: object) -> str:
    """Data as Markdown shows it, in a table too: on one line, without any mark-up of its own."""
    marked = re.sub(r"[\\`*\[\]<>|~$#&]|(?<![^\W_])_|_(?![^\W_])", r"\\\g<0>", str(words))
    return " ".join(marked.split())


def table(header: Sequence[str], rows: Iterable[Sequence[object]], *, words: int = 1) -> str:
    """A table in Markdown, its first columns of words, the others of numbers."""
    lines = [[text(cell) for cell in row] for row in (header, *rows)]
    lines.insert(1, [":--"] * words + ["--:"] * (len(header) - words))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _of_labels(labels: pd.DataFrame) -> str:
    measures = (with_range(labels, name) for name in ("uei", "accuracy", "tpr_gap", "fpr_gap"))
    rows = zip(labels.label, *measures, labels.uei_chance.map("{:.3f}".format), strict=True)
    return table(["label", "UEI", "accuracy", "gap of TPR", "gap of FPR", "UEI by chance"], rows)


def _of_groups(groups: pd.DataFrame) -> str:
    counts = (groups[name].map("{:,}".format) for name in ("n", "positives", "predicted_positives"))
    rows = zip(
        groups.label, groups.group, *counts, *(with_range(groups, name) for name in ("us", "tpr", "fpr")), strict=True
    )
    return table(["label", "group", "images", "positives", "predicted", "US", "TPR", "FPR"], rows, words=2)


def _of_methods(tried: pd.DataFrame, taken: str) -> str:
    """The models of the run, that which is exported among them; empty if there is no other."""
    rows = summary(tried)
    names = [f"{name} (this model)" if name == taken else name for name in rows.method]
    means = (rows[name].map("{:.3f}".format) for name in ("uei", "accuracy"))
    higher = rows.higher.map(str) + " of " + rows.labels.map(str)
    lines = zip(names, rows.method.map(group_use), *means, higher, strict=True)
    return table(["model", "use of the group", "UEI", "accuracy", "higher UEI"], lines, words=2) if len(rows) > 1 else ""
