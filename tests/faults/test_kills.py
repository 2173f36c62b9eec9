"""SIGKILL at random moments: the same command then ends with the results of an undisturbed run, and leaves no litter."""

from __future__ import annotations

import shutil
from pathlib import Path

import nbformat
import pytest

from fairnb.book.chapters import OPENS_RUN
from tests.faults.work import ROOT, chapters, done, few_or_many, kills, places, project, render, search, train

OPEN = "from fairnb.experiment import Experiment\nexperiment = Experiment.open(run)\n"
CHAPTERS = {
    "00_the_drawn_faces": f"{OPEN}experiment.features()['test'].x.sum()",
    "01_search": f"{OPEN}experiment.search('multi-task').picked",
}


@few_or_many(2, 20)
def test_a_training_is_killed(tmp_path, tell, rounds):
    lost = kills(places(tmp_path), train, rounds)
    tell("SIGKILL at a random moment", "fairnb train", went_on=rounds - lost, lost=lost)


@few_or_many(2, 20)
def test_a_search_is_killed(trained, tmp_path, tell, rounds):
    lost = kills(places(tmp_path, trained), search, rounds)
    tell("SIGKILL at a random moment", "searches: dynamic weighting, multi-task", went_on=rounds - lost, lost=lost)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A project with two chapters, the second of which needs the run of the first."""
    root = project(tmp_path_factory.mktemp("written") / "root")
    for name, body in CHAPTERS.items():
        cells = [nbformat.v4.new_markdown_cell("# Title", id="title")]
        parameters = nbformat.v4.new_code_cell("run = 'r'  # name", id="given", metadata={"tags": ["parameters"]})
        cells += [parameters, nbformat.v4.new_code_cell(body, id="body", metadata={"tags": [OPENS_RUN]})]
        page = nbformat.v4.new_notebook(cells=cells)
        page.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
        nbformat.write(page, root / "notebooks" / f"{name}.ipynb")
    return root


@few_or_many(0, 20)
def test_chapters_are_killed(written, tmp_path, tell, rounds):
    """With their kernels."""
    lost = kills(places(tmp_path, written), chapters, rounds)
    tell("SIGKILL at a random moment", "fairnb run: chapters and their kernels", went_on=rounds - lost, lost=lost)


def site(root):
    """The text of every page."""
    html = root / "book" / "_build" / "html"
    return {str(path.relative_to(html)): path.read_text() for path in html.rglob("*.html")}


@few_or_many(0, 20)
def test_rendering_is_killed(written, tmp_path, tell, rounds):
    """A small book on the project's own configuration."""
    root = Path(shutil.copytree(written, tmp_path / "like"))
    done(chapters, root)
    shutil.copy(ROOT / "_config.yml", root)
    shutil.copytree(ROOT / "book" / "_static", root / "book" / "_static")
    shutil.copy(ROOT / "book" / "references.bib", root / "book")
    pages = "\n".join(f"  - file: chapters/{name}" for name in CHAPTERS)
    (root / "book" / "_toc.yml").write_text(f"format: jb-book\nroot: intro\nchapters:\n{pages}\n")
    (root / "book" / "intro.md").write_text("# Book\n\n```{include} chapters/banner.md\n```\n")
    (root / "runs" / "r" / "comparison.png").touch()
    for folder in (root / "runs" / "r", root / "results" / "photographs-again"):
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / "results" / "photographs-again" / "methods.csv", folder)
    lost = kills(places(tmp_path, root), render, rounds, site)
    tell("SIGKILL at a random moment", "rendering of the book", went_on=rounds - lost, lost=lost)
