"""The command `fairnb`: run chapters, render the book, fetch CelebA."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from fairnb.chapters import ChapterError, build_book, read_parameters, run_chapters

app = typer.Typer(no_args_is_help=True, add_completion=False, help=__doc__, pretty_exceptions_enable=False)

Params = Annotated[Path | None, typer.Option("--params", help="YAML file of parameters, such as params/paper.yml.")]
Assign = Annotated[list[str] | None, typer.Option("-p", metavar="KEY=VALUE", help="One parameter; wins over the file.")]
Name = Annotated[str | None, typer.Option("--run", help="Name of the run: results go to runs/NAME.")]


@app.command()
def run(
    chapter: Annotated[list[str] | None, typer.Argument(help="Chapters by name or number; all by default.")] = None,
    params: Params = None,
    p: Assign = None,
    run: Name = None,
) -> None:
    """Execute chapters in order; the executed notebooks are left in runs/NAME/chapters."""
    with_errors(lambda: _run(chapter or [], params, p, run))


@app.command()
def book(params: Params = None, p: Assign = None, run: Name = None) -> None:
    """Execute every chapter, then render the book; it opens at book/_build/html/index.html."""
    with_errors(lambda: typer.echo(f"the book is at {build_book(_root(), _run([], params, p, run), typer.echo)}"))


@app.command()
def download(root: Annotated[Path, typer.Argument(help="Folder that receives the dataset.")]) -> None:
    """Fetch the official CelebA files (about 1.4 GB) with torchvision."""
    from fairnb.data import download_celeba

    with_errors(lambda: typer.echo(f"CelebA is in {download_celeba(root)}"))


def with_errors(action: Callable[[], object]) -> None:
    """Bad input ends with its line or two, and exit status 1; anything unexpected keeps its traceback."""
    try:
        action()
    except (ValueError, OSError, ChapterError) as error:
        typer.secho(f"fairnb: {error}", fg=typer.colors.RED, err=True)
        sys.exit(1)


def _run(chapter: list[str], params: Path | None, p: list[str] | None, run: str | None) -> Path:
    values = read_parameters(params, p or [])
    if run is not None:
        values["run"] = run
    return run_chapters(_root(), chapter, values, typer.echo)


def _root() -> Path:
    from fairnb.experiment import project_root

    return project_root()
