"""The book's evidence: sweeps published with fairlearn's thresholds beside their methods, and held to what the book claims.

    P="--params params/photographs.yml -p data_root=<folder>"
    fairnb sweep params/sweeps/evidence.yml $P --run evidence-of-photographs
    fairnb sweep params/sweeps/ablations.yml $P --run ablations-of-photographs
    benchmarks/evidence.py runs/{evidence,ablations}-of-photographs --publish results/photographs --data silver

    benchmarks/resplit.py <folder> <new>  # validation and test of people on whom no method was developed
    fairnb sweep params/sweeps/evidence.yml --params params/photographs.yml -p data_root=<new> --run evidence-again
    benchmarks/evidence.py runs/evidence-again --publish results/photographs-again --data silver --again

    fairnb sweep params/sweeps/evidence.yml  # drawn faces
    fairnb sweep params/sweeps/ablations.yml
    benchmarks/evidence.py runs/{evidence,ablations} --publish results/drawn --data drawn
    fairnb sweep params/sweeps/evidence.yml -p drawn_seed=2 --run evidence-of-other-faces
    benchmarks/evidence.py runs/evidence-of-other-faces --publish results/drawn-again --data drawn --again

Exits 1 if the calibrated search misses `AIM`, if its interval leaves open that group thresholds have a lower UEI, or if it
worsens a label. `publish` describes the files. Needs fairlearn, and for the sweeps the `bench` extra.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fairlearn.postprocessing import ThresholdOptimizer
from measuring import Claim, at_least, at_most, verdict
from sklearn.linear_model import LogisticRegression

from fairnb.book.tables import beside, of_methods
from fairnb.evidence.compare import Run
from fairnb.evidence.outcome import Outcome
from fairnb.evidence.swept import METHODS_COMPARED, Swept, publish
from fairnb.evidence.weigh import AIM, Evidence
from fairnb.features import load_layer
from fairnb.heads import logits
from fairnb.metrics import underestimation_index

SILVER = (
    "9,970 faces of Labeled Faces in the Wild in CelebA's layout. Their attributes were drawn from the probabilities of a "
    "classifier that was trained on CelebA: silver labels, good for exercising the method and no finding about people."
)
DRAWN = "Drawn faces: nobody exists, and the labels follow the statistics of CelebA's annotations."
AGAIN = " Nobody on whom a method was developed is in this validation or test."
CONSTRAINTS = {"equal odds": "equalized_odds", "equal true positive rates": "true_positive_rate_parity"}
OURS, BY_GROUP = "calibrated multi-task", "group thresholds"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweeps", type=Path, nargs="+", help="folders, that of evidence.yml first")
    parser.add_argument("--publish", type=Path, required=True, help="folder such as results/photographs")
    parser.add_argument("--data", choices=("silver", "drawn"), required=True)
    parser.add_argument("--again", action="store_true", help="no method was developed on these people")
    given = parser.parse_args()
    evidence = {name: one for folder in given.sweeps for name, one in Swept(folder).evidence(fairlearn)}
    data = (SILVER if given.data == "silver" else DRAWN) + AGAIN * given.again
    publish(given.publish, given.sweeps, evidence, data=data)
    methods = evidence[METHODS_COMPARED].methods
    print(of_methods(methods).to_string(index=False), beside(methods).to_string(index=False), sep="\n\n")
    return verdict(claims(evidence[METHODS_COMPARED]))


def fairlearn(run: Run) -> list[Outcome]:
    """Outcomes of fairlearn's ThresholdOptimizer on the base model's logits (Hardt et al. 2016), one per constraint.

    It draws between two thresholds. It refuses labels that all of a group have, or none: these keep the base's predictions.
    """
    seed, (valid, test) = run.parameters["seed"], (run.features[name].of_labels(run.analysed) for name in ("valid", "test"))
    heads, outcomes = load_layer(run.folder / "base.safetensors")[run.analysed], []
    identity = LogisticRegression()  # its decision function is its input, a logit
    identity.coef_, identity.intercept_, identity.classes_ = np.ones((1, 1)), np.zeros(1), np.array([0, 1])
    for words, constraint in CONSTRAINTS.items():
        begun = time.perf_counter()
        scores = [logits(part.x, heads) for part in (valid, test)]
        predicted = [part > 0 for part in scores]
        for label, truth in enumerate(valid.labels.T.numpy()):
            if any(len(np.unique(truth[valid.group == group])) < 2 for group in range(valid.groups)):
                continue
            x = [part[label].double().unsqueeze(1).numpy() for part in scores]
            fitted = ThresholdOptimizer(
                estimator=identity, constraints=constraint, prefit=True, predict_method="decision_function"
            ).fit(x[0], truth.astype(int), sensitive_features=valid.group.numpy())
            for own, column, part in zip(predicted, x, (valid, test), strict=True):
                answer = fitted.predict(column, sensitive_features=part.group.numpy(), random_state=seed)
                own[label] = torch.as_tensor(np.asarray(answer)).bool()
        tables, seconds = valid.tables(predicted[0]), time.perf_counter() - begun
        uei, name = float(underestimation_index(tables).mean()), f"fairlearn, {words}"
        outcomes.append(Outcome(name, seed, predicted[1], None, tables, uei, needs_group=True, seconds=seconds))
    return outcomes


def claims(found: Evidence) -> list[Claim]:
    """What the book claims of the calibrated search."""
    ours: Any = found.methods.set_index("method").loc[OURS]
    change: Any = found.differences.set_index(["method", "against"]).loc[(OURS, BY_GROUP)]
    rise = ours.highest_rise
    return [
        at_most(f"{OURS}: mean UEI", ours.uei, AIM.uei),
        at_least(f"{OURS}: mean accuracy", ours.accuracy, AIM.accuracy),
        (f"{OURS}: upper end of its UEI compared with {BY_GROUP}", change.uei_high, "< 0", change.uei_high < 0),
        at_most(f"{OURS}: labels worsened", ours.worsened, 0),
        (f"{OURS}: upper end of the highest rise of a label's UEI", rise, f"< {AIM.rise}", rise < AIM.rise),
    ]


if __name__ == "__main__":
    sys.exit(main())
