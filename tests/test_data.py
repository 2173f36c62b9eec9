import os

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as F

from fairnb.data import SPLITS, Data, decode_images, download_celeba, open_dataset, read_celeba
from tests.conftest import NAMES, SIZES, make_celeba, names_in


def test_layouts_hold_the_same_dataset(tmp_path):
    folder, zipped, kaggle = (read_celeba(make_celeba(tmp_path / name, name)) for name in ("folder", "zip", "kaggle"))
    for other in (zipped, kaggle):
        assert other.label_names == folder.label_names
        assert torch.equal(other.labels, folder.labels)
        assert torch.equal(other.group, folder.group)
        assert torch.equal(other.split, folder.split)
        assert torch.equal(other.images[7], folder.images[7])


def test_official_drive_and_torchvision_folders_are_found(tmp_path):
    root = make_celeba(tmp_path / "celeba")
    assert len(read_celeba(tmp_path)) == sum(SIZES.values())
    (root / "Anno").mkdir()
    (root / "Eval").mkdir()
    (root / "list_attr_celeba.txt").rename(root / "Anno" / "list_attr_celeba.txt")
    (root / "list_eval_partition.txt").rename(root / "Eval" / "list_eval_partition.txt")
    assert len(read_celeba(root)) == sum(SIZES.values())


def test_columns_come_from_the_header(celeba):
    faces = read_celeba(celeba)
    assert faces.label_names == ("Bald", "Smiling", "Young", "Wearing_Hat")  # the file's order, without Male
    first = (celeba / "list_attr_celeba.txt").read_text().splitlines()[2].split()[1:]
    assert [bool(v) for v in faces.labels[0]] == [v == "1" for n, v in zip(NAMES, first, strict=True) if n != "Male"]
    assert int(faces.group[0]) == (first[1] == "1")
    assert faces.group_names == ("female", "male")


def test_zero_and_one_are_read_as_well(tmp_path):
    root = make_celeba(tmp_path)
    before = read_celeba(root).labels
    path = root / "list_attr_celeba.txt"
    path.write_text(path.read_text().replace("-1", "0"))
    assert torch.equal(read_celeba(root).labels, before)


def test_another_sensitive_attribute_and_chosen_targets(celeba):
    faces = read_celeba(celeba, sensitive="Young", targets=["Wearing_Hat", "Male"])
    assert faces.label_names == ("Male", "Wearing_Hat")
    assert faces.group_names == ("not Young", "Young")


def test_splits_positives_and_prevalence(celeba):
    faces = read_celeba(celeba)
    assert {split: len(faces.rows(split)) for split in SIZES} == SIZES
    rows = faces.rows("test")
    by_hand = sum(bool(faces.labels[i, 0]) and int(faces.group[i]) == 1 for i in rows.tolist())
    assert int(faces.positives("test")[0, 1]) == by_hand
    table = faces.prevalence("test").set_index(["label", "group"])
    assert table.positives["Bald", "male"] == by_hand
    assert table.share["Bald", "male"] == by_hand / int((faces.group[rows] == 1).sum())


def test_analysed_needs_positives_in_every_group_of_both_splits(celeba):
    faces = read_celeba(celeba)
    least = torch.stack([faces.positives("valid"), faces.positives("test")]).amin(dim=(0, 2))
    limit = int(least.median()) + 1
    assert torch.equal(faces.analysed(min_positives=limit), least >= limit)
    assert not faces.analysed(exclude=["Smiling"])[1]
    with pytest.raises(ValueError, match="did you mean 'Smiling'"):
        faces.analysed(exclude=["smilling"])
    with pytest.raises(ValueError, match="no label has 1000 positives"):
        faces.analysed(min_positives=1000)


def test_max_images_takes_the_first_of_each_split(celeba):
    faces, few = read_celeba(celeba), open_dataset(Data(data="celeba", data_root=celeba, max_images=10))
    assert [len(few.rows(split)) for split in SIZES] == [10, 10, 10]
    row = int(faces.rows("test")[3])
    assert torch.equal(few.images[23], faces.images[row])
    assert torch.equal(few.labels[23], faces.labels[row])
    assert few.images.fingerprint() != faces.images.fingerprint()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: (r / "list_eval_partition.txt").unlink(), "list_eval_partition.txt nor list_eval_partition.csv"),
        (
            lambda r: [(r / "img_align_celeba" / f"00000{i}.jpg").unlink() for i in (1, 5)],
            "2 of 192 .*000001.jpg, 000005.jpg",
        ),
        (lambda r: _edit(r / "list_attr_celeba.txt", 4, lambda s: s + " 1"), "line 5: 7 values for 6 columns"),
        (lambda r: _edit(r / "list_attr_celeba.txt", 9, lambda s: s[:-1] + "7"), "line 10, Wearing_Hat: '-?7' is none of"),
        (lambda r: _edit(r / "list_attr_celeba.txt", 0, lambda s: "999"), "says 999 rows and has 192"),
        (
            lambda r: _edit(r / "list_eval_partition.txt", 2, lambda s: "000003.jpg 5"),
            "line 3: expected a split: 0, 1, 2",
        ),
        (lambda r: _edit(r / "list_eval_partition.txt", 2, lambda s: ""), "no split for 1 images: 000003.jpg"),
        (lambda r: _replace(r / "list_eval_partition.txt", ".jpg 2", ".jpg 1"), "split 'test' has no images"),
    ],
)
def test_bad_files_are_named(tmp_path, change, message):
    root = make_celeba(tmp_path)
    change(root)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        read_celeba(root)


def test_bad_arguments_are_named(celeba, tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder"):
        read_celeba(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="did you mean 'Male'"):
        read_celeba(celeba, sensitive="male")
    with pytest.raises(ValueError, match="cannot also be a target"):
        read_celeba(celeba, targets=["Male", "Bald"])
    with pytest.raises(ValueError, match="did you mean 'celeba'"):
        Data(data="celebA", data_root=celeba)
    with pytest.raises(ValueError, match="max_images=-1"):
        Data(data="celeba", data_root=celeba, max_images=-1)
    with pytest.raises(ValueError, match="needs data_root"):
        Data(data="celeba")
    with pytest.raises(FileNotFoundError, match="no folder"):
        open_dataset(Data(data="celeba", data_root="nowhere"), tmp_path)
    (tmp_path / "img_align_celeba.zip").write_bytes(b"PK not a zip")
    for name in ("list_attr_celeba.txt", "list_eval_partition.txt"):
        (tmp_path / name).write_bytes((celeba / name).read_bytes())
    with pytest.raises(ValueError, match="not a whole zip"):
        read_celeba(tmp_path)


def test_decoded_images_are_the_resized_images(celeba, tmp_path):
    faces = read_celeba(celeba)
    pictures = decode_images(faces.images, 18, tmp_path)
    assert pictures.shape == (len(faces), 22, 18, 3)
    assert pictures.dtype == np.uint8
    expected = F.resize(faces.images[50], [22, 18], antialias=True).permute(1, 2, 0).numpy()
    assert np.array_equal(pictures[50], expected)


def test_decoding_happens_once_and_follows_the_images(tmp_path):
    root = make_celeba(tmp_path / "data")
    decode_images(read_celeba(root).images, 18, tmp_path / "cache")
    made = list((tmp_path / "cache").iterdir())
    before = made[0].stat().st_mtime_ns
    decode_images(read_celeba(root).images, 18, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == made
    assert made[0].stat().st_mtime_ns == before
    image = root / "img_align_celeba" / "000001.jpg"
    image.write_bytes((root / "img_align_celeba" / "000002.jpg").read_bytes())
    pictures = decode_images(read_celeba(root).images, 18, tmp_path / "cache")
    assert np.array_equal(pictures[0], pictures[1])


def test_unreadable_images_are_all_counted_and_nothing_is_left(tmp_path):
    root = make_celeba(tmp_path / "data")
    for name, data in {"000004.jpg": b"no picture", "000009.jpg": b""}.items():
        (root / "img_align_celeba" / name).write_bytes(data)
    with pytest.raises(ValueError, match=r"2 of 192 images cannot be decoded: 000004.jpg, 000009.jpg"):
        decode_images(read_celeba(root).images, 18, tmp_path / "cache")
    assert not names_in(tmp_path / "cache")


def test_a_damaged_zip_member_is_counted_too(tmp_path):
    root = make_celeba(tmp_path / "data", "zip")
    path = root / "img_align_celeba.zip"
    data = bytearray(path.read_bytes())
    data[data.index(b"000003.jpg") + 200] ^= 255  # inside the third picture: its checksum no longer fits
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"1 of 192 images cannot be decoded: 000003\.jpg \(damaged in the zip"):
        decode_images(read_celeba(root).images, 18, tmp_path / "cache")


def test_the_fingerprint_follows_annotations(tmp_path):
    root = make_celeba(tmp_path)
    before = read_celeba(root).fingerprint()
    assert read_celeba(root).fingerprint() == before
    assert read_celeba(root, sensitive="Young").fingerprint() != before
    _edit(root / "list_eval_partition.txt", 3, lambda s: s[:-1] + "1")
    moved = read_celeba(root).fingerprint()
    _edit(root / "list_attr_celeba.txt", 5, lambda s: s[:-2].rstrip() + (" 1" if s.endswith("-1") else " -1"))
    assert len({before, moved, read_celeba(root).fingerprint()}) == 3


def test_the_fingerprint_follows_a_picture_of_the_same_size_and_time_and_who_is_shown(tmp_path):
    root = make_celeba(tmp_path)
    before = read_celeba(root).fingerprint()
    picture = root / "img_align_celeba" / "000100.jpg"
    stat, content = picture.stat(), bytearray(picture.read_bytes())
    content[-20] ^= 1
    picture.write_bytes(content)
    os.utime(picture, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    changed = read_celeba(root).fingerprint()
    (root / "identity_CelebA.txt").write_text("".join(f"{i + 1:06d}.jpg {i // 2}\n" for i in range(192)))
    known = read_celeba(root).fingerprint()
    assert len({before, changed, known}) == 3
    (root / "identity_CelebA.txt").write_text("".join(f"{i + 1:06d}.jpg {i}\n" for i in range(192)))
    assert read_celeba(root).fingerprint() != known


def test_images_of_other_shapes_are_cut_at_their_centre(tmp_path):
    root = make_celeba(tmp_path / "data")
    wide = make_celeba(tmp_path / "wide", height=36, width=80)
    (root / "img_align_celeba" / "000002.jpg").write_bytes((wide / "img_align_celeba" / "000002.jpg").read_bytes())
    assert decode_images(read_celeba(root).images, 18, tmp_path / "cache")[1].shape == (22, 18, 3)


def test_no_room_is_found_before_decoding(celeba, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000})())
    with pytest.raises(OSError, match="GB free; the decoded images take"):
        decode_images(read_celeba(celeba).images, 18, tmp_path)
    assert not names_in(tmp_path)


def test_a_refused_download_says_what_to_do(tmp_path, monkeypatch):
    def refused(*_, **__):
        raise RuntimeError("quota exceeded")

    monkeypatch.setattr("torchvision.datasets.CelebA", refused)
    with pytest.raises(ConnectionError, match=r"quota exceeded[^|]*img_align_celeba\.zip into .*celeba by hand"):
        download_celeba(tmp_path)


def _edit(path, line, change):
    lines = path.read_text().splitlines()
    lines[line] = change(lines[line])
    path.write_text("\n".join(lines) + "\n")


def _replace(path, old, new):
    path.write_text(path.read_text().replace(old, new))


def test_who_is_shown_is_read_where_it_is_written(tmp_path):
    celeba = make_celeba(tmp_path)
    assert read_celeba(celeba).person is None
    names = [line.split()[0] for line in (celeba / "list_attr_celeba.txt").read_text().splitlines()[2:]]
    people = {name: 7 * (place // 3) for place, name in enumerate(names)}
    rows = [f"{name} {people[name]}" for name in reversed(names)]
    (celeba / "identity_CelebA.txt").write_text("\n".join(rows) + "\n")
    faces = read_celeba(celeba)
    assert faces.person is not None
    assert faces.person.tolist() == [people[name] for name in names]
    few = faces.limited(2)
    assert few.person is not None
    assert few.person.tolist() == [faces.person[row] for split in SPLITS for row in faces.rows(split)[:2].tolist()]
    assert faces.fingerprint() == read_celeba(celeba).fingerprint()
    (celeba / "identity_CelebA.txt").write_text("\n".join(rows[:-1]) + "\n")
    with pytest.raises(ValueError, match=r"identity_CelebA.txt has no person for 1 images"):
        read_celeba(celeba)
    (celeba / "identity_CelebA.txt").write_text("000001.jpg\n")
    with pytest.raises(ValueError, match=r"identity_CelebA.txt, line 1: expected an image and a number"):
        read_celeba(celeba)


@pytest.mark.parametrize("place", [6, 8, 12, 60])
def test_a_header_of_the_decoded_array_that_is_damaged_is_made_anew(celeba, tmp_path, place):
    images = read_celeba(celeba).images
    wanted = np.array(decode_images(images, 18, tmp_path))
    (path,) = tmp_path.glob("images-*.npy")
    content = bytearray(path.read_bytes())
    content[place] ^= 255  # of the version, the header's length, its words
    path.write_bytes(content)
    assert np.array_equal(decode_images(images, 18, tmp_path), wanted)
