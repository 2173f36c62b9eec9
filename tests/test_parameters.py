"""Parameters are declared once; whatever road a value takes, it is read as its parameter's type or refused in a line."""

import re

import numpy as np
import pandas as pd
import pytest

from fairnb.run.parameters import PARTS, Data, Machine, Parameters, Recipe, Swarm, describe, named_in, read


def test_every_parameter_has_one_line_of_description_and_stands_in_one_part():
    names = [name for part in PARTS for name in part.model_fields]
    assert sorted([*names, "run"]) == sorted(Parameters.model_fields)
    for name, field in Parameters.model_fields.items():
        assert field.description, name
        assert "\n" not in field.description
        assert all(describe(name)), name


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({"seed": "010"}, 10),  # as `seq -w` counts: ten, not eight
        ({"whiten": "false"}, False),  # papermill's word
        ({"learning_rate": "1e-4"}, 1e-4),  # which YAML 1.1 takes for text
        ({"targets": "[Bald, Young]"}, ("Bald", "Young")),
        ({"targets": "[]"}, ()),
        ({"drawn": ["6", "4", 4]}, (6, 4, 4)),
        ({"tolerance": 0}, 0.0),
        ({"weights": None}, ""),
        ({"run": 2024}, "2024"),
        ({"data_root": "a folder #1", "data": "celeba"}, "a folder #1"),
    ],
)
def test_a_value_is_read_as_its_parameters_type(given, wanted):
    value = getattr(Parameters(**given), next(iter(given)))
    assert value == wanted
    assert type(value) is type(wanted)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"epoch": 3}, "unknown parameter 'epoch': did you mean 'epochs'?"),
        ({"epochs": "three"}, "epochs='three' must be a whole number (passes over the training split)"),
        ({"epochs": True}, "epochs=True must be a whole number"),
        ({"epochs": 2.5}, "epochs=2.5 must be a whole number"),
        ({"epochs": 0}, "epochs=0 must be at least 1"),
        ({"dropout": 1}, "dropout=1 must be below 1"),
        ({"tolerance": -0.1}, "tolerance=-0.1 must be at least 0"),
        ({"spread": -1}, "spread=-1 must be at least 0"),
        ({"max_fpr_gap": 0}, "max_fpr_gap=0 must be above 0"),
        ({"max_fpr_gap": 1.5}, "max_fpr_gap=1.5 must be at most 1"),
        ({"min_recall": -0.1}, "min_recall=-0.1 must be at least 0"),
        ({"min_recall": 1}, "min_recall=1 must be below 1"),
        ({"no_label_worse": 0.5}, "no_label_worse=0.5 must be true or false"),
        ({"epsilon": 0}, "epsilon=0 must be above 0"),
        ({"noise": "inf"}, "noise='inf' must be a finite number"),
        ({"whiten": "nah"}, "whiten='nah' must be true or false"),
        ({"targets": "Bald"}, "targets='Bald' must be a list"),
        ({"drawn": "[1, 2]"}, "must be a longer list"),
        ({"drawn": [1, 2, 0]}, "each at least 1"),
        ({"precision": "64-true"}, "unknown precision '64-true': did you mean '32-true'?"),
        ({"seed": "20261125153000123456"}, "seed='20261125153000123456' must be below 9223372036854775808"),
        ({"batch_size": 1}, "batch_size=1 must be at least 2"),
        ({"run": "../x"}, "run='../x' must be a plain folder name"),
        ({"run": "cache"}, "is the folder of decoded images"),
        ({"layers": "all", "start": "recalibrated"}, "start='recalibrated' is for heads alone"),
        ({"data": "celebs"}, "unknown data 'celebs': did you mean 'celeba'?"),
        ({"data": "celeba"}, "needs data_root"),
        ({"data_root": "faces"}, "reads no folder: say data=celeba"),
        ({"image_size": 100}, "image_size=100 is cut out of resize=58"),
        ({"layers": "all", "whiten": True}, "whiten=True is for heads alone"),
        ({"inertia": "[0.5, 0.1]"}, "must be a lower and an upper bound"),
        ({"flight": "constricted", "repository": 1}, "repository=1 must be at least 2 for the constricted flight"),
    ],
)
def test_what_cannot_be_used_is_refused_in_a_line(given, message):
    with pytest.raises(ValueError, match=re.escape(message)) as refused:
        Parameters(**given)
    assert "\n" not in str(refused.value)


def test_parts_are_frozen_and_changed_copies_are_checked():
    swarm = Swarm(particles=10)
    assert swarm.but(iterations=3).evaluations == 40
    with pytest.raises(ValueError, match="noise=-1 must be at least 0"):
        swarm.but(noise=-1)
    with pytest.raises(ValueError, match="frozen"):
        swarm.noise = 0.2  # type: ignore[misc]


def test_a_part_is_taken_out_of_the_whole():
    given = Parameters(backbone="resnet50", particles=7, device="cpu")
    assert given.part(Recipe) == Recipe(backbone="resnet50")
    assert given.part(Swarm) == Swarm(particles=7)
    assert given.part(Machine).device == "cpu"
    assert given.part(Data) == Data()


def test_a_file_and_words_are_read_as_they_are_written(tmp_path):
    file = tmp_path / "p.yml"
    file.write_text("seed: 010\nlearning_rate: 1e-4\nweights:\ncompiled: false\nepochs: 3\ndrawn: [60, 20, 30]\n")
    given = Parameters(**read(file, ["epochs=5", "targets=[Bald, Young]", "data_root="]))
    assert (given.seed, given.learning_rate, given.weights, given.compiled, given.epochs) == (10, 1e-4, "", False, 5)
    assert given.drawn == (60, 20, 30)
    assert given.targets == ("Bald", "Young")


BAD_FILES = [
    ("- a\n", "name: value"),
    ("a: [\n", "is not YAML"),
    ("a: 1\na: 2\n", r"p.yml, line \d: 'a' stands twice"),
    ("? [a]\n: 1\n", r"p.yml, line 1: a name must be a word"),
    ("a: &x [*x]\n", "is not YAML: found unconstructable recursive node"),
]


@pytest.mark.parametrize(("text", "message"), BAD_FILES)
def test_a_bad_file_is_named(tmp_path, text, message):
    (tmp_path / "p.yml").write_text(text)
    with pytest.raises(ValueError, match=message):
        read(tmp_path / "p.yml", [])


def test_the_parameters_among_a_notebooks_names():
    later = {"table": pd.DataFrame(), "people": np.zeros(3), "seed": np.int64(3)}  # the first two of cells below
    names = {"run": "r", "epsilon": 0.1, "pd": object(), "plots": 1}
    assert named_in(names | later) == {"run": "r", "epsilon": 0.1, "seed": 3}


def test_a_word_is_given_once():
    assert read(None, ["seed=1", "seed=1"]) == {"seed": "1"}
    with pytest.raises(ValueError, match=r"^-p seed is given as 1 and as 2$"):
        read(None, ["seed=1", "epochs=2", "seed=2"])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"seed": "1e3"}, "seed='1e3' must be a whole number"),
        ({"seed": 10**20}, f"seed={10**20} must be"),
        ({"particles": "9" * 30}, f"particles={'9' * 30} must be a whole number of fewer digits"),
        ({"bins": "age"}, r"bins='age' must be names with values, such as \{a: b\}"),
        ({"bins": "{age: [0, 9], age: [1, 9]}"}, "line 1: 'age' stands twice"),
        ({"targets": "[" * 10**5}, "must be a list"),
        ({"run": "a\nb"}, r"run='a\\nb' must be a plain folder name"),
    ],
)
def test_odd_words_are_refused_in_a_line(given, message):
    with pytest.raises(ValueError, match=message) as error:
        Parameters(**given)
    assert "\n" not in str(error.value)
