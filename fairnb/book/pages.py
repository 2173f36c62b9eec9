"""Pages: what becomes of executed chapters in the book."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import nbformat
import pandas as pd
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.transforms import SphinxTransform

from fairnb.book.chapters import ChapterError, chapters
from fairnb.book.tables import are_numbers, of_methods
from fairnb.run.files import load_json, save_table
from fairnb.run.keys import content_key, digest_files

REPOSITORY = "fairnb/fairnb"  # at GitHub; its notebooks run at Binder and Colab
SECONDS = 30.0  # that rendering takes, where the chapters' own seconds were measured: two AVX2 cores
DRAWN_PAGE = "00_the_drawn_faces"  # shows drawn faces whatever the run's data
# What a page says at its top, by the dataset that its run used.
BANNERS = {
    "drawn": """\
```{admonition} Drawn faces
:class: warning
Nobody on this page exists. The faces are drawn, and their labels follow the statistics of CelebA's
annotations. The numbers show how the method behaves; none of them is a finding about people. See
{doc}`/chapters/00_the_drawn_faces`.
```
"""
}
# What the introduction says of a run whose network is not the paper's.
NOT_RUN = """\
```{admonition} The paper's own setting was not run here
:class: important
No number of this book is of CelebA with a ResNet-50, which is what the paper reports. The images cannot be shipped with a
book, and the training wants a GPU for hours. With both at hand, this runs it:
`make book DATA=data/celeba PARAMS=params/paper.yml`.
```
"""
# The rows of the introduction's table.
SUMMARISED = ("base", "dynamic weighting", "multi-task", "label thresholds", "group thresholds", "calibrated multi-task")


def build_book(root: Path, executed: Path, say: Callable[[str], None] = print) -> Path:
    """Render the book from executed chapters, warnings as errors; returns the front page.

    Where nothing that a page is made of has changed since the last time, the pages that are there are the book.

    Args:
        root: the checkout.
        executed: folder of the executed notebooks, `runs/<run>/chapters`.
        say: takes a line of progress.

    Raises:
        ChapterError: if Jupyter Book finds something amiss, which it prints.
    """
    target, site = root / "book" / "chapters", root / "book" / "_build" / "html"
    shutil.rmtree(target, ignore_errors=True)  # nothing of an earlier run may stay behind
    target.mkdir(parents=True)
    run = load_json(executed.parent / "run.json")
    banner = BANNERS.get(run["parameters"]["data"], "")
    for name in chapters(root):
        page = nbformat.read(executed / f"{name}.ipynb", as_version=4)
        describe_figures(page)
        own = BANNERS["drawn"] if name == DRAWN_PAGE else banner if _shows_data(page) else ""
        put_below_title(page, about(name, run) + "\n" + own)
        nbformat.write(page, target / f"{name}.ipynb")
    (target / "banner.md").write_text(banner or "% This run's images are photographs.\n")  # the introduction includes it
    own_setting = [run["parameters"].get(name) for name in ("data", "backbone")] == ["celeba", "resnet50"]
    (target / "setting.md").write_text("% This run's data and network are the paper's.\n" if own_setting else NOT_RUN)
    shutil.copyfile(executed.parent / "comparison.png", target / "comparison.png")  # and shows this
    save_table(target / "summary.csv", _summary(root, executed.parent))
    made_of, key = _made_of(root), site / ".made_of"
    if key.exists() and key.read_text() == made_of:
        say("the pages are up to date")
        return site / "index.html"
    say("rendering the book …")
    program = Path(sys.executable).with_name("jupyter-book")
    command = [str(program), "build", "book", "--path-output", "book", "--all", "-W", "-n", "--keep-going", "--quiet"]
    key.unlink(missing_ok=True)
    if subprocess.run(command, cwd=root).returncode:
        raise ChapterError("the book was not rendered: see the warnings above")
    key.write_text(made_of)
    return site / "index.html"


def about(name: str, run: dict[str, Any]) -> str:
    """The line below a page's title: of which run it is, and where its notebook can be run."""
    begun, device = datetime.fromisoformat(run["begun"]), run["device"]
    facts = [
        f"Run of {begun:%d %B %Y}",
        f"seed {run['parameters']['seed']}",
        f"{device['type']} ({device['name']})",
        f"revision {run['git_revision']}",
    ]
    notebook = f"{REPOSITORY}/blob/main/notebooks/{name}.ipynb"
    binder = f"https://mybinder.org/v2/gh/{REPOSITORY}/main?labpath={quote(f'notebooks/{name}.ipynb', safe='')}"
    links = {
        "notebook": f"https://github.com/{notebook}",
        "Binder": binder,
        "Colab": f"https://colab.research.google.com/github/{notebook}",
    }
    words = " · ".join([*facts, *(f"[{word}]({link})" for word, link in links.items())])
    return f"```{{div}} about\n{words}\n```\n"


def describe_figures(page: nbformat.NotebookNode) -> None:
    """Give each figure that has no description of its own its caption, for those who do not see it."""
    for cell in page.cells:
        shown = cell.metadata.get("mystnb", {})
        if "caption" in shown.get("figure", {}):
            words = re.sub(r"\{[\w:]+\}`([^`]*)`|[*`$]", r"\1", shown["figure"]["caption"])
            shown.setdefault("image", {}).setdefault("alt", words)


def put_below_title(page: nbformat.NotebookNode, text: str) -> None:
    """Put a passage between a page's title, the first line of its first cell, and what follows."""
    title, _, rest = page.cells[0].source.partition("\n")
    page.cells[0].source = f"{title}\n\n{text}\n{rest}" if text.strip() else page.cells[0].source


def _shows_data(page: nbformat.NotebookNode) -> bool:
    return any("Experiment(" in cell.source for cell in page.cells)


def _summary(root: Path, run: Path) -> pd.DataFrame:
    """The introduction's table: what the main methods reach, on photographs that none was developed on, and in this run."""
    sources = {"photographs": root / "results" / "photographs-again", "this run": run}
    every = [of_methods(pd.read_csv(folder / "methods.csv")).assign(data=data) for data, folder in sources.items()]
    for one in every:  # a run with another training names its methods after it
        one["method"] = ["base", *one.method.iloc[1:].str.replace(" after .*", "", regex=True)]
    table = pd.concat([one.set_index("method").loc[list(SUMMARISED)].reset_index() for one in every])
    columns = {"data": "data", "method": "method", "UEI": "mean UEI", "accuracy": "mean accuracy"}
    columns |= {"worsened": "labels worsened", "group": "group"}
    return table[list(columns)].rename(columns=columns)


def _made_of(root: Path) -> str:
    """A key to everything that the pages are made of."""
    sources = [path for path in (root / "book").rglob("*") if "_build" not in path.relative_to(root).parts]
    return content_key([digest_files(root, [*sources, root / "_config.yml"]), Path(__file__).read_text()])


# ---------------------------------------------------------------------------- a Sphinx extension, named in _config.yml


class captioned_table(nodes.figure):
    """A notebook's table with its caption: shown like a figure, numbered like a table."""


class NumberTablesAsTables(SphinxTransform):
    """A notebook's captioned output comes as a figure; the ones that are named `tab-…` are tables."""

    default_priority = 800

    def apply(self, **_: object) -> None:
        """Put the other node in their place."""
        for figure in list(self.document.findall(nodes.figure)):
            if any(name.startswith("tab-") for name in figure["names"]):
                table = captioned_table("", *figure.children, **figure.attributes)
                figure.replace_self(table)
                self.document.ids |= dict.fromkeys(table["ids"], table)  # where references look it up


class SetNumbersRight(SphinxTransform):
    """Cells of a column of numbers, below its heading and the heading itself, get the class `number`."""

    default_priority = 800

    def apply(self, **_: object) -> None:
        """Look at every table that is written in a page; a notebook's output is set by `fairnb.tables.shown`."""
        for table in self.document.findall(nodes.table):
            headings = sum(len(head) for head in table.findall(nodes.thead))
            for column in zip(*(row.children for row in table.findall(nodes.row)), strict=False):
                if are_numbers(cell.astext() for cell in column[headings:]):
                    for cell in column:
                        cell["classes"].append("number")


def _without_roles(app: Sphinx, name: str, template: str, context: dict[str, Any], doctree: object) -> None:
    """The bibliography is marked as a list whose entries are no list items, which readers' programs stumble over."""
    if "body" in context:
        context["body"] = context["body"].replace('role="list" class="citation-list"', 'class="citation-list"')


def _one_search(_: Sphinx, config: Config) -> None:
    """The theme has a search beside the contents; another one would fill a bar of its own."""
    config.html_theme_options.setdefault("navbar_persistent", [])


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("config-inited", _one_search)
    app.connect("html-page-context", _without_roles)
    visitors = (lambda self, node: self.visit_figure(node), lambda self, node: self.depart_figure(node))
    app.add_enumerable_node(captioned_table, "table", html=visitors)
    app.add_transform(NumberTablesAsTables)
    app.add_transform(SetNumbersRight)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
