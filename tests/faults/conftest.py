"""The table of faults: each test tells how many rounds it took, and how they ended."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import nbformat
import pytest
import torch

from fairnb.book.chapters import OPENS_RUN
from tests import told
from tests.faults.work import CHAPTERS, opened, project, search


@pytest.fixture(scope="package", autouse=True)
def one_thread() -> Iterator[None]:
    """Rounds are quick also where other work shares the cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="package")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose run has a base model and features; not to be written to."""
    root = project(tmp_path_factory.mktemp("trained") / "root")
    opened(root).features()
    return root


@pytest.fixture(scope="package")
def searched(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with both searches; not to be written to."""
    root = Path(shutil.copytree(trained, tmp_path_factory.mktemp("searched") / "root"))
    search(root)
    return root


@pytest.fixture(scope="package")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
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


@pytest.fixture
def tell() -> Callable[..., None]:
    """Note how many rounds of a fault went on by themselves, were named in a line, or lost a result; none may."""

    def note(fault: str, done_to: str, *, went_on: int = 0, named: int = 0, lost: int = 0) -> None:
        ends = {"went_on_by_itself": went_on, "named_in_a_line": named, "results_lost": lost}
        told.tell("faults.csv", fault=fault, done_to=done_to, rounds=sum(ends.values()), **ends)
        assert not lost, f"{fault}, {done_to}: {lost} of {sum(ends.values())} rounds lost results"

    return note
