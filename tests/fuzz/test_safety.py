"""Nothing that is read is run as code, and nothing leads out of a dataset's folder."""

from __future__ import annotations

import ast
import functools
import io
import stat
import zipfile
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from hypothesis import example
from hypothesis import strategies as st
from PIL import Image

from fairnb.data.images import ImageFolder, Images, ImageZip
from fairnb.data.layouts import find_images
from tests.fuzz import folder, fuzzed, listing, result_or_line

ROOT = Path(__file__).parents[2]
SOURCES = {
    str(path.relative_to(ROOT)): path.read_text()
    for place in ("fairnb", "scripts", "benchmarks")
    for path in (ROOT / place).rglob("*.py")
}
for notebook in (ROOT / "notebooks").glob("*.ipynb"):
    pages = nbformat.read(notebook, as_version=4)
    SOURCES[notebook.name] = "\n".join(cell.source for cell in pages.cells if cell.cell_type == "code")
RUN = {"eval", "exec", "compile", "__import__"}  # builtins
MODULES = {"pickle", "cPickle", "dill", "joblib", "cloudpickle", "marshal", "shelve"}
UNSAFE = {"unsafe_load", "full_load", "unsafe_load_all", "full_load_all", "read_pickle", "system", "popen"}
LOADERS = {"BaseLoader", "SafeLoader", "CSafeLoader", "CBaseLoader", "_Texts"}  # the last is derived from BaseLoader


def findings(source: str) -> list[str]:
    """Calls and imports by which text of a file could become code."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = {alias.name.split(".")[0] for alias in node.names}
            names |= {(node.module or "").split(".")[0]} if isinstance(node, ast.ImportFrom) else set()
            found += sorted(names & MODULES)
        if not isinstance(node, ast.Call):
            continue
        words, of = ast.unparse(node), node.func
        given = {word.arg: ast.unparse(word.value) for word in node.keywords}
        if isinstance(of, ast.Name) and of.id in RUN:
            found.append(words)
        if not isinstance(of, ast.Attribute):
            continue
        if of.attr in UNSAFE or (of.attr == "eval" and (node.args or node.keywords)) or given.get("shell") == "True":
            found.append(words)
        module = ast.unparse(of.value)
        if module == "yaml" and of.attr in ("load", "load_all"):
            loader = given.get("Loader") or (ast.unparse(node.args[1]) if len(node.args) > 1 else "")
            found += [words] if loader.split(".")[-1] not in LOADERS else []
        if module == "torch" and of.attr == "load" and given.get("weights_only") != "True":
            found.append(words)
        if of.attr == "load" and given.get("allow_pickle", "False") != "False":
            found.append(words)
    return found


def test_no_source_makes_code_of_data():
    assert {name: found for name, source in SOURCES.items() if (found := findings(source))} == {}


def test_what_would_make_code_of_data_is_found():
    for bad in (
        "eval(text)", "exec(text)", "import pickle", "from joblib import load", "yaml.load(text)",
        "yaml.load(f, yaml.Loader)", "yaml.full_load(f)", "torch.load(f)", "torch.load(f, weights_only=False)",
        "np.load(f, allow_pickle=True)",
        "pd.read_pickle(f)", "subprocess.run(x, shell=True)", "frame.eval('a')", "os.system(x)",
    ):  # fmt: skip
        assert findings(bad), bad
    good = "yaml.safe_load(f); yaml.load(f, yaml.BaseLoader); np.load(f); model.eval(); torch.load(f, weights_only=True)"
    assert not findings(good)


PARTS = st.sampled_from(["a", "b", "A", "..", ".", "", "é", "__MACOSX", ".hidden", "C:", "img"])
PLACES = st.builds("".join, st.lists(st.one_of(PARTS, st.sampled_from(["/", "\\", "//", ".jpg", ".png", " "])), max_size=6))


def jpeg(value: int = 0) -> bytes:
    Image.new("RGB", (4, 4), (value,) * 3).save(file := io.BytesIO(), "PNG")
    return file.getvalue()


SECRET = 77
pytestmark = pytest.mark.filterwarnings("ignore")  # Pillow's, of damaged files, and zipfile's, of names that stand twice


@fuzzed(60, 200, names=st.lists(PLACES, min_size=1, max_size=3), members=st.lists(PLACES, max_size=4), links=st.booleans())
@example(names=["../secret.png"], members=["../secret.png"], links=False)
@example(names=["/secret.png"], members=["a.png"], links=False)
@example(names=["a.png"], members=["a.png"], links=True)
@example(names=[""], members=["a"], links=False)
@example(names=["\0"], members=["a"], links=False)
def test_no_name_leads_out_of_a_folder_or_zip(names, members, links):
    """Every image found is one of the folder's or the zip's own, and nothing is written anywhere."""
    with folder() as here:
        (here / "secret.png").write_bytes(jpeg(SECRET))
        (here / "root" / "images").mkdir(parents=True)
        with zipfile.ZipFile(here / "images.zip", "w") as archive:
            for i, member in enumerate(members):
                info = zipfile.ZipInfo(member or "a")
                if links:
                    info.external_attr = (stat.S_IFLNK | 0o777) << 16
                archive.writestr(info, str(here / "secret.png") if links else jpeg(i))
        for i, member in enumerate(members):
            place = here / "root" / "images" / member.replace("/", "_").replace("\0", "_")
            if place.name not in ("", ".", "..") and not place.exists():
                place.write_bytes(jpeg(i))
        before = listing(here)
        for open_it in (lambda: ImageFolder(here / "root" / "images", names), lambda: ImageZip(here / "images.zip", names)):
            images = result_or_line(open_it, "images", *map(repr, names))
            if images is None:
                continue
            for i in range(len(images)):
                pixels = result_or_line(functools.partial(images.__getitem__, i), "image", "cannot", "damaged", "zip")
                assert pixels is None or int(pixels[0, 0, 0]) != SECRET
            assert len(images) == len(names)
            images.fingerprint()
        assert listing(here) == before


FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM")


def damaged(whole: bytes, damage: list[tuple[int, int]], cut: int | None) -> bytes:
    """A file that was cut short, with other bytes in some places."""
    data = bytearray(whole)[:cut]
    for place, value in damage:
        if data:
            data[place % len(data)] = value
    return bytes(data)


DAMAGE = st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 255)), max_size=6)


@fuzzed(60, 700, kind=st.sampled_from(FORMATS), damage=DAMAGE, cut=st.one_of(st.none(), st.integers(0, 600)))
def test_a_damaged_image_is_decoded_or_told(kind, damage, cut):
    pixels = np.arange(20 * 18 * 3, dtype=np.uint8).reshape(20, 18, 3)
    Image.fromarray(pixels).save(file := io.BytesIO(), kind)
    data = damaged(file.getvalue(), damage, cut)
    with folder() as here:
        (here / "a.jpg").write_bytes(data)
        images = ImageFolder(here, ["a.jpg"])
        found = result_or_line(lambda: images[0], "")
        if found is not None:
            assert found.dtype == torch.uint8
            assert found.shape[0] == 3
        elif not damage and cut is None:
            raise AssertionError(f"a whole {kind} is refused")


@fuzzed(40, 300, damage=DAMAGE, cut=st.one_of(st.none(), st.integers(0, 400)))
def test_a_damaged_zip_is_read_or_told(damage, cut):
    with zipfile.ZipFile(file := io.BytesIO(), "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("a.png", "b/c.png"):
            archive.writestr(name, jpeg())
    data = damaged(file.getvalue(), damage, cut)
    with folder() as here:
        (here / "x.zip").write_bytes(data)
        images: Images | None = result_or_line(lambda: find_images(here, ["a.png", "c.png"], ["."]), "x.zip", str(here))
        if images is not None:
            for i in range(2):
                result_or_line(functools.partial(images.__getitem__, i), "")


def test_a_link_in_a_users_own_folder_is_followed():
    """It is theirs: links to images elsewhere save space. A link to a folder above is not followed for ever."""
    with folder() as here:
        (here / "data").mkdir()
        (here / "elsewhere.png").write_bytes(jpeg(5))
        (here / "data" / "a.png").symlink_to(here / "elsewhere.png")
        (here / "data" / "above").symlink_to(here)
        assert int(ImageFolder(here / "data", ["a.png"])[0][0, 0, 0]) == 5
