"""Tables of predictions and of results: assessed as an independent count would, or refused in a line."""

from __future__ import annotations

import csv
import io
from typing import Any

import pandas as pd
import pytest
from hypothesis import assume, example
from hypothesis import strategies as st

from fairnb.evidence.swept import publish
from fairnb.yours import assess
from fairnb.yours.predictions import read_predictions
from tests.fuzz import folder, fuzzed, result_or_line
from tests.fuzz.names import NAMES

LABEL = st.one_of(st.sampled_from(["a", "b", "image", "person", "g", "a_score", "{label}", "é"]), st.sampled_from(NAMES))
TRUTH = st.sampled_from(["0", "1"] * 6 + ["", "-1", "yes", "2", "x"])
SCORE = st.one_of(
    st.floats(0, 1, width=32).map(str), st.sampled_from(["0", "1", "", "nan", "inf", "1e400", "x", "-3", "1_0"])
)
GROUP = st.sampled_from(["x", "y"] * 5 + ["", "z", "1", "0", "NA", "</script>"])


@st.composite
def predicted(draw):
    """The rows of a table of predictions, its labels and its column of groups."""
    labels = draw(st.lists(LABEL, min_size=1, max_size=2, unique=True))
    wild = draw(st.booleans())
    truth = TRUTH if wild else st.sampled_from(["0", "1"])
    score = SCORE if wild else st.sampled_from(["0.1", "0.2", "0.7", "0.9"])
    group = GROUP if wild else st.sampled_from(["x", "y"])
    header = ["image", "g", *labels, *(f"{label}_score" for label in labels)]
    rows = [
        [f"{i}.jpg", draw(group), *(draw(truth) for _ in labels), *(draw(score) for _ in labels)]
        for i in range(draw(st.integers(1, 8)))
    ]
    return labels, [header, *rows]


@fuzzed(40, 150, made=predicted(), ending=st.sampled_from(["csv", "tsv", "parquet"]), two=st.booleans())
@example(
    made=(["a"], [["image", "g", "a", "a_score"], ["1.jpg", "x", "1", "1_0"], ["2.jpg", "y", "0", "0.5"]]),
    ending="csv",
    two=False,
)
def test_predictions_are_counted_as_they_stand(made, ending, two):
    labels, (header, *rows) = made
    with folder() as here:
        file = here / f"mine.{ending}"
        if ending == "parquet":
            assume(len(set(header)) == len(header))
            pd.DataFrame(rows, columns=header).to_parquet(file)
        else:
            csv.writer(text := io.StringIO(), delimiter="," if ending == "csv" else "\t").writerows([header, *rows])
            file.write_text(text.getvalue(), encoding="utf-8")
        files = [file]
        if two:  # another table of the same images, of which it lacks one
            (more := here / "more.csv").write_text("\n".join(["image,h", *(f"{row[0]},k" for row in rows[1:])]))
            files.append(more)
        known = result_or_line(lambda: read_predictions(files, ["g"]), "mine", "more.csv")
        if known is None:
            return
        kept = rows[1:] if two else rows
        assert len(known.truth) == len(known.scores) == len(known.group) == len(kept)
        for label in known.truth:
            assert label in labels
            truth = [row[2 + labels.index(label)].strip() in ("1", "yes") for row in kept]
            assert known.truth[label].tolist() == [int(one) for one in truth]
            score = [row[2 + len(labels) + labels.index(label)] for row in kept]
            assert known.scores[label].tolist() == pytest.approx(list(map(float, score)))
        mentioned = (*labels, "g", "prediction", "truth")
        found = result_or_line(lambda: assess(known.truth, known.scores, known.group, draws=5), *mentioned)
        if found is None:
            return
        there = [row for row in kept if row[1].strip().lower() not in ("", "na")]
        assert int(found.of("groups").n.sum()) == len(there) * len(known.truth.columns)
        assert int(found.of("groups").positives.sum()) == sum(
            row[2 + labels.index(label)].strip() in ("1", "yes") for row in there for label in known.truth
        )


def test_a_datasets_name_is_no_path(tmp_path, monkeypatch):
    """Results of a sweep over datasets go to folders named by what differs, and an attribute may be called anything."""
    from fairnb.evidence import swept

    made = []

    class Of(swept.Swept):
        datasets = {"../../x": [], "/etc": [], "..": [], "Male and Young": []}  # noqa: RUF012
        table, about = pd.DataFrame({"run": []}), {}

    original: Any = publish
    monkeypatch.setattr(swept, "Swept", Of)
    monkeypatch.setattr(swept, "publish", lambda folder, *_, **__: made.append(folder))
    original(tmp_path / "results", [tmp_path], dict.fromkeys(Of.datasets))
    assert [folder.parent for folder in made] == [tmp_path / "results"] * 4
    assert made[-1].name == "Male and Young"
    assert all(folder.resolve() == folder for folder in made)
