"""What a run tells: a JSON object a line for programs, a progress bar for people."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from fastgen._files import atomic_write
from fastgen.training.recipes import Recipe


class JsonLog:
    """JSON lines; the lines of steps that a resumed run takes again are dropped first."""

    def __init__(self, path: Path, keep_until: int) -> None:
        """Keep the lines up to a step; of a run that starts none: -1."""
        self.path = path
        kept = [line for line in read_log(path) if line["step"] <= keep_until]
        atomic_write(path, "".join(json.dumps(line) + "\n" for line in kept))

    def write(self, event: str, step: int, seconds: float, **values: Any) -> None:
        """Append one line."""
        line = {"event": event, "step": step, "seconds": round(seconds, 3), **values}
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")


def read_log(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Read the lines of `log.jsonl` as dicts; a line that a kill cut off is dropped."""
    path = Path(path)
    lines = []
    for text in path.read_text().splitlines() if path.exists() else []:
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            continue
    return lines


class ProgressBar:
    """Progress in steps, or in seconds where those are the budget, on stderr."""

    def __init__(self, recipe: Recipe, step: int, seconds: float, *, shown: bool) -> None:
        from tqdm import tqdm

        self.by_steps = recipe.steps is not None
        self.first_step, self.first_seconds = step, seconds
        self.total = float(recipe.steps or recipe.seconds or 0)
        tail = (
            "{n:.0f}/{total:.0f} steps [{elapsed} taken, {remaining} left{postfix}]"
            if self.by_steps
            else "{n:.0f}/{total:.0f} s [{remaining} left{postfix}]"
        )
        self.bar = tqdm(
            total=self.total,
            initial=step if self.by_steps else min(seconds, self.total),
            desc=recipe.name,
            disable=not shown,
            mininterval=0.2 if sys.stderr.isatty() else 10.0,  # a log file wants fewer lines
            bar_format="{desc}: {percentage:3.0f}%|{bar}| " + tail,
            ncols=None if sys.stderr.isatty() else 120,
        )

    def show(self, step: int, seconds: float, loss: str) -> None:
        """Move to `step` and show the rate and the training loss."""
        rate = (step - self.first_step) / max(seconds - self.first_seconds, 1e-9)
        at = "" if self.by_steps else f"step {step}, "
        self.bar.set_postfix_str(f"{at}{rate:.1f} step/s, {loss}", refresh=False)
        self.bar.update((step if self.by_steps else min(seconds, self.total)) - self.bar.n)

    def note(self, text: str) -> None:
        """Print a line above the bar."""
        if not self.bar.disable:
            self.bar.write(text, file=sys.stderr)

    def close(self) -> None:
        """Leave the bar as it is."""
        self.bar.close()
