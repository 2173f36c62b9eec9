"""The layouts of public datasets and tables of one's own: each in its exact form, with its quirks."""

from __future__ import annotations

import csv
import io
import random
import shutil
import unicodedata
import zipfile
from pathlib import Path
from typing import get_args

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fairnb.data import Data, decode_images, open_dataset
from fairnb.data.layouts import LAYOUTS, deal, layout_of
from fairnb.data.table import read_table
from tests.conftest import make_celeba

RACES = ("East Asian", "Indian", "Black", "White", "Middle Eastern", "Latino_Hispanic", "Southeast Asian")


def picture(seed: int, form: str = "JPEG", mode: str = "RGB") -> bytes:
    """A small picture of one colour."""
    file = io.BytesIO()
    Image.new("RGB", (24, 28), tuple(random.Random(seed).randrange(256) for _ in range(3))).convert(mode).save(file, form)
    return file.getvalue()


def upright(data: bytes) -> torch.Tensor:
    return torch.from_numpy(np.array(Image.open(io.BytesIO(data)))).permute(2, 0, 1)


def put(path: Path, content: str | bytes) -> Path:
    """Write a file and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def make_mask_hq(root: Path, n: int = 48) -> Path:
    """CelebAMask-HQ: images named by number, attributes between double blanks, and a mapping to CelebA's files."""
    rows = [f"{i}.jpg  {-1 if i % 2 else 1}  {1 if i % 3 else -1}  {1 if i % 5 else -1}" for i in range(n)]
    put(root / "CelebAMask-HQ-attribute-anno.txt", "\n".join([str(n), "Male Smiling Young ", *rows]) + "\n")
    original = [n - i for i in range(n)]
    mapping = [f"{i:<9}{number:<14}{number:06d}.jpg" for i, number in enumerate(original)]
    put(root / "CelebA-HQ-to-CelebA-mapping.txt", "\n".join(["idx      orig_idx      orig_file", *mapping]) + "\n")
    splits = [f"{number:06d}.jpg {0 if number <= n / 2 else 1 if number <= 3 * n / 4 else 2}" for number in range(1, n + 1)]
    put(root / "list_eval_partition.txt", "\n".join(splits) + "\n")
    for i in range(n):
        put(root / "CelebA-HQ-img" / f"{i}.jpg", picture(i))
    return root


def make_fairface(root: Path, n: int = 210) -> Path:
    """FairFace: two tables, images in `train/` and `val/`."""
    draw = random.Random(0)
    for part, count in (("train", n), ("val", n // 3)):
        rows = []
        for i in range(1, count + 1):
            race, age = RACES[i % 7], draw.choice(("0-2", "3-9", "10-19", "20-29", "more than 70"))
            rows.append(f"{part}/{i}.jpg,{age},{('Male', 'Female')[i // 7 % 2]},{race},{draw.random() < 0.5}")
            put(root / part / f"{i}.jpg", picture(i))
        put(root / f"fairface_label_{part}.csv", "\n".join(["file,age,gender,race,service_test", *rows]) + "\n")
    return root


def make_utkface(root: Path, n: int = 200) -> Path:
    """UTKFace: labels in the names of the files, some of them broken."""
    draw = random.Random(1)
    names = [f"{draw.randrange(1, 90)}_{i % 2}_{i // 2 % 5}_2017010914{i:07d}.jpg.chip.jpg" for i in range(n)]
    names += ["61_1_20170109142408075.jpg.chip.jpg", "39_1_20170116174525125.jpg.chip.jpg"]  # lack a field
    names += ["55_0_0_20170116232725357jpg.chip.jpg", "24_0_1_20170116220224657 .jpg.chip.jpg"]  # a dot, a blank
    for i, name in enumerate(names):
        put(root / "UTKFace" / name, picture(i))
    return root


def make_lfw(root: Path, n: int = 120) -> Path:
    """LFW's attributes: a comment, names between tabs, scores."""
    draw = random.Random(2)
    lines = ["# attributes of LFW images", "#\tperson\timagenum\tMale\tAsian\tBlack Hair\tSmiling"]
    for i in range(n):
        person, number = f"Person Number{chr(65 + i // 2 % 26)}{i // 52}", i % 2 + 1
        scores = [(1 if i // 2 % 2 else -1) * 0.5, *(draw.uniform(-2, 2) for _ in range(3))]
        lines.append("\t".join([person, str(number), *map(str, scores)]))
        put(root / "lfw" / person.replace(" ", "_") / f"{person.replace(' ', '_')}_{number:04d}.jpg", picture(i))
    put(root / "lfw_attributes.txt", "\n".join(lines) + "\n")
    return root


def make_hub(root: Path, sizes: tuple[int, ...] = (96, 48, 48)) -> Path:
    """Hugging Face's Parquet of CelebA: images as bytes, attributes as truth values, splits by the files' names."""
    start = 0
    for name, size in zip(("train", "valid", "test"), sizes, strict=True):
        rows = range(start, start + size)
        held = [{"bytes": picture(i), "path": f"{i + 1:06d}.jpg"} for i in rows]
        table = {"image": held, "celeb_id": [i // 3 for i in rows], "Male": [i % 2 == 1 for i in rows]}
        table |= {"Smiling": [i % 3 > 0 for i in rows], "Young": [i % 5 > 0 for i in rows]}
        (root / "data").mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(table), root / "data" / f"{name}-00000-of-00001.parquet", row_group_size=20)
        start += size
    return root


def make_table(root: Path, n: int = 160, name: str = "faces.csv", **columns: list[object]) -> Path:
    """A table of one's own, by default with two groups and one label, and its images."""
    given: dict[str, object] = {"file": [f"images/{i}.jpg" for i in range(n)], "Male": [i % 2 for i in range(n)]}
    given |= {"Smiling": [("no", "yes")[i % 3 > 0] for i in range(n)]}
    given |= columns
    put(root / name, pd.DataFrame(given).to_csv(index=False))
    for i in range(n):
        put(root / "images" / f"{i}.jpg", picture(i))
    return root


def opened(root: Path, data: str = "table", **given: object):
    return open_dataset(Data(data=data, data_root=str(root), **given))


# ------------------------------------------------------------------ known layouts


def test_mask_hq_follows_celebas_splits_through_the_mapping(tmp_path):
    faces = opened(make_mask_hq(tmp_path), "celebamask_hq")
    assert faces.label_names == ("Smiling", "Young")
    assert faces.split.tolist() == [2] * 12 + [1] * 12 + [0] * 24  # the mapping runs backwards
    assert faces.group[:4].tolist() == [1, 0, 1, 0]
    (tmp_path / "list_eval_partition.txt").unlink()
    assert "dealt anew" in opened(tmp_path, "celebamask_hq").told[0]


def test_fairface_makes_its_validation_the_test(tmp_path):
    faces = opened(make_fairface(tmp_path), "fairface", sensitive="race")
    assert faces.group_names == tuple(sorted(RACES))
    assert len(faces.rows("test")) == 70
    dealt = deal([f"train/{i}.jpg" for i in range(1, 211)], (85, 100))
    assert faces.split[:210].tolist() == dealt.tolist()
    assert len(faces.rows("valid")) == int((dealt == 1).sum())
    assert "70 validation images are the test" in faces.told[0]
    assert faces.label_names[:5] == ("age=0-2", "age=3-9", "age=10-19", "age=20-29", "age=more than 70")
    assert faces.label_names[5:] == ("gender=Male", "service_test")
    assert faces.group_names[faces.group[1]] == RACES[2]


def test_utkface_names_broken_files_and_counts_them(tmp_path):
    faces = opened(make_utkface(tmp_path), "utkface", sensitive="gender", bins={"age": [0, 30, 60]})
    assert len(faces) == 202
    assert faces.group_names == ("Female", "Male")
    assert "2 names lack a field" in faces.told[0]
    assert "61_1_20170109142408075.jpg.chip.jpg" in faces.told[0]
    assert faces.label_names[:3] == ("age=0 to 30", "age=30 to 60", "age=60 and more")
    at = faces.images.names.index("UTKFace/55_0_0_20170116232725357jpg.chip.jpg")
    assert (faces.labels[at][1], faces.group_names[faces.group[at]]) == (True, "Male")


def test_lfw_takes_scores_above_0_for_yes_and_deals_people(tmp_path):
    faces = opened(make_lfw(tmp_path), "lfw")
    assert faces.label_names == ("Asian", "Black Hair", "Smiling")
    assert faces.group[:4].tolist() == [0, 0, 1, 1]
    assert faces.person is not None
    for person in faces.person.unique():
        assert len(faces.split[faces.person == person].unique()) == 1


def test_the_hubs_parquet_holds_the_images(tmp_path):
    faces = opened(make_hub(tmp_path))
    assert [len(faces.rows(split)) for split in ("train", "valid", "test")] == [96, 48, 48]
    assert faces.label_names == ("Smiling", "Young")
    expected = upright(picture(117))
    assert torch.equal(faces.images[117], expected)
    assert faces.person is not None
    assert faces.person[:4].tolist() == [0, 0, 0, 1]
    assert decode_images(faces.images, 24, tmp_path / "cache").shape == (192, 28, 24, 3)


@pytest.mark.parametrize(
    ("make", "name"),
    [(make_mask_hq, "celebamask_hq"), (make_fairface, "fairface"), (make_utkface, "utkface"), (make_lfw, "lfw"),
     (make_hub, "table"), (make_table, "table")],
)  # fmt: skip
def test_a_folder_is_known_by_its_files(tmp_path, make, name):
    assert layout_of(make(tmp_path)) == name
    assert set(LAYOUTS) == set(get_args(Data.model_fields["data"].annotation)) - {"drawn"}


# ------------------------------------------------------------------ tables of one's own


def test_a_table_without_splits_is_dealt_alike_everywhere(tmp_path):
    faces = opened(make_table(tmp_path))
    assert [len(faces.rows(split)) for split in ("train", "valid", "test")] == [103, 35, 22]
    assert faces.split[:12].tolist() == [0, 0, 1, 0, 1, 2, 0, 0, 1, 0, 0, 0]
    assert "70, 15 and 15 in 100" in faces.told[0]
    assert faces.label_names == ("Smiling",)


@pytest.mark.parametrize(
    "words", [("train", "valid", "test"), ("0", "1", "2"), ("Training", "val", "Test"), (0.0, 1.0, 2.0)]
)
def test_splits_are_words_or_numbers(tmp_path, words):
    faces = opened(make_table(tmp_path, partition=[words[i // 2 % 3] for i in range(160)]))
    assert faces.split[:8].tolist() == [0, 0, 1, 1, 2, 2, 0, 0]


@pytest.mark.parametrize(
    ("yes", "no"), [("1", "-1"), ("1", "0"), ("True", "False"), ("yes", "No"), ("1.0", "0.0"), ("T", "F")]
)
def test_yes_and_no_have_many_forms(tmp_path, yes, no):
    faces = opened(make_table(tmp_path, Smiling=[(no, yes)[i % 3 == 0] for i in range(160)]))
    assert faces.labels[:4, 0].tolist() == [True, False, False, True]


def test_numbers_become_labels_by_a_threshold(tmp_path):
    make_table(tmp_path, Bald=[round(0.01 * i - 0.5, 2) for i in range(160)])
    assert "Bald is not taken for a label" in opened(tmp_path).told[-1]
    faces = opened(tmp_path, targets=["Bald>0.5"])
    assert faces.label_names == ("Bald>0.5",)
    assert faces.labels[:, 0].tolist() == [i > 100 for i in range(160)]
    assert opened(tmp_path, targets=["Bald>0", "Bald>0.5"]).label_names == ("Bald>0", "Bald>0.5")
    with pytest.raises(ValueError, match=r"Bald cannot be a label: it holds numbers: .*\(Bald>0\)"):
        opened(tmp_path, targets=["Bald"])
    with pytest.raises(ValueError, match=r"Smiling>0: Smiling holds words \(no, yes\)"):
        opened(tmp_path, targets=["Smiling>0"])


def test_words_become_a_label_a_value_or_groups(tmp_path):
    make_table(tmp_path, race=[("b", "a", "c")[i % 3] for i in range(160)])
    faces = opened(tmp_path, targets=["race"])
    assert faces.label_names == ("race=a", "race=b", "race=c")
    assert faces.labels[:3].tolist() == [[False, True, False], [True, False, False], [False, False, True]]
    assert opened(tmp_path, sensitive="race").group[:3].tolist() == [1, 0, 2]


def test_missing_values_are_told_and_one_says_what_happens(tmp_path):
    make_table(tmp_path, Smiling=[("", "yes", "no", "NA")[i % 4] for i in range(160)])
    with pytest.raises(ValueError, match=r"faces.csv: 80 values of labels \(Smiling\) are missing, first in line 2"):
        opened(tmp_path)
    faces = opened(tmp_path, missing="drop")
    assert len(faces) == 80
    assert "these 80 images are left out" in faces.told[-1]
    assert torch.equal(faces.images[0], opened(tmp_path, missing="negative").images[1])
    assert opened(tmp_path, missing="negative").labels[:4, 0].tolist() == [False, True, False, False]


def test_people_without_a_group_are_left_out_and_counted(tmp_path):
    make_table(tmp_path, Male=[("", "1", "0", "1", "0")[i % 5] for i in range(160)])
    with pytest.raises(ValueError, match="the group of 32 images is missing, first in line 2, Male"):
        opened(tmp_path)
    assert len(opened(tmp_path, missing="negative")) == 128


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "\ufeff" + text,
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.replace(",", ";"),
        lambda text: text.replace(",", "\t"),
        lambda text: text.replace(",", " , "),
        lambda text: "\n\n" + text.replace("\n", "\n\n"),
        lambda text: "\n".join(",".join(f'"{word}"' for word in line.split(",")) for line in text.splitlines()) + "\n",
        lambda text: "\n".join(f"{i - 1 if i else ''},{line}" for i, line in enumerate(text.splitlines())),
    ],
    ids=["byte order mark", "CRLF", "semicolons", "tabs", "padded", "blank lines", "quotes", "row numbers"],
)
def test_blemishes_of_files_change_nothing(tmp_path, change):
    make_table(tmp_path)
    before = opened(tmp_path)
    put(tmp_path / "faces.csv", change((tmp_path / "faces.csv").read_text()))
    assert opened(tmp_path).fingerprint() == before.fingerprint()


def test_images_are_found_in_zips_and_by_other_endings(tmp_path):
    make_table(tmp_path)
    before = opened(tmp_path)
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.writestr("__MACOSX/deep/images/._0.jpg", b"nothing")
        archive.writestr("readme.txt", b"words")
        for i in range(160):
            archive.writestr(f"deep\\images\\{i}.JPEG", picture(i))
    expected = [before.images[i] for i in (0, 7, 159)]
    shutil.rmtree(tmp_path / "images")
    assert all(torch.equal(opened(tmp_path).images[i], image) for i, image in zip((0, 7, 159), expected, strict=True))


@pytest.mark.parametrize("mode", ["L", "CMYK", "RGBA", "P", "I;16"])
def test_every_pixel_format_is_shown_as_a_viewer_shows_it(tmp_path, mode):
    make_table(tmp_path, n=160)
    grey = Image.fromarray(np.arange(28 * 24, dtype=np.uint16).reshape(28, 24) * 97) if mode == "I;16" else None
    file = io.BytesIO()
    image = grey or Image.new("RGB", (24, 28), (204, 204, 204)).convert(mode)
    image.save(file, "TIFF")
    (tmp_path / "images" / "3.jpg").unlink()
    put(tmp_path / "images" / "3.tif", file.getvalue())
    seen = opened(tmp_path).images[3]
    expected = (np.arange(672).reshape(28, 24) * 97 / 257).round() if grey else np.full((28, 24), 204)
    assert np.abs(seen[0].numpy().astype(int) - expected).max() <= 1
    assert torch.equal(seen[0], seen[2])


def test_transparent_pictures_lie_on_white_and_numbers_that_are_no_grey_are_refused(tmp_path):
    make_table(tmp_path)
    before = (tmp_path / "images" / "3.jpg").read_bytes()
    (tmp_path / "images" / "3.jpg").unlink()
    Image.new("RGBA", (24, 28), (200, 0, 0, 0)).save(tmp_path / "images" / "3.png")
    assert int(opened(tmp_path).images[3].min()) == 255
    (tmp_path / "images" / "3.png").unlink()
    Image.fromarray(np.full((28, 24), 0.5, dtype=np.float32)).save(tmp_path / "images" / "3.tiff")
    with pytest.raises(ValueError, match=r"grey values from 0.5 to 0.5 in mode F"):
        opened(tmp_path).images[3]
    (tmp_path / "images" / "3.tiff").unlink()
    put(tmp_path / "images" / "3.jpg", before[: len(before) // 2])
    with pytest.raises(ValueError, match=r"1 of 160 images cannot be decoded: images/3.jpg"):
        decode_images(opened(tmp_path).images, 24, tmp_path / "cache")


def test_pictures_are_turned_upright_and_links_and_accents_followed(tmp_path):
    make_table(tmp_path)
    note = Image.Exif()
    note[0x0112] = 6  # turn by 90 degrees to see it upright
    shown = Image.fromarray(np.repeat(np.arange(28, dtype=np.uint8)[:, None] * 9, 24, axis=1))
    shown.rotate(90, expand=True).save(tmp_path / "images" / "3.jpg", exif=note, quality=95)
    (tmp_path / "elsewhere").mkdir()
    shutil.move(tmp_path / "images" / "4.jpg", tmp_path / "elsewhere" / "4.jpg")
    (tmp_path / "images" / "4.jpg").symlink_to(tmp_path / "elsewhere" / "4.jpg")
    (tmp_path / "images" / "again").symlink_to(tmp_path)  # a link to a folder above
    (tmp_path / "images" / "5.jpg").rename(tmp_path / "images" / unicodedata.normalize("NFD", "fünf sehr gut.jpg"))
    text = (tmp_path / "faces.csv").read_text()
    put(tmp_path / "faces.csv", text.replace("images/5.jpg", unicodedata.normalize("NFC", "images/fünf sehr gut.jpg")))
    faces = opened(tmp_path)
    assert np.abs(faces.images[3][0].numpy().astype(int) - np.asarray(shown)).max() <= 4
    assert torch.equal(faces.images[4], upright(picture(4)))
    assert torch.equal(faces.images[5], upright(picture(5)))


def test_a_parquet_without_the_column_is_refused(tmp_path):
    make_hub(tmp_path)
    with pytest.raises(ValueError, match=r"train-00000-of-00001.parquet, image: unknown column 'picture'"):
        opened(tmp_path, image="picture")
    with pytest.raises(ValueError, match=r"person: unknown column 'celebid': did you mean 'celeb_id'"):
        opened(tmp_path, person="celebid")
    put(tmp_path / "data" / "test-00000-of-00001.parquet", b"PAR1 cut short")
    with pytest.raises(ValueError, match=r"test-00000-of-00001.parquet is no whole Parquet file"):
        opened(tmp_path)


def test_celebas_files_may_have_changed_their_separators(tmp_path):
    before = opened(make_celeba(tmp_path), "celeba")
    official = (tmp_path / "list_attr_celeba.txt").read_text()
    lines = [line.split() for line in official.splitlines()[1:]]
    put(tmp_path / "list_attr_celeba.txt", "\n".join(",".join(line) for line in [["image_id", *lines[0]], *lines[1:]]))
    assert opened(tmp_path, "celeba").fingerprint() == before.fingerprint()
    put(tmp_path / "list_attr_celeba.txt", "\n".join(official.splitlines()[1:]))  # without the number of rows
    assert opened(tmp_path, "celeba").fingerprint() == before.fingerprint()
    (tmp_path / "list_attr_celeba.txt").write_bytes(official.replace("Bald", "Kähl").encode("latin-1"))
    with pytest.raises(ValueError, match=r"list_attr_celeba.txt, line 2: neither UTF-8 nor UTF-16: save the table in UTF-8"):
        opened(tmp_path, "celeba")


# ------------------------------------------------------------------ groups


def test_two_attributes_make_their_product_in_order(tmp_path):
    make_table(tmp_path, Young=[i // 2 % 2 for i in range(160)])
    faces = opened(tmp_path, sensitive=["Male", "Young"])
    assert faces.group_names == ("female, not Young", "female, Young", "male, not Young", "male, Young")
    assert faces.group[:4].tolist() == [0, 2, 1, 3]
    assert faces.sensitive == "Male and Young"
    swapped = opened(tmp_path, sensitive="[Young, Male]")  # as -p and papermill hand it over
    assert swapped.group_names[1] == "not Young, male"
    assert opened(tmp_path, sensitive=["Male"]).fingerprint() == opened(tmp_path).fingerprint()


def test_numbers_are_binned_and_groups_joined(tmp_path):
    make_table(tmp_path, age=[i % 90 for i in range(160)], race=[("b", "a", "c")[i % 3] for i in range(160)])
    faces = opened(tmp_path, sensitive="age", bins={"age": [0, 30, 60]}, targets=["Smiling"])
    assert faces.group_names == ("0 to 30", "30 to 60", "60 and more")
    assert faces.group[[0, 29, 30, 59, 60, 89]].tolist() == [0, 0, 1, 1, 2, 2]
    joined = opened(tmp_path, sensitive=["race", "Male"], merge={"a or c": ["a", "c"]}, targets=["Smiling"])
    assert joined.group_names == ("a or c, female", "a or c, male", "b, female", "b, male")
    with pytest.raises(ValueError, match="merge: unknown group 'd'"):
        opened(tmp_path, sensitive="race", merge={"x": ["a", "d"]})


def test_small_groups_are_left_out_by_a_rule_that_is_told(tmp_path):
    make_table(tmp_path, race=["rare" if i % 40 == 0 else "ab"[i % 2] for i in range(160)])
    with pytest.raises(ValueError, match=r"no image of the group 'rare' is in .*min_images, or join some by merge"):
        opened(tmp_path, sensitive="race")
    faces = opened(tmp_path, sensitive="race", min_images=5)
    assert faces.group_names == ("a", "b")
    assert len(faces) == 156
    assert "'rare' has 0 images in test, fewer than min_images=5: its 4 images are left out" in faces.told[-1]


# ------------------------------------------------------------------ mistakes


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"sensitive": "Mael"}, "unknown attribute 'Mael': did you mean 'Male'"),
        ({"targets": ["Smilin"]}, "did you mean 'Smiling'"),
        ({"targets": ["Male"]}, "'Male' is sensitive: it cannot also be a target"),
        ({"split": "partitoin"}, "faces.csv, split: unknown column 'partitoin'"),
        ({"table": "../faces.csv"}, "leaves data_root"),
        ({"table": "other.csv"}, "no table other.csv"),
        ({"bins": {"Smiling": [0, 1]}}, "bins: Smiling holds words"),
        ({"bins": {"Smiling": [1, 0]}}, "each above the one before"),
        ({"sensitive": ["Male", "Male"]}, "must name each attribute once"),
    ],
)
def test_mistaken_parameters_get_a_line(tmp_path, given, message):
    make_table(tmp_path)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
        opened(tmp_path, **given)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace("yes", "maybe", 1), "line 3, Smiling: 'maybe' is none of 1, -1, 0, yes, no"),
        (lambda text: text + "images/7.jpg,0,no\n", r"lines 9 and 162: two rows for the image images/7.jpg disagree"),
        (lambda text: text.replace("images/5.jpg", "../5.jpg"), "leaves the dataset's folder"),
        (
            lambda text: text.replace("images/5.jpg", "images/500.jpg"),
            r"1 of 160 images are missing .*: images/500.jpg",
        ),
        (
            lambda text: text.replace("file,", "bild,", 1),
            r"no column of images .* among bild, Male, Smiling: name one",
        ),
        (lambda text: text.split("\n", 1)[1], "is its first line missing"),
        (lambda text: text.replace("Smiling", "Male", 1), "names the column 'Male' twice"),
        (lambda text: text.replace("images/3.jpg,1", "images/3.jpg,1,1"), "line 5: 4 values for 3 columns"),
    ],
)
def test_mistakes_in_a_table_are_named_with_their_line(tmp_path, change, message):
    make_table(tmp_path)
    put(tmp_path / "faces.csv", change((tmp_path / "faces.csv").read_text()))
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        opened(tmp_path)


def test_a_row_that_repeats_an_image_is_told(tmp_path):
    make_table(tmp_path)
    put(tmp_path / "faces.csv", (tmp_path / "faces.csv").read_text() + "images/7.jpg,1,yes\n")
    faces = opened(tmp_path)
    assert len(faces) == 160
    assert faces.told[0] == "1 rows of faces.csv repeat an image and are left out"
    put(tmp_path / "images" / "more.jpg", picture(0))
    assert "1 images are there and in no row of faces.csv: images/more.jpg" in opened(tmp_path).told


# ------------------------------------------------------------------ any table

DAMAGE = ['"', ",", "\n", "\r", "\0", "\ufeff", ";", "\t", "../", "-", "x.jpg"]
WORD = st.text(st.characters(blacklist_categories=("Cs", "Cc", "Zl", "Zp")), min_size=1, max_size=8).map(str.strip)


@settings(max_examples=150, deadline=None)
@given(
    names=st.lists(WORD.filter(bool), min_size=1, max_size=4, unique=True),
    rows=st.lists(st.lists(WORD, min_size=4, max_size=4), min_size=1, max_size=5), separator=st.sampled_from(",;\t|"),
    quoting=st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL]),
)  # fmt: skip
def test_any_table_is_read_as_it_was_written(tmp_path_factory, names, rows, separator, quoting):
    header = ["the image", *(name for name in names if name != "the image" and not name.startswith("Unnamed: "))]
    written = [[f"{i}.jpg", *row[: len(header) - 1]] for i, row in enumerate(rows)]
    path = tmp_path_factory.getbasetemp() / "any.csv"
    with path.open("w", newline="") as file:
        csv.writer(file, delimiter=separator, quoting=quoting).writerows([header, *written])
    read = read_table(path, separator)
    assert list(read) == header
    assert [[str(word).strip() for word in row] for row in read.to_numpy().tolist()] == written


@settings(max_examples=150, deadline=None)
@given(place=st.floats(0, 1), length=st.integers(0, 3), put_in=st.one_of(st.text(max_size=3), st.sampled_from(DAMAGE)))
def test_a_damaged_table_is_read_or_refused_in_a_line(tmp_path_factory, place, length, put_in):
    root = tmp_path_factory.getbasetemp() / "damaged"
    if not root.exists():
        make_table(root)
        shutil.copy(root / "faces.csv", root / "whole.txt")
    text = (root / "whole.txt").read_text()
    at = int(place * len(text))
    (root / "faces.csv").write_bytes((text[:at] + put_in + text[at + length :]).encode(errors="surrogatepass"))
    try:
        faces = opened(root)
    except (ValueError, FileNotFoundError) as error:
        assert "\n" not in str(error)  # noqa: PT017
    else:
        assert len(faces) == 160 or any("in no row" in line for line in faces.told)
