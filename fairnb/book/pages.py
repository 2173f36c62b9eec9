"""Pages: executed chapters rendered as the book."""

from __future__ import annotations

import os
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

from fairnb.book.api import api_page
from fairnb.book.chapters import ChapterError, chapters, opens_run, read_page
from fairnb.book.tables import of_methods
from fairnb.run.files import load_json, save_table
from fairnb.run.keys import content_key, digest_files
from fairnb.run.parameters import PARTS, describe
from fairnb.tables import read_csv

REPOSITORY = "fairnb/fairnb"  # at GitHub; its notebooks run at Binder and Colab
COLAB = "colab"  # branch of the notebooks' copies that install the package first
DRAWN_PAGE = "00_the_drawn_faces"  # shows drawn faces whatever the run's data
# At the top of a page, by the dataset of its run.
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
# In the introduction, if the run's network is not the paper's.
NOT_RUN = """\
```{admonition} The paper's own setting was not run here
:class: important
No number of this book is of CelebA with a ResNet-50, as in the paper. The images cannot be shipped with a
book, and the training needs a GPU for hours. With both at hand, this runs it:
`make book DATA=data/celeba PARAMS=params/paper.yml`.
```
"""
# First cell of a notebook opened alone, as on Colab; a restarted kernel finds its clone.
INSTALL = f"""\
import importlib.util, os, subprocess, sys

if importlib.util.find_spec("fairnb") is None:
    subprocess.run(["git", "clone", "--depth=1", "https://github.com/{REPOSITORY}"], check=True)
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "./fairnb[book]"], check=True)
if os.path.exists("fairnb/pyproject.toml"):
    os.chdir("fairnb")
"""
# rows of the introduction's table
SUMMARISED = ("base", "dynamic weighting", "multi-task", "label thresholds", "group thresholds", "calibrated multi-task")


def build_book(root: Path, executed: Path, say: Callable[[str], None] = print) -> Path:
    """Render the book from the notebooks in `executed`, `runs/<run>/chapters`; returns the front page.

    Pages are rendered only if one of their sources has changed. Raises ChapterError if Jupyter Book warns, as it prints.
    """
    target, site = root / "book" / "chapters", root / "book" / "_build" / "html"
    shutil.rmtree(target, ignore_errors=True)  # removes pages of an earlier run
    target.mkdir(parents=True)
    run = load_json(executed.parent / "run.json")
    banner = BANNERS.get(run["parameters"]["data"], "")
    for name in chapters(root):
        page = read_page(executed / f"{name}.ipynb")
        describe_figures(page)
        own = BANNERS["drawn"] if name == DRAWN_PAGE else banner if opens_run(page) else ""
        put_below_title(page, about(name, run) + "\n" + own)
        nbformat.write(page, target / f"{name}.ipynb")
    write_colab(root)
    own_setting = [run["parameters"].get(name) for name in ("data", "backbone")] == ["celeba", "resnet50"]
    own_pages = {
        "parameters": parameters_page(),
        "api": api_page(),
        "banner": banner or "% This run's images are photographs.\n",  # the introduction includes it, and the next
        "setting": "% This run's data and network are the paper's.\n" if own_setting else NOT_RUN,
    }
    for name, text in own_pages.items():
        (target / f"{name}.md").write_text(text, encoding="utf-8")
    shutil.copyfile(executed.parent / "comparison.png", target / "comparison.png")  # it also shows this
    save_table(target / "summary.csv", _summary(root, executed.parent))
    sources = [path for path in (root / "book").rglob("*") if "_build" not in path.relative_to(root).parts]
    key = site / ".made_of"
    package = [
        path.read_text(encoding="utf-8") for path in sorted(Path(__file__).parents[1].rglob("*.py"))
    ]  # with docstrings
    shown = sorted((root / "results").glob("*.csv"))  # tables that pages show from there
    made_of = content_key([digest_files(root, [*sources, *shown, root / "_config.yml"]), package])
    if key.exists() and key.read_text(encoding="utf-8") == made_of:
        say("the pages are up to date")
        return site / "index.html"
    say("rendering the book …")
    options = ["--path-output", "book", "--all", "-W", "-n", "--keep-going", "--quiet"]
    key.unlink(missing_ok=True)
    command = [str(Path(sys.executable).with_name("jupyter-book")), "build", "book", *options]
    if subprocess.run(command, cwd=root, env=os.environ | {"PYTHONUTF8": "1"}).returncode:
        raise ChapterError("the book was not rendered: see the warnings above")
    key.write_text(made_of, encoding="utf-8")
    return site / "index.html"


def about(name: str, run: dict[str, Any]) -> str:
    """The line below a page's title: facts of its run, and links that open its notebook."""
    begun, device = datetime.fromisoformat(run["begun"]), run["device"]
    facts = [f"Run of {begun:%d %B %Y}", f"seed {run['parameters']['seed']}", f"{device['type']} ({device['name']})"]
    links = {
        "notebook": f"https://github.com/{REPOSITORY}/blob/main/notebooks/{name}.ipynb",
        "Binder": f"https://mybinder.org/v2/gh/{REPOSITORY}/main?labpath={quote(f'notebooks/{name}.ipynb', safe='')}",
        "Colab": f"https://colab.research.google.com/github/{REPOSITORY}/blob/{COLAB}/{name}.ipynb",
    }
    words = " · ".join([*facts, f"revision {run['git_revision']}", *(f"[{word}]({link})" for word, link in links.items())])
    return f"```{{div}} about\n{words}\n```\n"


def write_colab(root: Path) -> None:
    """Write the notebooks with a first cell that installs the package to `book/_build/colab`, which a workflow publishes."""
    folder = root / "book" / "_build" / "colab"
    folder.mkdir(parents=True, exist_ok=True)
    for name, path in chapters(root).items():
        page = read_page(path)
        page.cells.insert(0, nbformat.v4.new_code_cell(INSTALL, id="install"))
        nbformat.write(page, folder / f"{name}.ipynb")


def parameters_page() -> str:
    """The page "Parameters", from the parameters' declarations."""
    text = [
        "# Parameters",
        "",
        "Every parameter of a run, with the default of the embedded demo: `fairnb run -p name=value`.",
    ]
    for part in PARTS:
        text += ["", f"## {part.__name__}", "", str(part.__doc__), "", "| name | value | default | |", "|---|---|---|---|"]
        text += ["| `{}` | {} | `{}` | {} |".format(name, *describe(name)) for name in part.model_fields]
    return "\n".join(text) + "\n"


def describe_figures(page: nbformat.NotebookNode) -> None:
    """Use the caption of a figure without a description as its alternative text."""
    for cell in page.cells:
        shown = cell.metadata.get("mystnb", {})
        if "caption" in shown.get("figure", {}):
            words = re.sub(r"\{[\w:]+\}`([^`]*)`|[*`$]", r"\1", shown["figure"]["caption"])
            shown.setdefault("image", {}).setdefault("alt", words)


def put_below_title(page: nbformat.NotebookNode, text: str) -> None:
    """Insert text below a page's title, the first line of its first cell."""
    title, _, rest = page.cells[0].source.partition("\n")
    page.cells[0].source = f"{title}\n\n{text}\n{rest}" if text.strip() else page.cells[0].source


def _summary(root: Path, run: Path) -> pd.DataFrame:
    """The introduction's table: results of the main methods, on photographs unused in their development and in this run."""
    sources = {"photographs": root / "results" / "photographs-again", "this run": run}
    every = [of_methods(read_csv(folder / "methods.csv")).assign(data=data) for data, folder in sources.items()]
    for one in every:  # names of methods include another training's
        one["method"] = ["base", *one.method.iloc[1:].str.replace(" after .*", "", regex=True)]
    table = pd.concat([one.set_index("method").loc[list(SUMMARISED)].reset_index() for one in every])
    titles = {"UEI": "mean UEI", "accuracy": "mean accuracy", "worsened": "labels worsened"}
    return table[["data", "method", *titles, "group"]].rename(columns=titles)
