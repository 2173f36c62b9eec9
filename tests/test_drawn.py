"""The embedded dataset: are the people CelebA's, is noise alone the reason to underestimate, does a portrait show it all?"""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fairnb.data import Data, decode_images, draw_faces, open_dataset
from fairnb.data.drawn.people import CELEBA, draw_people, read_statistics
from fairnb.data.drawn.portrait import ACCIDENTS, ATTRIBUTES, draw_portraits
from fairnb.metrics import contingency_table, underestimation_score

TABLE = read_statistics()
MALE = ATTRIBUTES.index("Male")
REAL = Path(__file__).parents[2] / "shared" / "celeba-sample"


def normal_above(t: torch.Tensor) -> torch.Tensor:
    return torch.special.erfc(t / 2**0.5) / 2


def phi(labels: torch.Tensor) -> torch.Tensor:
    """Pairwise phi coefficients of [N, A] labels, each pair once."""
    first, second = torch.triu_indices(labels.shape[1], labels.shape[1], 1)
    return torch.corrcoef(labels.double().T)[first, second]


# ------------------------------------------------------------------ who is drawn


@pytest.mark.parametrize("seed", range(3))
def test_twenty_thousand_people_have_celebas_shares_in_each_group(seed):
    _, labels = draw_people(0, 20_000, seed, TABLE)
    assert float(labels[:, MALE].double().mean()) == pytest.approx(float(TABLE.share[MALE]), abs=0.01)
    for group in (0, 1):
        of_group = labels[labels[:, MALE] == bool(group)].double().mean(dim=0)
        assert float((of_group - TABLE.share_of_group[group]).abs().max()) <= 0.01


@pytest.mark.skipif(not REAL.is_dir(), reason="CelebA's real annotations do not lie beside the checkout")
def test_the_table_and_the_correlations_are_those_of_the_real_annotations():
    from fairnb.data.layouts import read_attributes

    table = read_attributes(REAL / "list_attr_celeba.txt").drop(columns="image")
    real = torch.tensor(table.astype(int).to_numpy() > 0)
    assert tuple(table) == ATTRIBUTES == TABLE.names
    for group in (0, 1):
        counted = real[real[:, MALE] == bool(group)].double().mean(dim=0)
        torch.testing.assert_close(counted, TABLE.share_of_group[group], atol=1e-4, rtol=0)
    _, drawn = draw_people(0, 20_000, 0, TABLE)
    assert float((phi(drawn) - phi(real)).abs().mean()) <= 0.02
    apart = torch.stack([phi(drawn[drawn[:, MALE]][:, :MALE]) - phi(real[real[:, MALE]][:, :MALE])])  # among men alone
    assert float(apart.nan_to_num().abs().mean()) <= 0.03


def test_the_best_accuracy_is_what_networks_reach_on_celeba():
    intensity, labels = draw_people(0, 100_000, 1, TABLE)
    best = ((intensity > 0) == labels).double().mean(dim=0)
    majority = torch.maximum(TABLE.share, 1 - TABLE.share)
    wanted = torch.maximum(TABLE.published, majority + 0.01)
    assert float((best - wanted).abs().max()) <= 0.03
    assert float(TABLE.published.mean()) == pytest.approx(0.913, abs=0.001)  # as Hand and Chellappa report it


def test_the_best_classifier_underestimates_by_the_noise_and_by_nothing_else():
    intensity, labels = draw_people(0, 100_000, 2, TABLE)
    group = labels[:, MALE].long()
    score = underestimation_score(contingency_table(intensity.T > 0, labels.T, group))  # [A, 2]
    threshold = -torch.special.ndtri(TABLE.share_of_group)  # [2, A]
    theory = normal_above(threshold / TABLE.clarity) / normal_above(threshold)
    for g in (0, 1):
        enough = labels[group == g].sum(dim=0) > 400
        enough[MALE] = False
        assert int(enough.sum()) >= 28
        torch.testing.assert_close(score[enough, g], theory[g, enough], atol=0.1, rtol=0)
    rare = (TABLE.share_of_group < 0.2) & (TABLE.clarity < 0.9) & (TABLE.share_of_group > 0.02)
    assert bool((score.T[rare] < 0.85).all())  # what this book is about

    clear = replace(TABLE, clarity=torch.ones_like(TABLE.clarity))  # the same people, had annotators agreed
    intensity, labels = draw_people(0, 20_000, 2, clear)
    assert bool(((intensity > 0) == labels).all())
    score = underestimation_score(contingency_table(intensity.T > 0, labels.T, labels[:, MALE].long()))
    assert bool((score[~score.isnan()] == 1).all())


def test_a_picture_is_labelled_alike_in_both_groups():
    intensity, labels = draw_people(0, 200_000, 3, TABLE)
    for name in ("Attractive", "Oval_Face", "Young", "Straight_Hair", "Big_Nose"):
        column = ATTRIBUTES.index(name)
        clarity = float(TABLE.clarity[column])
        near = (intensity[:, column] - 0.25).abs() < 0.25
        given = labels[near, column].double()
        chance = 1 - normal_above(intensity[near, column].double() * clarity / (1 - clarity**2) ** 0.5)
        for group in (False, True):
            member = labels[near, MALE] == group
            assert float((given - chance)[member].mean()) == pytest.approx(0, abs=4 * 0.5 / int(member.sum()) ** 0.5)


def test_a_person_is_the_same_however_many_are_drawn():
    intensity, labels = draw_people(0, 1000, 5, TABLE)
    one, label = draw_people(417, 1, 5, TABLE)
    assert torch.equal(one[0], intensity[417])
    assert torch.equal(label[0], labels[417])
    assert not torch.equal(draw_people(417, 1, 6, TABLE)[0], one)


# ------------------------------------------------------------------ how they are drawn


@pytest.mark.parametrize("size", [(64, 64), (218, 178), (33, 47)])
def test_a_portrait_is_the_same_to_the_bit_alone_and_in_a_batch(size):
    faces = draw_faces([20, 10, 10], 3, height=size[0], width=size[1])
    together = faces.images.read(range(40), min(size))
    for index in (0, 17, 39):
        assert faces.images[index].shape == (3, *size)
        assert torch.equal(faces.images[index], together[index])
    assert torch.equal(faces.images[-1], together[39])
    with pytest.raises(IndexError):
        faces.images[40]
    fewer = draw_faces([10, 5, 3], 3, height=size[0], width=size[1])
    assert torch.equal(fewer.images[17], together[17])
    other = draw_faces([20, 10, 10], 4, height=size[0], width=size[1])
    assert not torch.equal(other.images[17], together[17])


@pytest.mark.parametrize("size", [(64, 64), (218, 178)])
@pytest.mark.parametrize("name", ATTRIBUTES)
def test_every_attribute_is_seen(name, size):
    """On against off, all else equal: some part of the portrait is plainly another, whoever it is."""
    people, column = 6, ATTRIBUTES.index(name)
    draw = torch.Generator().manual_seed(0)
    accidents = torch.rand(people, ACCIDENTS, generator=draw)
    grain = torch.rand(people, *size, generator=draw)
    off = torch.full((people, len(ATTRIBUTES)), -1.5)
    off[:, [ATTRIBUTES.index(usual) for usual in ("No_Beard", "Young", "Brown_Hair") if usual != name]] = 1.5
    on = off.clone()
    on[:, column] = 1.5
    change = (draw_portraits(on, accidents, grain).float() - draw_portraits(off, accidents, grain).float()).abs().amax(dim=1)
    plain = (change > 15).double().mean(dim=(1, 2))  # of 255 levels
    assert float(plain.median()) > 0.002, "too little of the picture changes"  # thin lips are a five hundredth of it
    assert bool((plain > 0.001).all()), "somebody shows nothing"


def test_a_degree_more_is_a_little_more_to_see():
    """Nothing flips: intensity is continuous in the picture, as it is in people."""
    intensity = torch.zeros(13, len(ATTRIBUTES))
    intensity[:, ATTRIBUTES.index("Smiling")] = torch.linspace(-1.5, 1.5, 13)
    same = torch.full((13, ACCIDENTS), 0.5)
    pictures = draw_portraits(intensity, same, torch.full((13, 64, 64), 0.5)).float()
    steps = (pictures[1:] - pictures[:-1]).abs().mean(dim=(1, 2, 3))
    whole = (pictures[-1] - pictures[0]).abs().mean()
    assert float(steps.max()) < float(whole) / 4


# ------------------------------------------------------------------ the dataset


def test_the_dataset_has_the_sizes_and_the_parts_of_a_dataset():
    faces = draw_faces([50, 20, 30], 1, targets=["Smiling", "Bald"])
    assert [len(faces.rows(split)) for split in ("train", "valid", "test")] == [50, 20, 30]
    assert faces.label_names == ("Bald", "Smiling")  # in CelebA's order
    assert faces.group_names == ("female", "male")
    _, labels = draw_people(0, 100, 1, TABLE)
    assert torch.equal(faces.group, labels[:, MALE].long())
    assert torch.equal(faces.labels[:, 1], labels[:, ATTRIBUTES.index("Smiling")])
    assert faces.fingerprint() == draw_faces([50, 20, 30], 1, targets=["Smiling", "Bald"]).fingerprint()
    assert faces.fingerprint() != draw_faces([50, 20, 30], 2, targets=["Smiling", "Bald"]).fingerprint()
    assert faces.images.fingerprint() != draw_faces([50, 20, 30], 1, width=66).images.fingerprint()


def test_young_splits_people_as_well():
    faces = draw_faces([300, 100, 100], sensitive="Young")
    assert faces.group_names == ("not Young", "Young")
    assert "Male" in faces.label_names
    assert "Young" not in faces.label_names
    assert float(faces.group.double().mean()) == pytest.approx(float(TABLE.share[ATTRIBUTES.index("Young")]), abs=0.05)


def test_faces_are_drawn_at_the_working_size(tmp_path):
    faces = open_dataset(Data(drawn=(40, 10, 10), drawn_seed=2))
    decoded = decode_images(faces.images, 72, tmp_path)
    assert decoded.shape == (60, 72, 72, 3)
    wanted = draw_faces([40, 10, 10], 2, height=72, width=72).images[59]
    assert np.array_equal(decoded[59].transpose(2, 0, 1), wanted.numpy())
    few = open_dataset(Data(drawn=(40, 10, 10), drawn_seed=2, max_images=5))
    kept = int(few.rows("test")[0])
    of_all = int(faces.rows("test")[0])
    assert np.array_equal(decode_images(few.images, 72, tmp_path)[kept], decoded[of_all])


def test_a_working_size_that_is_too_small_gets_a_line(tmp_path):
    with pytest.raises(ValueError, match=r"^faces cannot be drawn at 24×24: give at least 32 pixels each way$"):
        decode_images(draw_faces([40, 10, 10]).images, 24, tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_splits_are_dealt_at_random():
    faces = draw_faces([2000, 500, 500])
    share = [float(faces.labels[faces.rows(split)].double().mean()) for split in ("train", "valid", "test")]
    assert max(share) - min(share) < 0.02
    assert int(faces.rows("test")[0]) < 100  # not the last of the population


def test_the_default_is_enough_for_the_books_labels():
    assert int(draw_faces(Data().drawn).analysed(min_positives=8).sum()) >= 25


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"images": [10, 0, 10]}, "drawn faces need an image or more for each of train, valid, test: got \\[10, 0, 10\\]"),
        ({"images": [10, 10]}, "got \\[10, 10\\]"),
        ({"images": [10, 10, 2.5]}, "got \\[10, 10, 2.5\\]"),
        ({"images": 6000}, "got 6000"),
        ({"height": 31}, "faces cannot be drawn at 31×64: give at least 32 pixels"),
        ({"width": 8}, "64×8"),
        ({"seed": -1}, "seed of the drawn faces must be a whole number from 0 .*: got -1"),
        ({"seed": 2**63}, "got 9223372036854775808"),
        ({"seed": 1.5}, "got 1.5"),
        ({"seed": True}, "got True"),
        ({"targets": ["Smilling"]}, "unknown attribute 'Smilling': did you mean 'Smiling'"),
        ({"sensitive": "Mail"}, "unknown attribute 'Mail': did you mean 'Male'"),
        ({"targets": ["Male"]}, "'Male' is sensitive"),
    ],
)
def test_bad_input_gets_a_line(given, message):
    with pytest.raises(ValueError, match=message) as error:
        draw_faces(**({"images": [10, 10, 10]} | given))
    assert "\n" not in str(error.value)


def _column(table: str, name: str) -> int:
    return next(line for line in table.splitlines() if line.startswith("attribute")).split(",").index(name)


def _changed(table: str, row: str, column: str, value: str) -> str:
    """The table with one value put in another's place."""
    lines = table.splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith(f"{row},"))
    words = lines[at].split(",")
    words[_column(table, column)] = value
    return "\n".join([*lines[:at], ",".join(words), *lines[at + 1 :]]) + "\n"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: t.replace("clarity,", "clearness,", 1).replace(",clarity,", ",clearness,"),
            "1 columns are missing: clarity",
        ),
        (lambda t: _changed(t, "Bald", "share", "many"), "no numbers for Bald"),
        (lambda t: _changed(t, "Bald", "share", "1.2"), "shares lie within 0 to 1"),
        (lambda t: _changed(t, "Bald", "clarity", "0"), "clarity above 0"),
        (lambda t: _changed(t, "Bald", "Young with Male", "0.9"), "'with Male' are no correlation matrix"),
        (lambda t: t.replace("Smiling", "Grinning"), "must list the 40 attributes .* amiss: Grinning"),
        (lambda t: "", "is no table of statistics"),
        (lambda t: _changed(t, "Bald", "Young with Male", "inf"), "no numbers for Bald"),
        (lambda t: re.sub("(?<!with )(?<!without )Male", "Mail", t), "has no attribute 'Male'"),
        (lambda t: _changed(t, "Male", "share with Male", "0.5"), "shares of Male in the two groups are 0 and 1"),
    ],
)
def test_a_table_that_does_not_fit_gets_a_line(tmp_path, change, message):
    path = tmp_path / "statistics.csv"
    path.write_text(change(CELEBA.read_text()))
    with pytest.raises(ValueError, match=message) as error:
        draw_faces([10, 10, 10], statistics=path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_table_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no table of statistics"):
        draw_faces([10, 10, 10], statistics=tmp_path / "none.csv")


def test_a_folder_is_not_silently_ignored(celeba):
    with pytest.raises(ValueError, match="reads no folder: say data=celeba"):
        Data(data="drawn", data_root=celeba)


def test_the_table_is_saved_as_it_is_read(tmp_path):
    TABLE.save(tmp_path / "again.csv")
    assert (tmp_path / "again.csv").read_text() == CELEBA.read_text()
