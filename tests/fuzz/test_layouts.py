"""Small datasets with gaps, doublets and contradictions: every image is there with its labels, or counted, or refused."""

from __future__ import annotations

import re

from hypothesis import strategies as st

from fairnb.data import Data, open_dataset
from tests.fuzz import folder, fuzzed, result_or_line

IMAGES = [f"{i:06d}.jpg" for i in range(1, 13)]
VALUE = st.sampled_from(["1", "-1"] * 8 + ["0", "", "yes", "x", "1.0", "nan", "?", " 1", "2"])
CLEAN = st.sampled_from(["1", "-1"])
LEFT = re.compile(r"(?:these|its) ([\d,]+) images are left out|([\d,]+) rows of .* repeat an image")


@st.composite
def datasets(draw):
    """Rows of attributes, of splits and of people, mostly whole, and how they are written."""
    odd = st.lists(st.sampled_from(["Male", "Bald", "a b", "Male", "", "image", "split"]), min_size=1, max_size=3)
    usual = ["Male", "Bald", "Young"]
    names = draw(st.one_of(st.just(usual), st.just(usual), odd))
    value = draw(st.sampled_from([CLEAN, VALUE]))
    rows = [[image, *(draw(value) for _ in names)] for image in IMAGES]
    for i, row in enumerate(rows):  # so that most have groups in every split
        row[1] = "-1" if i % 2 else "1" if value is CLEAN or row[1] != "x" else row[1]
    splits = [[image, "001122"[i % 6]] for i, image in enumerate(IMAGES)]
    people = [[image, str(i // 2)] for i, image in enumerate(IMAGES)]
    for table in draw(st.lists(st.sampled_from([rows, splits, people]), max_size=1)):
        at, how = draw(st.integers(0, len(table) - 1)), draw(st.sampled_from(["drop", "again", "other", "short", "name"]))
        row = table[at]
        if how == "drop":
            del table[at]
        elif how in ("again", "other"):
            table.append([*row[:-1], row[-1] if how == "again" else "1"])
        else:
            table[at] = (
                row[:-1] if how == "short" else [draw(st.sampled_from(["", "../x.jpg", "7", "000099.jpg"])), *row[1:]]
            )
    return names, rows, splits, people


def write(root, layout, made, count):
    names, rows, splits, people = made
    images = root / "img_align_celeba"
    images.mkdir()
    for name in IMAGES:
        (images / name).touch()
    if layout == "celeba.txt":
        lines = [*([str(len(rows) + count)] if count is not None else []), " ".join(names), *map(" ".join, rows)]
        (root / "list_attr_celeba.txt").write_text("\n".join(lines))
        (root / "list_eval_partition.txt").write_text("\n".join(map(" ".join, splits)))
        (root / "identity_CelebA.txt").write_text("\n".join(map(" ".join, people)))
    elif layout == "celeba.csv":
        (root / "list_attr_celeba.csv").write_text("\n".join(map(",".join, [["image_id", *names], *rows])))
        (root / "list_eval_partition.csv").write_text("\n".join(map(",".join, [["image_id", "partition"], *splits])))
    else:
        split = dict(row for row in splits if len(row) == 2)
        whole = [["image", *names, "split"], *([*row, split.get(row[0], "")] for row in rows)]
        (root / "table.csv").write_text("\n".join(map(",".join, whole)))


@fuzzed(
    60, 150, made=datasets(), layout=st.sampled_from(["celeba.txt", "celeba.csv", "table"]),
    missing=st.sampled_from(["error", "drop", "negative"]), count=st.sampled_from([None, 0, 0, 0, 1]),
    sensitive=st.sampled_from(["Male", "Male", "Bald", ("Male", "Young"), "nobody"]),
)  # fmt: skip
def test_a_dataset_is_whole_or_refused(made, layout, missing, count, sensitive):
    names, rows, *_ = made
    with folder() as root:
        write(root, layout, made, count)
        kind = "table" if layout == "table" else "celeba"
        data = Data(data=kind, data_root=str(root), missing=missing, sensitive=sensitive, min_positives=1)
        files = [
            "list_attr",
            "list_eval",
            "identity",
            "table",
            root.name,
            *names,
            "attribute",
            "split",
            "group",
            "the image",
        ]
        faces = result_or_line(lambda: open_dataset(data), *files)
        if faces is None:
            return
        left = sum(int((match[1] or match[2]).replace(",", "")) for line in faces.told for match in LEFT.finditer(line))
        without = sum("without a group are left out" in line for line in faces.told)
        assert len(faces) + left == len(rows) or without
        values = {row[0].strip(): row[1:] for row in rows if len(row) > 1}
        for i, name in enumerate(faces.images.names):
            for j, label in enumerate(faces.label_names):
                if label in names:
                    word = values[name][names.index(label)].strip()
                    assert bool(faces.labels[i, j]) == (word in ("1", "1.0", "yes")), (name, label, word)
        assert len(set(faces.images.names)) == len(faces)
