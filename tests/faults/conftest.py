"""The table of faults: `pytest tests/faults -m "slow or not slow" --faults results/faults.csv` writes what tests tell."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import nbformat
import pandas as pd
import pytest
import torch

from fairnb.book.chapters import OPENS_RUN
from fairnb.run.files import save_table
from tests.faults.work import CHAPTERS, opened, project, search

COLUMNS = ["fault", "done to", "rounds", "went on by itself", "named in a line", "results lost"]
told = pytest.StashKey[list[list[str | int]]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--faults", type=Path, help="table that receives a row for each fault and what it was done to")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[told] = []


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
def tell(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Note how many rounds of a fault went on by themselves, were named in a line, or lost a result; none may."""

    def note(fault: str, done_to: str, *, went_on: int = 0, named: int = 0, lost: int = 0) -> None:
        request.config.stash[told].append([fault, done_to, went_on + named + lost, went_on, named, lost])
        assert not lost, f"{fault}, {done_to}: {lost} of {went_on + named + lost} rounds lost results"

    return note


def pytest_sessionfinish(session: pytest.Session) -> None:
    path, rows = session.config.getoption("--faults", default=None), session.config.stash[told]
    if path and rows:
        new = pd.DataFrame(rows, columns=COLUMNS).groupby(COLUMNS[:2], sort=False).sum().reset_index()
        if path.exists():  # rows of tests that were not run stay
            old = pd.read_csv(path)
            apart = ~old[COLUMNS[:2]].apply(tuple, axis=1).isin(new[COLUMNS[:2]].apply(tuple, axis=1))
            new = pd.concat([old[apart], new])
        save_table(path, new.sort_values(COLUMNS[:2], kind="stable"))
