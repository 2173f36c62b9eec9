import ast
import json
import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pandas as pd
import pytest
import yaml
from typer.testing import CliRunner

from fairnb.book.chapters import OPENS_RUN, cell_parameters, chapters, choose, run_chapters
from fairnb.book.pages import INSTALL, REPOSITORY, build_book
from fairnb.cli import app
from fairnb.run.parameters import Parameters, read, schema
from tests.conftest import names_in

ROOT = Path(__file__).parents[1]
NOTEBOOKS = chapters(ROOT)
PAGES = {name: nbformat.read(path, as_version=4) for name, path in NOTEBOOKS.items()}


def test_the_chapters_are_there_in_order():
    names = ["00_the_drawn_faces", "01_exposing_bias", "02_base_training", "03_dynamic_weighting", "04_multi_task_fix"]
    names += ["05_would_a_threshold_do", "06_what_matters"]
    assert list(NOTEBOOKS)[:7] == names


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_source_has_no_outputs_and_declares_its_parameters(name):
    cells = PAGES[name].cells
    code = [cell for cell in cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in code)
    (tagged,) = [cell for cell in code if "parameters" in cell.metadata.get("tags", [])]
    lines = tagged.source.splitlines()
    assert len(lines) <= 10
    for line in lines:  # each as it is declared: name, default, description
        assignment, _, description = line.partition("  # ")
        parameter, _, value = assignment.partition(" = ")
        field = Parameters.model_fields[parameter.partition(":")[0]]
        default = list(field.default) if isinstance(field.default, tuple) else field.default
        assert (ast.literal_eval(value), description) == (default, field.description)
    opens = [cell for cell in code if "Experiment.open(**named_in(globals()))" in cell.source]
    assert [OPENS_RUN in cell.metadata.get("tags", []) for cell in opens] == [True] * len(opens)


def test_a_parameter_belongs_to_one_chapter_and_no_cell_stands_in_two():
    owned = [name for page in PAGES.values() for name in cell_parameters(page) if name != "run"]
    assert len(owned) == len(set(owned))
    code = [cell.source for page in PAGES.values() for cell in page.cells if cell.cell_type == "code"]
    assert len(code) == len(set(code))


def test_defaults_are_declared_once():
    """No other file of the package, and no file of parameters, gives a parameter its default again."""
    trivial = {"run", "seed", "device", "precision", "devices", "num_nodes", "workers"}  # and whatever is off or empty
    again = []
    for name, field in Parameters.model_fields.items():
        literal = re.escape(json.dumps(field.default) if isinstance(field.default, str) else str(field.default))
        pattern = re.compile(rf"^.*\b{name}(?:: [\w\[\], ]+)? ?= ?{literal}(?=[,)\s]).*$", re.MULTILINE)
        for path in (ROOT / "fairnb").rglob("*.py"):
            if field.default and name not in trivial and path.name != "parameters.py":
                again += [f"{path.relative_to(ROOT)}: {line.strip()}" for line in pattern.findall(path.read_text())]
    assert not again
    for path in (ROOT / "params").glob("*.yml"):
        given = read(path, [])
        typed = Parameters(**({"data_root": "."} | given)).model_dump()
        defaults = {name: field.default for name, field in Parameters.model_fields.items()}
        assert not [name for name in given if typed[name] == defaults[name]], path


def test_the_schema_is_that_of_the_declarations():
    assert (ROOT / "params" / "schema.json").read_text() == schema()
    for path in (ROOT / "params").glob("*.yml"):
        assert path.read_text().startswith("# yaml-language-server: $schema=schema.json\n")
        assert Parameters(**({"data_root": "."} | read(path, []))).run == path.stem


def test_the_papers_values():
    values = Parameters(**({"data_root": "."} | read(ROOT / "params" / "paper.yml", []))).model_dump()
    wanted = {"backbone": "resnet50", "epochs": 50, "batch_size": 32, "learning_rate": 1e-4, "sensitive": "Male"}
    assert {name: values[name] for name in wanted} == wanted
    assert len(values["not_analysed"]) == 5  # 34 of 39


def test_chapters_are_chosen_by_name_or_number():
    assert choose([], NOTEBOOKS) == list(NOTEBOOKS)
    assert choose(["4", "01", "03_dynamic_weighting"], NOTEBOOKS) == [list(NOTEBOOKS)[i] for i in (1, 3, 4)]
    assert choose(["0"], NOTEBOOKS) == ["00_the_drawn_faces"]
    with pytest.raises(ValueError, match="did you mean '03_dynamic_weighting'"):
        choose(["03_dynamic_weights"], NOTEBOOKS)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "-p", "epoch=3"], "did you mean 'epochs'"),
        (["run", "chapter_nine"], "unknown chapter"),
        (["run", "--params", "nowhere.yml"], "no parameter file nowhere.yml"),
        (["run", "-p", "epochs"], "expected key=value"),
        (["run", "--run", "../x"], "must be a plain folder name"),
        (["run", "1", "-p", "particles=0"], "particles='0' must be at least 1"),
        (["run", "1", "-p", "epsilon=0"], "epsilon='0' must be above 0"),
        (["run", "1", "-p", "device=cudaa"], "did you mean 'cuda'"),
        (["run", "1", "-p", "drawn=[10, 0, 5]"], "must be three numbers of faces, each at least 1"),
        (["run", "1", "-p", "data_root=faces"], "reads no folder: say data=celeba"),
        (["run", "1", "-p", "data=celeba"], "needs data_root"),
        (["run", "1", "-p", "data=celebs"], "unknown data 'celebs': did you mean 'celeba'"),
        (["run", "0", "-p", "people=0"], "people='0' must be at least 1"),
        (["run", "0", "-p", "height=16"], "height='16' must be at least 32"),
        (["run", "1", "-p", "sensitive=Mael"], "did you mean 'Male'"),
        (["run", "1", "-p", "targets=[Male]"], "'Male' is sensitive: it cannot also be a target"),
        (["run", "1", "-p", "resize=24", "-p", "image_size=24"], "faces cannot be drawn at 24×24"),
        (["run", "1", "-p", "drawn=[9, 9, 9]"], "lower min_positives"),
        (["run", "1", "-p", "backbone=resnet-18"], "unknown backbone 'resnet-18': did you mean 'resnet18'"),
        (["run", "1", "-p", "weights=none"], "unknown weights of resnet18 'none'"),
        (["run", "1", "-p", "precision=64-true"], "unknown precision '64-true'"),
        (["run", "1", "-p", "backbone=alexnet", "-p", "image_size=16"], "alexnet does not take images of 16 pixels"),
    ],
)
def test_the_command_refuses_in_a_line(monkeypatch, words, message):
    monkeypatch.chdir(ROOT)
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 1
    assert message in result.output
    assert "Traceback" not in result.output


def test_a_failing_chapter_stops_the_run_and_is_kept(tmp_path, monkeypatch):
    """Three chapters, the second of which fails: the first is done, the third never begins."""
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "pyproject.toml").touch()
    parameters = nbformat.v4.new_code_cell("run = 'demo'  # name\npeople = 1  # a number", metadata={"tags": ["parameters"]})
    for name, body in {"01_a": "people + 1", "02_b": "raise ValueError('not today')", "03_c": "people"}.items():
        book = nbformat.v4.new_notebook(cells=[parameters, nbformat.v4.new_code_cell(body)])
        book.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
        nbformat.write(book, tmp_path / "notebooks" / f"{name}.ipynb")
    monkeypatch.chdir(tmp_path / "notebooks")  # the project is found from a folder inside it
    result = CliRunner().invoke(app, ["run", "-p", "people=41", "--run", "r"])
    assert result.exit_code == 1
    assert "02_b" in result.output
    assert "ValueError: not today" in result.output
    done = tmp_path / "runs" / "r" / "chapters"
    assert names_in(done) == ["01_a.ipynb", "02_b.failed.ipynb"]
    before = (done / "01_a.ipynb").read_bytes()
    assert b'"42"' in before
    assert (
        CliRunner().invoke(app, ["run", "1", "-p", "people=word", "--run", "r"]).exit_code == 1
    )  # refused: the older success stays
    assert (done / "01_a.ipynb").read_bytes() == before


def test_a_chapter_runs_again_only_where_something_changed(tmp_path, monkeypatch):
    """A module that it imports, one that this imports, its own cells, its parameters; not a module that it never meets."""
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "pyproject.toml").touch()
    for name, text in {"paint": "import brush", "brush": "x = 1", "other": "y = 1"}.items():
        (tmp_path / f"{name}.py").write_text(text)
    notebook = tmp_path / "notebooks" / "01_a.ipynb"
    parameters = nbformat.v4.new_code_cell("run = 'demo'  # name\npeople = 1  # a number", metadata={"tags": ["parameters"]})
    page = nbformat.v4.new_notebook(cells=[parameters, nbformat.v4.new_code_cell("import time, paint; time.time()")])
    page.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    page.metadata["fairnb"] = {"does": "tells the time", "seconds": 100}
    nbformat.write(page, notebook)
    monkeypatch.chdir(tmp_path)
    done = tmp_path / "runs" / "r" / "chapters" / "01_a.ipynb"

    def outcome(*words):
        result = CliRunner().invoke(app, ["run", "--run", "r", *words])
        assert result.exit_code == 0, result.output
        up_to_date = "up to date" in result.output
        assert up_to_date or "01_a: tells the time … 1 left, about 2 min and the training" in result.output
        return done.read_bytes(), up_to_date

    first = outcome()
    assert not first[1]
    (tmp_path / "other.py").write_text("y = 2")
    assert outcome() == (first[0], True)
    assert outcome("-p", "people=20000") == (first[0], True)  # the default, said aloud
    other = outcome("-p", "people=2")
    assert other[0] != first[0]
    (tmp_path / "brush.py").write_text("x = 2")
    assert not outcome("-p", "people=2")[1]
    page.cells[1].source += "  # changed"
    nbformat.write(page, notebook)
    assert not outcome("-p", "people=2")[1]


def test_no_chapters_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="no chapters in"):
        run_chapters(tmp_path, [], {})


def test_the_books_contents_name_every_chapter():
    toc = yaml.safe_load((ROOT / "book" / "_toc.yml").read_text())
    files = [entry["file"] for part in toc["parts"] for entry in part["chapters"]]
    pages = [f"chapters/{name}" for name in (*NOTEBOOKS, "api", "parameters")]  # the last two are made from declarations
    assert sorted(name for name in files if name.startswith("chapters/")) == pages
    assert all((ROOT / "book" / f"{name}.md").exists() for name in files if not name.startswith("chapters/"))


@pytest.mark.parametrize("data", ["drawn", "celeba"])
def test_a_page_says_at_its_top_that_its_faces_are_drawn(tmp_path, monkeypatch, data):
    """The page and the introduction's banner, as they are handed to Jupyter Book."""
    (tmp_path / "notebooks").mkdir()
    run = tmp_path / "runs" / "r"
    (run / "chapters").mkdir(parents=True)
    title = nbformat.v4.new_markdown_cell("# Title\n\nText.")
    data_cell = nbformat.v4.new_code_cell("1", metadata={"tags": [OPENS_RUN]})
    pages = {"00_the_drawn_faces": [title], "01_a": [title, data_cell], "02_counts_alone": [title]}
    for folder in (tmp_path / "notebooks", run / "chapters"):
        for name, cells in pages.items():
            nbformat.write(nbformat.v4.new_notebook(cells=cells), folder / f"{name}.ipynb")
    known = {"begun": "2026-11-23T11:35:09+00:00", "device": {"type": "cpu", "name": "x86_64"}, "git_revision": "abc"}
    (run / "run.json").write_text(json.dumps(known | {"parameters": {"data": data, "seed": 3}}))
    (run / "comparison.png").touch()
    (tmp_path / "_config.yml").touch()
    (tmp_path / "book" / "_build" / "html").mkdir(parents=True)
    monkeypatch.setattr("fairnb.book.pages._summary", lambda *_: pd.DataFrame())
    monkeypatch.setattr("fairnb.book.pages.subprocess.run", lambda *_, **__: SimpleNamespace(returncode=0))
    build_book(tmp_path, run / "chapters", lambda _: None)
    shown = nbformat.read(tmp_path / "book" / "chapters" / "01_a.ipynb", as_version=4).cells[0].source
    banner = (tmp_path / "book" / "chapters" / "banner.md").read_text()
    alone = nbformat.read(tmp_path / "book" / "_build" / "colab" / "01_a.ipynb", as_version=4)
    assert [cell.source for cell in alone.cells] == [INSTALL, title.source, data_cell.source]  # what Colab's link opens
    assert "| `epsilon` | number > 0 | `0.01` |" in (tmp_path / "book" / "chapters" / "parameters.md").read_text()
    drawn = nbformat.read(tmp_path / "book" / "chapters" / "00_the_drawn_faces.ipynb", as_version=4).cells[0].source
    assert "Nobody on this page exists." in drawn  # whatever the run's data
    alone = nbformat.read(tmp_path / "book" / "chapters" / "02_counts_alone.ipynb", as_version=4).cells[0].source
    assert "Nobody on this page exists." not in alone
    assert "was not run here" in (tmp_path / "book" / "chapters" / "setting.md").read_text()
    if data == "drawn":
        title, _, rest = shown.partition("\n")
        assert title == "# Title"
        assert rest.strip().startswith("```{div} about")
        assert "```{admonition} Drawn faces\n:class: warning\nNobody on this page exists." in rest
        assert rest.endswith("Text.")
        assert banner in shown
    else:
        assert "drawn" not in shown.lower()
        assert "drawn" not in banner.lower()


@pytest.mark.slow
@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="there is no repository to clone")
def test_a_notebook_alone_fetches_the_project(tmp_path):
    """As on Colab: in an empty folder, without the package, and again after the kernel was started anew. No network."""
    environment, work = tmp_path / "environment", tmp_path / "work"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    work.mkdir()
    packages = next((environment / "lib").glob("python3*")) / "site-packages"
    (packages / "others.pth").write_text(sysconfig.get_path("purelib"))  # an editable fairnb there is not seen from here
    settings = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    settings |= {"PIP_NO_INDEX": "1", "PIP_NO_DEPS": "1", "PIP_NO_BUILD_ISOLATION": "0", "GIT_CONFIG_COUNT": "1"}
    settings |= {
        "GIT_CONFIG_KEY_0": f"url.{ROOT.as_uri()}.insteadOf",
        "GIT_CONFIG_VALUE_0": f"https://github.com/{REPOSITORY}",
    }

    def run(*words):
        return subprocess.run(
            [environment / "bin" / "python", *words], cwd=work, env=settings, capture_output=True, text=True
        )

    if run("-c", "import fairnb").returncode == 0:
        pytest.skip("fairnb is installed beside the other packages, not as editable")
    for _ in range(2):
        done = run("-c", f"{INSTALL}\nfrom fairnb.run.files import project_root\nprint(project_root())")
        assert done.stdout.strip() == str(work / "fairnb"), done.stderr


@pytest.mark.parametrize("name", PAGES)
def test_a_chapter_reads_its_parameters_as_their_types(name):
    """papermill hands over words: what a chapter uses was read by `Parameters`."""
    own = set(cell_parameters(PAGES[name]))
    cells = [c.source for c in PAGES[name].cells if c.cell_type == "code" and "parameters" not in c.metadata.get("tags", [])]
    names = [node.id for cell in cells for node in ast.walk(ast.parse(cell)) if isinstance(node, ast.Name)]
    assert not own & set(names)
    assert any("named_in(globals())" in cell for cell in cells)
