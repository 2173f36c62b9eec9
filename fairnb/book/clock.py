"""How long all of it will take: from what each chapter costs, the chapters that are done, and the training's own speed."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable

from fairnb.run.messages import duration

_SPEED = re.compile(r"([\d,]+) images to train on, ([\d,]+) a second: about (\d+) s of training")


class Clock:
    """Estimates the time left while chapters are executed, and tells it.

    It is given to papermill as the file that receives what cells write to stderr: there the training says how fast it is
    (`SPEED`), and there are the cells' own progress bars, which are passed on to a terminal.
    """

    def __init__(self, seconds: dict[str, float], afterwards: float, trained: bool, say: Callable[[str], object]) -> None:
        """Begin.

        Args:
            seconds: what each chapter costs without the training, on the machine where that was measured.
            afterwards: what follows the chapters, on the same machine.
            trained: whether the base model is there.
            say: takes a line.
        """
        self.left, self.afterwards, self.trained, self.say = dict(seconds), afterwards, trained, say
        self.declared = self.taken = 0.0  # seconds of the chapters that are done: there, and on this machine
        self.training = 0.0  # seconds of training that the chapter under way has told

    @property
    def seconds(self) -> float:
        """What is left, as far as it is known; a machine is as fast for the next chapters as it was for those done."""
        pace = self.taken / self.declared if self.declared else 1.0
        return pace * (sum(self.left.values()) + self.afterwards)

    @property
    def estimate(self) -> str:
        """The same in words."""
        return f"about {duration(self.seconds)}" + ("" if self.trained else " and the training")

    def done(self, chapter: str, seconds: float) -> None:
        """Note that a chapter took so long; one that trained says nothing of the others."""
        declared = self.left.pop(chapter)
        if not self.training:
            self.declared, self.taken = self.declared + declared, self.taken + seconds
        self.trained, self.training = self.trained or self.training > 0, 0.0

    def skipped(self, chapter: str) -> None:
        """Note that a chapter need not be executed."""
        del self.left[chapter]

    def write(self, text: str) -> None:
        """Take what a cell wrote to stderr."""
        told = _SPEED.search(text)
        if told:
            left, speed, self.training = told[1], told[2], float(told[3])
            self.say(
                f"  {left} images to train on, {speed} a second: about {duration(self.training)} of training, "
                f"{duration(self.training + self.seconds)} for all that is left"
            )
        elif sys.stderr.isatty():
            sys.stderr.write(text)

    def flush(self) -> None:
        """Pass on what was written."""
        sys.stderr.flush()
