"""What a benchmark is: a name, and two or more ways to do the same work."""

from __future__ import annotations

import atexit
import importlib
import pkgutil
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

Run = Callable[[], object]
Builder = Callable[[str], Run]

UNITS = {"s": 1.0, "ms": 1e3, "us": 1e6}


@dataclass(frozen=True)
class Case:
    """Ways to do the same work, timed side by side.

    Attributes:
        name: "<subject>/<task>/<size>", unique, for example "dmol/loss-and-gradient/64x3x32x32".
        variants: label -> builder. A builder takes the device ("cpu" or "cuda"), makes the inputs there, and
            returns the function without arguments that is timed. Inputs come from a seeded generator, so that
            all variants see the same ones. What the function returns is handed to `check`.
        baseline: the label that the others' speed-ups are relative to.
        title: what is measured, in one line, for the tables.
        unit: unit of time in the tables: "s", "ms" or "us".
        devices: the kinds of device that it can run on.
        tags: words to filter by, besides the name. A case tagged "readme" has a row in the README's table.
        check: gets {label: result of one call}, and raises if the variants disagree: a wrong answer has no
            speed.
        items: images that a call handles, where a rate says more than a time; 0 leaves it out.
        notes: what a reader of the figures must know beside them.
        in_process: whether the work is done in this process, whose memory can be measured.

    Raises:
        ValueError: fewer than one variant, an unknown baseline or unit, no device.
    """

    name: str
    variants: Mapping[str, Builder]
    baseline: str
    title: str
    unit: str = "ms"
    devices: tuple[str, ...] = ("cpu", "cuda")
    tags: tuple[str, ...] = ()
    check: Callable[[Mapping[str, object]], None] | None = None
    items: int = 0
    notes: str = ""
    in_process: bool = True

    def __post_init__(self) -> None:
        """Refuse what the runner and the renderer could not handle."""
        where = f"Case {self.name!r}"
        if self.baseline not in self.variants:
            raise ValueError(
                f"{where}: baseline must be one of the variants; got {self.baseline!r}, "
                f"have {', '.join(self.variants) or 'none'}."
            )
        if self.unit not in UNITS:
            raise ValueError(f"{where}: unit must be one of {', '.join(UNITS)}; got {self.unit!r}.")
        if not self.devices or not set(self.devices) <= {"cpu", "cuda"}:
            raise ValueError(f"{where}: devices must be 'cpu', 'cuda' or both; got {self.devices!r}.")

    def matches(self, words: list[str]) -> bool:
        """Tell whether every word is part of the name or equal to a tag."""
        return all(word in self.name or word in self.tags for word in words)


def scratch_folder() -> Path:
    """An empty folder that is removed when the process ends."""
    folder = Path(tempfile.mkdtemp(prefix="fastgen-bench-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def all_cases() -> list[Case]:
    """Collect the cases of every module in `bench/cases`, in the order of their files.

    Raises:
        ValueError: two cases have one name.
    """
    from bench import cases as folder

    found: list[Case] = []
    for module in sorted(pkgutil.iter_modules(folder.__path__), key=lambda m: m.name):
        found += importlib.import_module(f"{folder.__name__}.{module.name}").cases()
    names = [case.name for case in found]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"bench: the names of cases must be unique; {name!r} is there twice.")
    return found
