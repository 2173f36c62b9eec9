"""What an executed chapter depends on: what it imports, and nothing else of the package."""

from functools import cache
from pathlib import Path

import nbformat
import pytest

from fairnb.book.sources import sources

ROOT = Path(__file__).parents[1]


@cache
def of_chapter(number: int) -> set[str]:
    path = next((ROOT / "notebooks").glob(f"{number:02d}_*.ipynb"))
    cells = nbformat.read(path, as_version=4).cells
    found = sources("\n".join(cell.source for cell in cells if cell.cell_type == "code"), ROOT)
    return {path.relative_to(ROOT).as_posix() for path in found}


@pytest.fixture
def project(tmp_path):
    """a imports b inside a function and c for type checkers alone; d reads saved results, and its folder's table.

    late imports a on the first use of f.
    """
    files = {
        "paint/__init__.py": "",
        "paint/a.py": "if TYPE_CHECKING:\n    import paint.c\ndef f():\n    from . import b",
        "paint/b.py": "import math",
        "paint/c.py": "",
        "paint/deep/__init__.py": "from paint.deep import d",
        "paint/deep/d.py": 'from ..b import x\nplace = "results"',
        "paint/deep/table.csv": "1",
        "results/set/methods.csv": "2",
        "late/__init__.py": "if TYPE_CHECKING:\n    from paint.a import f as f\n    from paint.c import g as g",
        "alone.py": "",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.mark.parametrize(
    ("code", "wanted"),
    [
        ("import numpy\nx = 1", ""),
        ("import alone", "alone.py"),
        ("import paint", "paint/__init__.py"),
        ("from paint import a", "paint/__init__.py paint/a.py paint/b.py"),
        ("from paint.a import f", "paint/__init__.py paint/a.py paint/b.py"),
        ("def late():\n    import paint.c as c", "paint/__init__.py paint/c.py"),
        (
            "import paint.deep",
            "paint/__init__.py paint/b.py paint/deep/__init__.py paint/deep/d.py paint/deep/table.csv "
            "results/set/methods.csv",
        ),
        ("x = 'results/set/methods.csv'", "results/set/methods.csv"),
        ("import late", "late/__init__.py"),
        ("from late import f", "late/__init__.py paint/__init__.py paint/a.py paint/b.py"),
        ("import late as l\nl.f()", "late/__init__.py paint/__init__.py paint/a.py paint/b.py"),
    ],
)
def test_imports_are_followed(project, code, wanted):
    assert sorted(path.relative_to(project).as_posix() for path in sources(code, project)) == wanted.split()


def test_the_portraits_matter_where_faces_are_drawn():
    portrait = "fairnb/data/drawn/portrait.py"
    assert all(portrait in of_chapter(number) for number in (0, 1, 2, 3, 4, 5, 6, 9))  # an experiment can draw faces
    assert all(portrait not in of_chapter(number) for number in (7, 8))


def test_what_a_chapter_uses_matters():
    assert {"fairnb/training.py", "fairnb/model.py", "fairnb/data/drawn/celeba_statistics.csv"} <= of_chapter(1)
    assert "fairnb/book/explorer.py" in of_chapter(9) - of_chapter(4)
    assert "fairnb/swarm/zdt.py" in of_chapter(7) - of_chapter(3)
    assert {"fairnb/book/plots.py", "fairnb/metrics.py"} <= of_chapter(8)
    assert {number for number in range(10) if "results/photographs/methods.csv" in of_chapter(number)} == {3, 5, 6, 7}
    assert not any("fairnb/cli.py" in of_chapter(number) for number in range(10))
