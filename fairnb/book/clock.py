"""Estimates of the time left: from the cost of each chapter, the chapters already done, and the speed of the training."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable

from fairnb.run.messages import duration

_SPEED = re.compile(r"([\d,]+) images to train on, ([\d,]+) a second: about (\d+) s of training")


class Clock:
    """Estimates and reports the time left while chapters are executed, as papermill's file for the cells' stderr.

    There the training reports its speed (`SPEED`), and the cells show progress bars, which are passed on to a terminal.
    """

    def __init__(self, seconds: dict[str, float], afterwards: float, trained: bool, say: Callable[[str], object]) -> None:
        """Begin with the seconds measured elsewhere of each chapter but for the training, and of the steps `afterwards`."""
        self.left, self.afterwards, self.trained, self.say = dict(seconds), afterwards, trained, say  # trained: already
        self.declared = self.taken = 0.0  # seconds of the chapters done: there, and on this machine
        self.training = 0.0  # seconds of training reported by the current chapter

    @property
    def seconds(self) -> float:
        """Estimated seconds left, at the pace of the chapters done on this machine."""
        pace = self.taken / self.declared if self.declared else 1.0
        return pace * (sum(self.left.values()) + self.afterwards)

    @property
    def estimate(self) -> str:
        """`seconds` in words."""
        return f"about {duration(self.seconds)}" + ("" if self.trained else " and the training")

    def done(self, chapter: str, seconds: float) -> None:
        """Record a chapter's seconds; a chapter that trained does not count for the pace."""
        declared = self.left.pop(chapter)
        if not self.training:
            self.declared, self.taken = self.declared + declared, self.taken + seconds
        self.trained, self.training = self.trained or self.training > 0, 0.0

    def skipped(self, chapter: str) -> None:
        """Record that a chapter is up to date."""
        del self.left[chapter]

    def write(self, text: str) -> None:
        """Receive a cell's stderr."""
        if report := _SPEED.search(text):
            self.training = float(report[3])
            training, everything = duration(self.training), duration(self.training + self.seconds)
            speed = f"{report[1]} images to train on, {report[2]} a second"
            self.say(f"  {speed}: about {training} of training, {everything} for all that is left")
        elif sys.stderr.isatty():
            sys.stderr.write(text)

    def flush(self) -> None:
        """Flush stderr."""
        sys.stderr.flush()
