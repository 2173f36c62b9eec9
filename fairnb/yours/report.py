"""An assessment as HTML: a page that needs no network, and what a notebook shows."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from fairnb.book.tables import shown, standalone, with_range
from fairnb.metrics import MEASURES, OF_GROUPS, Measure
from fairnb.run.files import write_beside
from fairnb.yours.assessment import Assessment

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WORST = 10  # labels that a notebook shows
NOTE = (
    "Brackets hold 95 % intervals over resampled people, or images where people are not known. Each is a single number's: "
    "of twenty about one misses by chance alone. US is the number of predictions over the number of positives: 1 is ideal, "
    "below 1 underestimates. UEI is 0 where both numbers agree in each group. A low UEI does not make a classifier fair: it "
    "does not see who is predicted."
)


def save(path: Path, found: Assessment, title: str) -> None:
    """Write the page."""
    with write_beside(path) as beside:
        beside.write_text(page(found, title), encoding="utf-8")


def page(found: Assessment, title: str) -> str:
    """Verdicts, figures and tables of each attribute, in one file."""
    told = "".join(f"<li>{escape(line)}</li>" for line in found.told)
    parts = [_html(of_means(found.means)), f"<ul>{told}</ul><p>{NOTE}</p>"]
    for attribute in found.attributes:
        labels, groups = found.of("labels", attribute), found.of("groups", attribute)
        parts += [
            f"<h2>By {escape(attribute)}</h2>", _html(worst(labels)),
            _png(found.plot_scores, attribute, "US by label and group"), _png(found.plot_index, attribute, "UEI by label"),
            "<h3>Labels</h3>", _html(ranged(labels, MEASURES, ["label", "uei_chance", "average_precision"])),
            "<h3>Groups</h3>", _html(ranged(groups, OF_GROUPS, ["label", "group", "n", "positives", "predicted_positives"])),
        ]  # fmt: skip
    return standalone("".join(parts), title, "img { max-width: 100%; }")


def brief(found: Assessment) -> str:
    """The means, and each attribute's labels of highest UEI."""
    tables = [_html(worst(found.of("labels", attribute)).head(WORST)) for attribute in found.attributes]
    heads = [f"<p>By {escape(attribute)}, highest UEI first:</p>" for attribute in found.attributes]
    return "".join([_html(of_means(found.means)), *(part for pair in zip(heads, tables, strict=True) for part in pair)])


def of_means(means: pd.DataFrame) -> pd.DataFrame:
    """Means over the labels for readers, a row an attribute."""
    return ranged(means, MEASURES, ["attribute", "images", "people", "labels", "uei_chance"])


def worst(labels: pd.DataFrame) -> pd.DataFrame:
    """Labels by falling UEI, with what can be said of their groups."""
    ordered = labels.sort_values("uei", ascending=False, kind="stable")
    return pd.DataFrame({"label": ordered.label, "UEI": with_range(ordered, "uei"), "verdict": ordered.verdict})


def ranged(table: pd.DataFrame, of: Mapping[str, Measure], first: Sequence[str]) -> pd.DataFrame:
    """Some columns as they are, without those that are empty, then measures with their intervals."""
    kept = table[[name for name in first if table[name].notna().any()]]
    return kept.assign(**{one.title: with_range(table, name) for name, one in of.items()})


def _html(table: pd.DataFrame) -> str:
    return f"<div>{shown(table).to_html()}</div>"


def _png(plot: Callable[[str], Figure], attribute: str, words: str) -> str:
    from matplotlib import pyplot as plt

    from fairnb.book.plots import in_every_script

    with in_every_script():
        figure = plot(attribute)
        figure.savefig(file := io.BytesIO(), format="png", dpi=110)
    plt.close(figure)
    return f'<p><img alt="{words}" src="data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"></p>'
