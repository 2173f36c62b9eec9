"""SIGKILL at random moments: the same command then ends with the results of an undisturbed run, and leaves no litter."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.faults.work import CHAPTERS, ROOT, chapters, done, few_or_many, kills, places, render, search, train


@few_or_many(1, 20)
def test_a_training_is_killed(tmp_path, tell, rounds):
    lost = kills(places(tmp_path), train, rounds)
    tell("SIGKILL at a random moment", "fairnb train", went_on=rounds - lost, lost=lost)


@few_or_many(1, 20)
def test_a_search_is_killed(trained, tmp_path, tell, rounds):
    lost = kills(places(tmp_path, trained), search, rounds)
    tell("SIGKILL at a random moment", "searches: dynamic weighting, multi-task", went_on=rounds - lost, lost=lost)


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
