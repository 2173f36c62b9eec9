"""One whole iteration of the search at CelebA's size, against the bare matrix product in the same run.

    .venv/bin/python benchmarks/celeba_scale.py [--dtype float32] [--layers-all]

19,867 images, 2,048 features, 34 labels, 100 particles a label: 277 GFLOP. An iteration moves every particle, scores it,
updates the archives, draws leaders and perturbs. It is timed in turns with the product alone, in bfloat16 where the machine
computes in it, else in float32; the medians are compared. With `--layers-all` (a GPU is wanted) the search that moves both
layers is timed too: 4.28 million weights a particle. Prints a table and exits 1 where a claim falls short.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from dataclasses import dataclass
from statistics import median

import torch
from measuring import Claim, at_most, in_turns, verdict

from fairnb.features import Features
from fairnb.heads import Scorer, uei_and_error
from fairnb.methods import Problem
from fairnb.methods.dynamic_weighting import dynamic_weighting
from fairnb.run.device import resolve
from fairnb.run.parameters import Settings, Swarm
from fairnb.swarm.mopso import Flight


@dataclass(frozen=True)
class Size:
    """CelebA's validation, and the paper's penultimate features, analysed labels and swarm."""

    images: int = 19_867
    width: int = 2_048
    labels: int = 34
    particles: int = 100


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), help="else the best that the machine has")
    parser.add_argument("--layers-all", action="store_true")
    arguments = parser.parse_args()
    device, precision = resolve()
    dtype = arguments.dtype or ("bfloat16" if precision.startswith("bf16") else "float32")
    claims = iterations(Size(), dtype, device, arguments.rounds)
    gigabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    if device == "cuda":
        gigabytes = torch.cuda.max_memory_allocated() / 1e9
    claims.append(at_most("peak memory, GB", gigabytes, 3))
    print(f"{device}, {dtype}, {torch.get_num_threads()} threads, medians of {arguments.rounds} rounds in turns")
    if arguments.layers_all:
        claims += both_layers(Size(), dtype, device)
    return verdict(claims)


def iterations(size: Size, dtype: str, device: str, rounds: int) -> list[Claim]:
    """An iteration of each flight, of the time of the bare product."""
    most = 2.0 if device == "cuda" else (1.25 if dtype == "bfloat16" else 1.15)
    claims, features = [], random_features(size, device)
    for flight in ("paper", "constricted"):
        product, whole = measure(size, features, flight, dtype, device, rounds)
        what = f"{flight}: iteration in {dtype}, of the product ({whole:.3g} s of {product:.3g} s)"
        claims.append(at_most(what, whole / product, most))
    return claims


def random_features(size: Size, device: str) -> Features:
    draw = torch.Generator().manual_seed(0)
    x = torch.rand(size.images, size.width, generator=draw)
    labels = torch.rand(size.images, size.labels, generator=draw) < 0.1
    return Features(x, labels, torch.randint(2, (size.images,), generator=draw), 2).to(device)


def measure(
    size: Size, features: Features, flight: str, dtype: str, device: str, rounds: int
) -> tuple[float, float]:  # fmt: skip
    """Median seconds of the product and of an iteration, taken in turns."""
    draw = torch.Generator(device).manual_seed(1)
    start = 0.02 * torch.randn(size.labels, size.particles, size.width + 1, generator=draw, device=device)
    score = Scorer(features, dtype=dtype)
    swarms = Flight(start, Swarm(particles=size.particles, flight=flight), draw, 0.02, None)
    swarms.begin(uei_and_error(score(swarms.positions)))
    kind = getattr(torch, dtype)
    images, heads = features.x.to(kind), start[..., :-1].flatten(0, 1).to(kind).contiguous()
    logits = torch.empty(size.labels * size.particles, size.images, dtype=kind, device=device)

    def product() -> None:
        torch.mm(heads, images.T, out=logits)
        if device == "cuda":
            torch.cuda.synchronize()

    def iteration() -> None:
        swarms.move()
        swarms.learn(uei_and_error(score(swarms.positions)))
        if device == "cuda":
            torch.cuda.synchronize()

    bare, whole = in_turns([product, iteration], rounds)
    return median(bare), median(whole)


def both_layers(size: Size, dtype: str, device: str) -> list[Claim]:
    """Seconds and memory of an iteration that moves both layers, which a GPU of 40 GB is to hold."""
    draw, features = torch.Generator(device).manual_seed(2), random_features(size, device)
    heads = 0.02 * torch.randn(size.labels, size.width + 1, generator=draw, device=device)
    hidden = 0.02 * torch.randn(size.width, size.width + 1, generator=draw, device=device)
    problem, settings, seconds = Problem(features, heads, hidden=hidden), Settings(layers="all", steer=dtype), []
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    for iterations in (1, 1, 11):  # the first warms up
        begun = time.perf_counter()
        dynamic_weighting(problem, Swarm(particles=size.particles, iterations=iterations), settings)
        seconds.append(time.perf_counter() - begun)
    peak = torch.cuda.max_memory_allocated() / 1e9 if device == "cuda" else 0.0
    weights = heads.numel() + hidden.numel()
    print(f"\nlayers='all': {weights:,} weights a particle, {size.particles} particles: ", end="")
    print(f"{(seconds[2] - seconds[1]) / 10:.3g} s an iteration", flush=True)
    return [at_most("layers='all': peak memory of a GPU, GB", peak, 40)]


if __name__ == "__main__":
    sys.exit(main())
