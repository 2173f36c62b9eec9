"""Names of labels and groups in every table, figure and page: shown as they are, and never run."""

from __future__ import annotations

import csv
import functools
import io
import json
import os
import re
import shutil
import subprocess
import sys
import unicodedata
import warnings
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import pytest
import torch
import yaml
from hypothesis import example
from hypothesis import strategies as st

from fairnb import tables as results
from fairnb.book import overview, plots
from fairnb.book.explorer import COLUMNS, candidates, explorer, frame, page
from fairnb.book.tables import readable, shown
from fairnb.data import Data, open_dataset
from fairnb.export.card import table as card_table
from fairnb.export.card import text as card_text
from fairnb.features import Features
from fairnb.methods import Problem
from fairnb.methods.multi_task import multi_task
from fairnb.methods.thresholds import label_thresholds
from fairnb.run.files import save_table
from fairnb.run.parameters import Parameters, Settings, Swarm
from fairnb.yours import assess
from tests.conftest import make_celeba
from tests.fuzz import folder, fuzzed
from tests.fuzz.names import NAMES, OWN

ROOT = Path(__file__).parents[2]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ALIKE = functools.partial(unicodedata.normalize, "NFKC")
NAME = st.one_of(st.sampled_from(NAMES), st.text(max_size=12), st.text("<>/scriptp$`*_|[](){}\\'\"&;#!-% ", max_size=20))


def seen(text: object) -> str:
    """A text as a reader sees it: white space is one blank, as in HTML, and `_` too, as this project shows names."""
    return " ".join(readable(str(text)).split())


class Cells(HTMLParser):
    """The text of each cell of the tables of a page, and the names of all its tags."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.cells, self.tags, self.inside = list[str](), set[str](), False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.add(tag)
        if tag in ("td", "th"):
            self.cells.append("")
            self.inside = True

    def handle_endtag(self, tag: str) -> None:
        self.inside &= tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.cells[-1] += data


@fuzzed(40, 200, names=st.lists(NAME, min_size=2, max_size=4, unique_by=ALIKE))
@example(names=NAMES)
def test_a_table_shows_names_as_they_are(names):
    names = [re.sub(r"[\0-\x08\x0e-\x1f\ud800-\udfff]", "", name) for name in names]  # no page may hold these
    table = pd.DataFrame([[*names, 0.5]] * 2, columns=[*names, "uei"])
    cells = Cells(shown(table).to_html())
    assert [seen(cell) for cell in cells.cells[len(names) + 1 :]] == [*map(seen, names), "0.500"] * 2
    assert cells.tags <= {"style", "table", "thead", "tbody", "tr", "th", "td", "span"}


@fuzzed(60, 1500, name=NAME)
@example(name="&lt;b&gt;")
def test_markdown_has_no_markup_of_a_name(name):
    """As Jupyter Book's own reader of Markdown sees the table of a model card."""
    markdown = pytest.importorskip("markdown_it").MarkdownIt("commonmark").enable(["table", "strikethrough"])
    name = "".join(letter for letter in name if letter.isprintable())
    page = markdown.render(f"{card_table(['label', 'n'], [[name, 1]])}\n\nThe groups are {card_text(name)}.\n")
    assert [seen(cell) for cell in Cells(page).cells] == ["label", "n", seen(name), "1"]
    assert Cells(page).tags <= {"table", "thead", "tbody", "tr", "th", "td", "p"}


@fuzzed(60, 250, names=st.lists(NAME.filter(bool), min_size=1, max_size=4, unique=True))
@example(names=OWN)
def test_a_table_of_results_comes_back(names):
    names = [re.sub("[\r\0]", "", name.encode(errors="ignore").decode()) or "a" for name in names]  # as readers give them
    counts = torch.ones(len(names), 2, 2, 2, dtype=torch.int64)
    rows = results.group_rows("base", {"test": counts}, names, ("a,b", names[0]))
    with folder() as here:
        save_table(here / "groups.csv", rows)
        again = results.read(here / "groups.csv")
    assert again.label.tolist() == rows.label.tolist()
    assert again.group.tolist() == rows.group.tolist()
    assert again.us.tolist() == rows.us.tolist()


@fuzzed(100, 2500, name=NAME)
@example(name="A$B$C")
@example(name="a\\$b$")
@example(name="_")
def test_a_figure_draws_a_name_as_text(name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        drawn = plots.words(name)
    assert drawn.strip()
    assert not drawn.startswith("_")  # matplotlib leaves such names out of a legend
    assert "\n" not in drawn
    assert len(drawn.replace("\\$", "$")) <= plots.LONGEST
    text = plt.Text(0, 0, drawn)
    assert text._preprocess_math(drawn)[1] is False  # type: ignore[attr-defined]


def answered(labels, groups):
    """An explorer's table of these names."""
    draw = torch.Generator().manual_seed(0)

    def split(images):
        x = torch.randn(images, 5, generator=draw)
        truth = torch.rand(images, len(labels), generator=draw) < 0.5
        return Features(x, truth, torch.arange(images) % len(groups), len(groups))

    features = {"valid": split(20 * len(groups)), "test": split(20 * len(groups))}
    heads, searched = torch.randn(len(labels), 6, generator=draw), torch.ones(len(labels), dtype=torch.bool)
    problem = Problem(features["valid"], heads, searched)
    search = multi_task(problem, Swarm(particles=4, iterations=1), Settings())
    faces: Any = SimpleNamespace(label_names=labels, group_names=groups)
    return candidates(search, label_thresholds(problem).heads.last, features, heads, searched, faces)


def test_the_explorers_script_holds_names_as_strings(monkeypatch):
    monkeypatch.setattr("vl_convert.javascript_bundle", lambda **_: "")  # Vega itself takes seconds
    chart = explorer(answered(NAMES, OWN), Parameters())
    text = page(chart)
    begin = re.search(r"spec = (?=\{)", text).end()  # type: ignore[union-attr]
    spec, end = json.JSONDecoder().raw_decode(text, begin)
    assert "<" not in text[begin:end]
    datasets = [row for data in spec["datasets"].values() for row in data]
    assert {row["label"] for row in datasets if "label" in row} == set(map(readable, NAMES))
    assert [row["group"] for row in datasets if "group" in row] == list(map(readable, OWN))


def test_names_that_look_alike_stay_two():
    assert set(answered(["A_B", "A B"], ["a", "b"]).label) == {"A_B", "A B"}
    assert list(answered(["A"], ["accuracy", "b"]).columns[COLUMNS:]) == ["accuracy", "b"]


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api")
    if not CHROMIUM:
        pytest.skip("there is no Chromium: apt-get install chromium")
    with api.sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])


class Opened:
    """A page in Chromium, and whatever it did that it should not."""

    def __init__(self, browser, path):
        self.page, self.wrong = browser.new_page(), list[str]()
        self.page.on("dialog", lambda dialog: self.wrong.append(dialog.message) or dialog.dismiss())  # type: ignore[func-returns-value]
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on(
            "request", lambda request: self.wrong.extend([request.url] * (not request.url.startswith(("file:", "data:"))))
        )
        self.page.goto(path.as_uri(), wait_until="load")
        self.page.wait_for_timeout(300)

    def calm(self) -> bool:
        pwned = any(frame.evaluate("window.pwned !== undefined") for frame in self.page.frames)
        return not pwned and not self.wrong

    def cells(self) -> set[str]:
        return {seen(text) for text in self.page.locator("td, th").all_text_contents()}


@pytest.mark.slow
def test_the_explorer_runs_no_name_and_draws_every_group(browser, tmp_path):
    labels, groups = NAMES, ["accuracy", "a.b", "</script><script>window.pwned = 1</script>", "日本語", "A$B$C"]
    (file := tmp_path / "explorer.html").write_text(frame(answered(labels, groups), Parameters()), encoding="utf-8")
    opened = Opened(browser, file)
    inside = opened.page.frames[1]
    inside.wait_for_selector("select")
    assert {seen(option) for option in inside.locator("select option").all_text_contents()} == {
        seen(name) for name in labels
    }
    for label in (labels[0], "accuracy"):
        inside.locator("select").select_option(label)
        inside.wait_for_timeout(100)
        bars = inside.locator("[aria-roledescription=bar][aria-label*='US on test'], [aria-label*='US on test']")
        said = " ".join(unescape(bar.get_attribute("aria-label")) for bar in bars.all())
        assert all(f"group: {group.replace('_', ' ')}; shown" in said for group in groups)
    bars.first.hover(force=True)
    assert opened.calm(), opened.wrong


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """A small dataset whose labels and groups have such names, as a table of one's own."""
    root = tmp_path_factory.mktemp("hostile")
    make_celeba(root / "plain")
    labels = [name for name in NAMES if name == name.strip() and name not in ("split", "two\nlines")]
    rows = [["image", "split", "who", *labels]]
    draw = torch.Generator().manual_seed(0)
    for i, file in enumerate(sorted((root / "plain" / "img_align_celeba").iterdir())):
        values = (torch.rand(len(labels), generator=draw) < 0.5).int().tolist()
        rows.append([file.name, ("train", "valid", "test")[i % 3], GROUPS[i // 3 % len(GROUPS)], *values])
    shutil.move(root / "plain" / "img_align_celeba", root / "data" / "images")
    csv.writer(text := io.StringIO()).writerows(rows)
    (root / "data" / "faces.csv").write_text(text.getvalue(), encoding="utf-8")
    return root / "data", labels


GROUPS = ["label", "</script><script>window.pwned = 1</script>", "A$B$C", "日本語"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:no font here")
def test_pages_of_one_file_run_no_name(browser, hostile, tmp_path):
    root, labels = hostile
    data = Data(data="table", data_root=str(root), sensitive="who", min_positives=1)
    faces = open_dataset(data)
    assert list(faces.label_names) == labels
    overview.save_page(tmp_path / "data.html", data, faces)
    truth = pd.DataFrame(faces.labels.numpy().astype(int), columns=labels)
    group = pd.DataFrame({"<i>who</i>": [faces.group_names[code] for code in faces.group.tolist()]})
    found = assess(truth, truth.sample(frac=1, random_state=0).reset_index(drop=True), group, draws=20)
    found.to_html(tmp_path / "report.html", title="<script>window.pwned = 1</script>")
    for name in ("data.html", "report.html"):
        opened = Opened(browser, tmp_path / name)
        assert opened.calm(), (name, opened.wrong)
        assert {seen(one) for one in (*labels, *GROUPS)} <= opened.cells()


@pytest.mark.soak
def test_chapters_and_their_pages_run_no_name(browser, hostile, tmp_path):
    """Some chapters on such data, executed and rendered by Jupyter Book as the book is."""
    root, labels = hostile
    run = f"hostile-{os.getpid()}"
    given = {
        "data": "table", "data_root": root, "sensitive": "who", "min_positives": 1, "backbone": "shufflenet_v2_x0_5",
        "hidden": 8, "resize": 20, "image_size": 16, "epochs": 1, "particles": 4, "iterations": 1,
    }  # fmt: skip
    words = [word for name, value in given.items() for word in ("-p", f"{name}={value}")]
    try:
        command = [sys.executable, "-m", "fairnb.cli", "run", "1", "4", "9", "12", "--run", run, *words]
        subprocess.run(command, cwd=ROOT, check=True)
        shutil.copytree(ROOT / "runs" / run / "chapters", tmp_path / "chapters")
    finally:
        shutil.rmtree(ROOT / "runs" / run, ignore_errors=True)
    pages = sorted(path.stem for path in (tmp_path / "chapters").glob("*.ipynb"))
    shutil.copy(ROOT / "_config.yml", tmp_path)
    (tmp_path / "references.bib").touch()
    (tmp_path / "intro.md").write_text("# Names\n")
    toc = {"format": "jb-book", "root": "intro", "chapters": [{"file": f"chapters/{name}"} for name in pages]}
    (tmp_path / "_toc.yml").write_text(yaml.safe_dump(toc))
    subprocess.run([Path(sys.executable).with_name("jupyter-book"), "build", "-q", tmp_path], check=True)
    for name in pages:
        opened = Opened(browser, tmp_path / "_build" / "html" / "chapters" / f"{name}.html")
        opened.page.wait_for_timeout(2000)  # until MathJax is done
        assert opened.calm(), (name, opened.wrong)
        assert not opened.page.locator("table mjx-container").count()
        if name.startswith("04"):  # its last table has every label
            assert set(map(seen, labels)) <= opened.cells()
