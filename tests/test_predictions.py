"""Tables of predictions on a disk, as `fairnb assess` reads them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from fairnb.cli import app
from fairnb.yours import assess
from fairnb.yours.predictions import read_predictions

NAMES = ["Bald", "Hat"]


@pytest.fixture
def table() -> pd.DataFrame:
    draw = np.random.default_rng(0)
    truth = draw.random((200, 2)) < 0.4
    group = draw.integers(2, size=200)
    scores = (truth - 0.5 - 0.4 * group[:, None] * truth + 0.3 * draw.standard_normal((200, 2))).round(3)
    known = pd.DataFrame(
        {"image": [f"{i}.jpg" for i in range(200)], "Male": 2 * group - 1, "age": draw.integers(80, size=200)}
    )
    known = known.join(pd.DataFrame(np.where(truth, "yes", "no"), columns=NAMES))
    return known.join(pd.DataFrame(scores, columns=[f"{name}_score" for name in NAMES]))


def write(table: pd.DataFrame, path: Path) -> Path:
    if path.suffix == ".parquet":
        table.to_parquet(path)
    else:
        table.to_csv(path, index=False, sep="\t" if path.suffix == ".tsv" else ",")
    return path


def call(*words: object) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["assess", *map(str, words)])
    return done.exit_code, done.output


def truth_of(table: pd.DataFrame) -> np.ndarray:
    return (table[NAMES] == "yes").to_numpy()


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".parquet"])
def test_one_table_of_any_kind(table, tmp_path, ending):
    person = np.arange(200) // 2
    known = read_predictions([write(table.assign(identity=person), tmp_path / f"p{ending}")], ["Male"])
    assert known.person is not None
    assert known.person.astype(int).tolist() == person.tolist()
    assert list(known.truth) == NAMES
    assert (known.truth.to_numpy() == truth_of(table)).all()
    assert (known.scores.to_numpy() == table[[f"{name}_score" for name in NAMES]].to_numpy()).all()
    found = assess(known.truth, known.scores, known.group, draws=0)
    other = assess(truth_of(table), known.scores.to_numpy(), table.Male.map({-1: "female", 1: "male"}), names=NAMES, draws=0)
    columns = ["group", "n", "positives", "predicted_positives", "us"]
    pd.testing.assert_frame_equal(found.groups[columns], other.groups[columns])


def test_several_tables_are_joined_by_image(table, tmp_path):
    shuffled = table.sample(frac=1, random_state=1)
    one = write(shuffled[["image", "Bald_score", "Hat_score"]].iloc[:150], tmp_path / "scores.csv")
    two = write(table[["image", "Male", *NAMES]].rename(columns={"image": "image_id"}), tmp_path / "truth.csv")
    known = read_predictions([one, two], ["Male"])
    assert known.told == ("50 images of truth.csv are not in every file and are left out",)
    expected = shuffled.iloc[:150]
    assert (known.scores.Hat.to_numpy() == expected.Hat_score.to_numpy()).all()
    assert (known.truth.to_numpy() == truth_of(expected)).all()


def test_celebas_own_annotations_beside_predictions(celeba, tmp_path):
    names = [line.split()[0] for line in (celeba / "list_attr_celeba.txt").read_text().splitlines()[2:]]
    scores = pd.DataFrame({"image": names, "Bald_score": np.linspace(-1, 1, len(names))})
    known = read_predictions([write(scores, tmp_path / "p.csv"), celeba / "list_attr_celeba.txt"], ["Male"])
    assert len(known.truth) == len(names)
    assert set(known.group.Male) == {"1", "-1"}


def test_the_command_tells_writes_and_fails(table, tmp_path):
    path = write(table, tmp_path / "p.csv")
    code, told = call(path, "--group", "Male", "--html", tmp_path / "r.html", "--csv", tmp_path / "tables", "--draws", 50)
    assert code == 0
    assert "- scores are read as logits: above 0 predicts a label" in told
    assert "by Male, highest UEI first" in told
    assert "male: predicted 0." in told
    assert "Assessment of p.csv" in (tmp_path / "r.html").read_text()
    assert set(pd.read_csv(tmp_path / "tables" / "groups.csv").group) == {"female", "male"}
    code, told = call(path, "--group", "Male", "--group", "age", "--bins", "age=0,40", "--products", "--draws", 0)
    assert code == 0
    assert "by Male and age, highest" in told
    code, told = call(path, "--group", "Male", "--draws", 0, "--fail-below", 0.8)
    assert code == 1
    assert "US are below 0.8, lowest first: " in told
    assert call(path, "--group", "Male", "--draws", 0, "--fail-below", 0.1)[0] == 0


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--group", "male"], "unknown column (group) 'male': did you mean 'Male'?"),
        (["--group", "Male", "--score", "{label}_logit"], "no column is named '{label}_logit' and has its truth"),
        (["--group", "Male", "--score", "score"], "must hold {label}"),
        (["--group", "age"], "age holds numbers: say where its groups begin"),
        (["--group", "Male", "--kind", "probabilities"], "that are not in 0..1"),
        (["--group", "Male", "--person", "who"], "p.csv, person: unknown column 'who'"),
        (["--group", "Male", "--bins", "Age=0,1"], "bins: unknown attribute 'Age': did you mean"),
        (["--group", "Male", "--threshold", "9"], "every prediction of every label is 0"),
    ],
)
def test_mistakes_in_the_command_are_named(table, tmp_path, words, told):
    code, said = call(write(table, tmp_path / "p.csv"), *words)
    assert code == 1
    assert told in " ".join(said.split())
    assert "Traceback" not in said


def test_values_that_cannot_be_read_are_named(table, tmp_path):
    for column, value, told in [
        ("Hat_score", "high", "p.csv, line 5, Hat_score: 'high' is no number (1 such values here)"),
        ("Hat", "", "p.csv: 1 labels are missing, first in line 5, Hat"),
        ("Hat", "maybe", "p.csv, line 5, Hat: 'maybe' is none of"),
    ]:
        odd = table.astype({column: object})
        odd.loc[3, column] = value
        code, said = call(write(odd, tmp_path / "p.csv"), "--group", "Male")
        assert code == 1
        assert told in " ".join(said.split())
    assert "no file" in call(tmp_path / "nowhere.csv", "--group", "Male")[1]
    one = write(table, tmp_path / "a.csv")
    assert "the column 'Male' is in a.csv and in b.csv" in call(one, write(table, tmp_path / "b.csv"), "--group", "Male")[1]
    other = write(pd.DataFrame({"image": ["x.png"], "who": [1]}), tmp_path / "c.csv")
    assert (
        "no image is in all of these files: a.csv has '0.jpg', c.csv has 'x.png'" in call(one, other, "--group", "Male")[1]
    )
