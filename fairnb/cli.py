"""The command `fairnb`: look at data, run chapters, sweep and compare runs, export models, render the book."""

from __future__ import annotations

import functools
import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from fairnb.run.files import naming, project_root

# Each command imports its own modules, so that help and rejected arguments do not wait for torch.
RENDERING = 30.0  # seconds, on the machine of the chapters' own seconds: two AVX2 cores

app = typer.Typer(no_args_is_help=True, add_completion=False, help=__doc__, pretty_exceptions_enable=False)

Params = Annotated[Path | None, typer.Option("--params", help="YAML file of parameters, such as params/paper.yml.")]
Assign = Annotated[list[str] | None, typer.Option("-p", metavar="KEY=VALUE", help="One parameter; wins over the file.")]
Name = Annotated[str | None, typer.Option("--run", help="Name of the run: results go to runs/NAME.")]


def with_errors(command: Callable[..., None]) -> Callable[..., None]:
    """Report bad input in a line or two, with exit status 1; an unexpected error keeps its traceback."""

    @functools.wraps(command)
    def checked(*args: Any, **options: Any) -> None:
        for stream in (sys.stdout, sys.stderr):  # a terminal without UTF-8 shows question marks
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="replace")
        try:
            command(*args, **options)
        except (ValueError, OSError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and type(error).__name__ != "ChapterError":  # by name: a slow import
                raise
            typer.secho(f"fairnb: {error}", fg=typer.colors.RED, err=True)
            sys.exit(1)
        except KeyboardInterrupt as stopped:
            words = str(stopped) or "interrupted; finished work is kept, and the same command continues from there"
            typer.secho(f"fairnb: {words}", err=True)
            sys.exit(130)

    return checked


@app.command()
@with_errors
def run(
    chapter: Annotated[list[str] | None, typer.Argument(help="Chapters by name or number; all by default.")] = None,
    params: Params = None,
    p: Assign = None,
    run: Name = None,
    parameters: Annotated[bool, typer.Option("--parameters", help="List the parameters, and do nothing.")] = False,
) -> None:
    """Execute chapters in order; the executed notebooks are left in runs/NAME/chapters."""
    if not parameters:
        _run(chapter or [], params, p, run)
        return
    from fairnb.run.parameters import Parameters, describe

    for name, (kind, default, words) in ((name, describe(name)) for name in Parameters.model_fields):
        typer.echo(f"{name} = {default}  # {words} ({kind})")


@app.command()
@with_errors
def book(params: Params = None, p: Assign = None, run: Name = None) -> None:
    """Execute every chapter, then render the book; it opens at book/_build/html/index.html."""
    executed = _run([], params, p, run, afterwards=RENDERING)
    from fairnb.book.pages import build_book

    with naming(project_root() / "book"):
        typer.echo(f"the book is at {build_book(project_root(), executed, typer.echo)}")


@app.command()
@with_errors
def train(params: Params = None, p: Assign = None, run: Name = None) -> None:
    """Train the base model and compute its features, on one device or many (`-p devices=8`, torchrun, fabric run)."""
    from fairnb.run.record import Record

    record = Record.open(**_values(params, p, run))
    from fairnb.experiment import Experiment  # these import torch, which takes seconds
    from fairnb.run.device import join_group

    given = record.parameters
    experiment = Experiment(record, join_group(given.device, given.precision, given.devices, given.num_nodes))
    for line in experiment.faces.told if experiment.leads else ():
        typer.echo(line)
    base = experiment.base_model()
    experiment.features()
    if experiment.leads:
        known, history = experiment.record.known, base.history
        gpu = f", on the GPU {known['peak_gpu_memory_gb']:.1f} GB" if known["peak_gpu_memory_gb"] else ""
        typer.echo(
            f"{len(history)} epochs in {base.seconds / 3600:.2f} hours, {history.images_per_second.median():,.0f} images/s; "
            f"epoch {base.best_epoch} kept, validation mAP {history.val_map.max():.3f}; "
            f"peak memory {known['peak_memory_gb']:.1f} GB{gpu}; results in {experiment.folder}"
        )


@app.command()
@with_errors
def sweep(
    file: Annotated[Path, typer.Argument(help="What to run, such as params/sweeps/seeds-and-tolerance.yml.")],
    params: Params = None,
    p: Assign = None,
    run: Name = None,
    workers: Annotated[int, typer.Option(help="Processes on this machine; 0 takes as many as it carries.", min=0)] = 0,
    scheduler: Annotated[str, typer.Option(help="A Dask cluster that is there: tcp://HOST:8786.")] = "",
    cluster: Annotated[Path | None, typer.Option(help="YAML of a cluster that Dask starts, on Slurm for example.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Tell what there is to do, and stop.")] = False,
    status: Annotated[bool, typer.Option("--status", help="Tell what is done, write the table, and stop.")] = False,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Do runs again that failed.")] = False,
) -> None:
    """Do many runs, as one file plans them; what is done is skipped, and runs/<name>/table.csv collects the results."""
    from fairnb.sweep import drive
    from fairnb.sweep.plan import read_sweep

    where = drive.Where(workers, scheduler, cluster)
    under_way = drive.Sweep(read_sweep(file, params=params, words=p or [], name=run), say=typer.echo)
    under_way.tell(where)
    if status:
        typer.echo(f"{len(under_way.table()):,} rows in {under_way.folder / 'table.csv'}")
    elif dry_run:
        typer.echo(drive.job_script(cluster) if cluster else "", nl=bool(cluster))
    else:
        whole = drive.run_sweep(under_way, where, retry_failed=retry_failed)
        typer.echo(f"the table is {under_way.folder / 'table.csv'}; intervals: fairnb compare {under_way.folder}")
        if not whole:
            raise typer.Exit(1)


@app.command()
@with_errors
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs, such as runs/demo.")],
    publish: Annotated[Path | None, typer.Option(help="Folder, such as results/mine: tables with provenance.")] = None,
) -> None:
    """Print the test results of runs by method, or of a sweep by setting, with 95 % intervals over images and seeds."""
    from fairnb.evidence.compare import compare
    from fairnb.evidence.swept import METHODS_COMPARED, Swept
    from fairnb.evidence.swept import publish as write_results

    if swept := [Swept(folder) for folder in runs if folder.is_dir() and not (folder / "run.json").exists()]:
        if len(swept) < len(runs):
            raise ValueError("compare runs or sweeps, not both at once")
        found = [pair for one in swept for pair in one.evidence()]
    else:
        found = [(METHODS_COMPARED, compare(runs, say=typer.echo))]
    for name, evidence in found:
        typer.echo(f"\n{name}\n" if len(found) > 1 else "", nl=len(found) > 1)
        _print(evidence, settings=bool(swept) and "comparison" in swept[0].table and name != METHODS_COMPARED)
    if publish is not None:
        write_results(publish, runs, dict(found))


def _print(evidence: Any, *, settings: bool) -> None:
    from fairnb.book.tables import beside, of_methods
    from fairnb.evidence.weigh import DIGITS

    methods = evidence.methods.round(DIGITS)  # printed as it is written
    typer.echo(of_methods(methods, settings=settings).to_string(index=False) + "\n")
    typer.echo(beside(methods).to_string(index=False) + "\n")
    typer.echo(f"Brackets: 95 % intervals over resampled {methods.units[0]} of the test split; seeds: {methods.seeds[0]}.")
    worse = evidence.changes[evidence.changes.worsened] if len(evidence.changes) else evidence.changes
    for row in worse.itertuples():
        typer.echo(f"{row.method} worsens {row.label}: UEI +{row.change:.3f} ({row.low:.3f} to {row.high:.3f})")


@app.command()
@with_errors
def data(
    folder: Annotated[Path, typer.Argument(help="Folder with images and annotations.")],
    p: Assign = None,
    page: Annotated[
        Path | None, typer.Option(help="Where the page of examples goes; by default FOLDER's name.html.")
    ] = None,
) -> None:
    """Tell what a folder is taken for: splits, groups, labels, gaps; and write a page of examples."""
    from fairnb.book import overview
    from fairnb.run.parameters import Data, read

    given, faces = overview.look(folder, read(None, p or []))
    typer.echo(f"{folder} is read as {given.data}: {len(faces):,} images, {len(faces.label_names)} labels")
    for line in faces.told:
        typer.echo(f"- {line}")
    for table in (overview.counts(faces), overview.labels(faces)):
        typer.echo("\n" + table.to_string(index=False, float_format="{:.3f}".format))
    page = page or Path(f"{folder.resolve().name}.html")
    overview.save_page(page, given, faces)
    differ = {name: value for name, value in given if value != Data.model_fields[name].default}
    if not any("missing" in line for line in faces.told):
        differ.pop("missing", None)
    words = " ".join(f"-p '{name}={value}'" for name, value in differ.items())
    typer.echo(f"\nexamples are in {page}; begin with: fairnb book {words} --run {folder.resolve().name}")


@app.command()
@with_errors
def assess(
    files: Annotated[list[Path], typer.Argument(help="Tables (CSV, TSV, Parquet); several are joined by image.")],
    group: Annotated[list[str], typer.Option(help="Column of a sensitive attribute; may be repeated.")],
    truth: Annotated[str | None, typer.Option(help="Names of the columns of true labels; by default {label}.")] = None,
    score: Annotated[str | None, typer.Option(help="Names of those of predictions; by default {label}_score.")] = None,
    kind: Annotated[str | None, typer.Option(help="binary, probabilities or logits; found out if left out.")] = None,
    threshold: Annotated[float | None, typer.Option(help="A score above it predicts the label.")] = None,
    image: Annotated[str, typer.Option(help="Column of images, where it has no usual name.")] = "",
    person: Annotated[str, typer.Option(help="Column of the person shown, where it has no usual name.")] = "",
    bins: Annotated[list[str] | None, typer.Option(help="Where groups of numbers begin: age=0,30,60.")] = None,
    products: Annotated[bool, typer.Option("--products", help="Assess by the product of all attributes too.")] = False,
    draws: Annotated[int | None, typer.Option(help="Resamples, for intervals; 0 leaves them out.", min=0)] = None,
    html: Annotated[Path | None, typer.Option(help="Write a page in one file.")] = None,
    csv: Annotated[Path | None, typer.Option(help="Folder for groups.csv, labels.csv, means.csv.")] = None,
    fail_below: Annotated[float, typer.Option(help="Exit with 1 if a group's US is below, of 8 positives or more.")] = 0.0,
) -> None:
    """Assess predictions of any classifier by group."""
    from fairnb.yours import report
    from fairnb.yours.assessment import assess
    from fairnb.yours.predictions import read_predictions

    columns = {name: words for name, words in {"truth": truth, "score": score}.items() if words is not None}
    known = read_predictions(files, group, **columns, image=image, person=person)
    how: dict[str, Any] = {"kind": kind, "threshold": threshold, "products": products}
    how |= {"bins": {name: edges.split(",") for name, _, edges in (one.partition("=") for one in bins or [])}}
    how |= {} if draws is None else {"draws": draws}
    found = assess(known.truth, known.scores, known.group, person=known.person, **how)
    for line in (*known.told, *found.told):
        typer.echo(f"- {line}")
    typer.echo(report.of_means(found.means).to_string(index=False))
    for attribute in found.attributes:
        typer.echo(
            f"\nby {attribute}, highest UEI first\n{report.worst(found.of('labels', attribute)).to_string(index=False)}"
        )
    if html is not None:
        found.to_html(html, title=f"Assessment of {', '.join(path.name for path in files)}")
    if csv is not None:
        found.to_csv(csv)
    if len(low := found.below(fail_below)):
        worst = "; ".join(f"{row.label}, {row.group}: {row.us:.2f}" for row in low.head(5).itertuples())
        raise ValueError(f"{len(low):,} US are below {fail_below:g}, lowest first: {worst}")


@app.command()
@with_errors
def export(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run, such as runs/demo.")],
    to: Annotated[Path, typer.Option(help="New folder: weights, ONNX, configuration, model card.")],
    method: Annotated[str, typer.Option(help="Whose model: multi-task, base, …")] = "multi-task",
    input: Annotated[str, typer.Option(help="Type of the pixels 0..255 that model.onnx takes: uint8 or float.")] = "uint8",
    license: Annotated[str, typer.Option(help="For the card: the model's licence, as the hub names it.")] = "",
    labelled_by: Annotated[str, typer.Option(help="For the card: who labelled the images, in words.")] = "",
) -> None:
    """Write a run's model as a folder that needs no fairnb, with a model card."""
    from fairnb.export import Stated, export

    export(run, method, to, input=input, stated=Stated(license, labelled_by), say=typer.echo)
    typer.echo(f"{method} of {run} is in {to}; its card is {to / 'README.md'}")


@app.command()
@with_errors
def predict(
    folder: Annotated[Path, typer.Argument(help="Folder that fairnb export wrote.")],
    images: Annotated[Path, typer.Argument(help="Folder of images, with those below it, or a zip.")],
    out: Annotated[Path, typer.Option(help="Table of scores, a row per image: .csv or .parquet.")],
    groups: Annotated[Path | None, typer.Option(help="Table of each image's group, where the model needs it.")] = None,
    group: Annotated[list[str] | None, typer.Option(help="Its column of a sensitive attribute; may be repeated.")] = None,
) -> None:
    """Score images by an exported model; above 0 predicts a label."""
    from fairnb.export import predict, save_predictions

    typer.echo(save_predictions(out, *predict(folder, images, groups=groups, columns=group or [])))


@app.command()
@with_errors
def download(root: Annotated[Path, typer.Argument(help="Folder that receives the dataset.")]) -> None:
    """Fetch the official CelebA files (about 1.4 GB) with torchvision."""
    from fairnb.data import download_celeba

    typer.echo(f"CelebA is in {download_celeba(root)}")


def _run(chapter: list[str], params: Path | None, p: list[str] | None, run: str | None, *, afterwards: float = 0.0) -> Path:
    from fairnb.run.record import Record

    values = _values(params, p, run)
    Record.open(runs=project_root() / "runs", **values)  # rejects bad values before the slow imports
    from fairnb.book.chapters import run_chapters

    return run_chapters(project_root(), chapter, values, typer.echo, afterwards=afterwards)


def _values(params: Path | None, p: list[str] | None, run: str | None) -> dict[str, Any]:
    from fairnb.run.parameters import read

    return {"run": "demo"} | read(params, [*(p or []), *([] if run is None else [f"run={run}"])])


if __name__ == "__main__":
    app()
