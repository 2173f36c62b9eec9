"""The command `fairnb`: run chapters, render the book, fetch CelebA."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from fairnb.book.chapters import ChapterError, Parameters, chapters, read_parameters, run_chapters, whole_parameters

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
    with_errors(lambda: _book(params, p, run))


@app.command()
def train(params: Params = None, p: Assign = None, run: Name = None) -> None:
    """Train the base model and compute its features, on one device or many (`-p devices=8`, torchrun, fabric run)."""
    with_errors(lambda: _train(params, p, run))


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs, such as runs/demo.")],
    csv: Annotated[Path | None, typer.Option(help="Folder that receives the tables as CSV.")] = None,
) -> None:
    """Print what every method of some runs reaches on test, with 95 % intervals over images and seeds."""
    with_errors(lambda: _compare(runs, csv))


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
    except KeyboardInterrupt as stopped:
        told = str(stopped) or "interrupted; what is done is kept, and the same command goes on from there"
        typer.secho(f"fairnb: {told}", err=True)
        sys.exit(130)


def _run(chapter: list[str], params: Path | None, p: list[str] | None, run: str | None, *, afterwards: float = 0.0) -> Path:
    return run_chapters(_root(), chapter, _values(params, p, run), typer.echo, afterwards=afterwards)


def _book(params: Path | None, p: list[str] | None, run: str | None) -> None:
    from fairnb.book.pages import SECONDS, build_book

    executed = _run([], params, p, run, afterwards=SECONDS)
    typer.echo(f"the book is at {build_book(_root(), executed, typer.echo)}")


def _train(params: Path | None, p: list[str] | None, run: str | None) -> None:
    from fairnb.experiment import open_experiment
    from fairnb.run.device import join_group  # these import torch, which takes seconds

    values, _ = whole_parameters(chapters(_root()), _values(params, p, run))
    fabric = join_group(*(values[name] for name in ("device", "precision", "devices", "num_nodes")))
    experiment = open_experiment(values, fabric)
    base = experiment.base_model()
    experiment.features()
    if experiment.leads:
        known, history = experiment.provenance(), base.history
        gpu = f", on the GPU {known['peak_gpu_memory_gb']:.1f} GB" if known["peak_gpu_memory_gb"] else ""
        typer.echo(
            f"{len(history)} epochs in {base.seconds / 3600:.2f} hours, {history.images_per_second.median():,.0f} images/s; "
            f"epoch {base.best_epoch} kept, validation mAP {history.val_map.max():.3f}; "
            f"most memory {known['peak_memory_gb']:.1f} GB{gpu}; results in {experiment.folder}"
        )


def _compare(runs: list[Path], csv: Path | None) -> None:
    from fairnb.book.tables import beside, of_methods
    from fairnb.evidence.compare import compare
    from fairnb.evidence.weigh import DIGITS

    if csv is not None and not csv.is_dir():
        raise FileNotFoundError(f"no folder {csv} to write the tables into: make it first")
    evidence = compare(runs, say=typer.echo)
    methods = evidence.methods.round(DIGITS)  # what is printed is what is written
    typer.echo(of_methods(methods).to_string(index=False) + "\n")
    typer.echo(beside(methods).to_string(index=False) + "\n")
    typer.echo(f"Brackets hold 95 % intervals: {methods.units[0]} of the test split drawn anew, seeds: {methods.seeds[0]}.")
    worse = evidence.changes[evidence.changes.worsened] if len(evidence.changes) else evidence.changes
    for row in worse.itertuples():
        typer.echo(f"{row.method} worsens {row.label}: UEI +{row.change:.3f} ({row.low:.3f} to {row.high:.3f})")
    if csv is not None:
        evidence.save(csv)


def _values(params: Path | None, p: list[str] | None, run: str | None) -> Parameters:
    return read_parameters(params, p or []) | ({} if run is None else {"run": run})


def _root() -> Path:
    from fairnb.run.files import project_root

    return project_root()


if __name__ == "__main__":
    app()
