"""Whom a run tells how it goes: the log, the progress bar, trackers. Of several processes only the first one speaks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fastgen.evaluation import HeldOut
from fastgen.training.log import JsonLog, ProgressBar
from fastgen.training.run import Run

if TYPE_CHECKING:
    from fastgen.training.trackers import Tracker


class Reporter:
    """Tells of a run as it goes."""

    def __init__(self, run: Run, log: Path, keep_until: int, *, progress: bool, track: Sequence[str]) -> None:
        """Lines of the log up to the step `keep_until` are kept."""
        self.run, self.terms = run, Terms()
        self.log: JsonLog | None = None
        self.bar: ProgressBar | None = None
        self.trackers: list[Tracker] = []
        if run.ranks.first:
            if track:
                from fastgen.training.trackers import open_trackers

                self.trackers = open_trackers(track, log.parent, run.recipe.to_json())
            self.log = JsonLog(log, keep_until=keep_until)
            self.bar = ProgressBar(run.recipe, run.step, run.seconds, shown=progress)

    def took(self, terms: dict[str, Tensor]) -> None:
        """Note what a step said; nothing is read from the device yet."""
        self.terms.add(terms)

    def trained(self) -> None:
        """Tell of the steps since the last time; all processes, for whose means it is."""
        means = self.run.ranks.means(self.terms.means())
        self._write("train", means)
        if self.bar is not None:
            self.bar.show(self.run.step, self.run.seconds, _headline(means))

    def evaluated(self, result: HeldOut) -> None:
        """Tell what held-out images say."""
        self._write("eval", result.to_json())

    def drew(self, images: Tensor | None) -> None:
        """Show a grid of drawn images [C, H, W], if there is one."""
        if images is not None:
            for tracker in self.trackers:
                tracker.image(self.run.step, "samples", images)

    def note(self, text: str) -> None:
        """Print a line above the bar."""
        if self.bar is not None:
            self.bar.note(text)

    def close(self) -> None:
        """Leave everything as it is."""
        for closing in (self.bar, *self.trackers):
            if closing is not None:
                closing.close()

    def _write(self, event: str, values: dict[str, Any]) -> None:
        if self.log is not None:
            self.log.write(event, self.run.step, self.run.seconds, **values)
        for tracker in self.trackers:
            tracker.scalars(self.run.step, {f"{event}/{key}": float(value) for key, value in values.items()})


class Terms:
    """Means of what steps log since the last line."""

    def __init__(self) -> None:
        self.steps: list[dict[str, Tensor]] = []

    def add(self, terms: dict[str, Tensor]) -> None:
        """Note one step; nothing is read from the device yet."""
        self.steps.append(terms)

    def means(self) -> dict[str, float]:
        """The mean of each term over the steps that had it, of learning rate and norms the latest; forgets them."""
        lists: dict[str, list[Tensor]] = {}
        for step in self.steps:
            for key, term in step.items():
                lists.setdefault(key, []).append(term)
        self.steps.clear()
        latest = {key for key in lists if key == "lr" or key.endswith("grad_norm")}
        return {
            key: float(terms[-1]) if key in latest else float(torch.stack(terms).mean()) for key, terms in lists.items()
        }


def _headline(means: dict[str, float]) -> str:
    """What the progress bar shows of a line of the log."""
    if "bits_per_dim" in means:
        return f"{means['bits_per_dim']:.3f} bits/dim"
    return ", ".join(f"{key.replace('_', ' ')} {value:.3f}" for key, value in means.items() if key.endswith("loss"))
