"""Two recorded runs side by side: what got faster, what got slower, and what is within the noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import render
from bench.record import Record
from bench.run import format_time

FORMATS = ("markdown", "text")


@dataclass(frozen=True)
class Row:
    """A variant of a case in both runs.

    Attributes:
        before: its record in the first run.
        after: its record in the second.
        ratio: time after / time before: below 1 it got faster.
        low, high: the ratio from quartile to quartile, at its least and at its most.
    """

    before: Record
    after: Record
    ratio: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """Faster or slower where the quartiles of the two runs do not overlap, else within the noise."""
        return "faster" if self.high < 1 else "slower" if self.low > 1 else "within the noise"


@dataclass(frozen=True)
class Comparison:
    """What two runs have in common, and (case, variant) of what only one of them has."""

    rows: list[Row]
    only_before: list[tuple[str, str]]
    only_after: list[tuple[str, str]]

    def slower_than(self, percent: float) -> list[Row]:
        """What takes more than `percent` longer, beyond the noise."""
        return [row for row in self.rows if row.verdict == "slower" and row.ratio > 1 + percent / 100]


def select(selector: str, recorded: Sequence[Record] | None = None) -> list[Record]:
    """The newest records that FILE, DEVICE, FILE@COMMIT, DEVICE@COMMIT or @COMMIT names, one run of each case.

    A device is part of its name as it is recorded, a commit the beginning of one; without a file all of bench/results
    are searched. A run on other threads is another device.

    Raises:
        ValueError: nothing is recorded under it, or several devices are.
    """
    where, _, commit = selector.partition("@")
    if Path(where).is_file():
        from bench.record import read

        found = read([Path(where)])
    else:
        everything = render.recorded() if recorded is None else recorded
        found = [r for r in everything if where.lower() in render.device_line(r).lower()] if where else [*everything]
    found = [r for r in found if (r.get("commit") or "").startswith(commit)]
    chosen = render.latest(found)
    devices = sorted({render.device_line(record) for record in chosen})
    if len(devices) != 1:
        raise ValueError(
            f"compare: {selector!r} must name runs of one device, FILE or part of its name, perhaps @COMMIT; got "
            f"{', '.join(devices) or 'none'}; see `python -m bench render`"
        )
    return chosen


def compare(before: Sequence[Record], after: Sequence[Record]) -> Comparison:
    """Pair the records of two runs by case and variant, in the order of the first."""
    old, new = ({(r["case"], r["variant"]): r for r in records} for records in (before, after))
    rows = [
        Row(
            old[key],
            new[key],
            new[key]["median_s"] / old[key]["median_s"],
            new[key]["low_s"] / old[key]["high_s"],
            new[key]["high_s"] / old[key]["low_s"],
        )
        for key in old
        if key in new
    ]
    return Comparison(rows, [key for key in old if key not in new], [key for key in new if key not in old])


def table(found: Comparison, form: str = "markdown") -> str:
    """Render a comparison: a row a variant, and what one side lacks."""
    header = ["case", "variant", "before", "after", "after / before", "quartiles", ""]
    lines = [_cells(row) for row in found.rows]
    missing = [
        f"Only {side}: " + ", ".join(f"{case} ({variant})" for case, variant in keys) + "."
        for side, keys in (("before", found.only_before), ("after", found.only_after))
        if keys
    ]
    sides = [_measured(name, [getattr(row, name) for row in found.rows]) for name in ("before", "after")]
    if not lines:
        return "\n\n".join(["Nothing to compare: the two runs have no case and variant in common.", *missing])
    if form == "markdown":
        rows = [header, ["---", "---", "--:", "--:", "--:", "--:", "---"], *lines]
        body = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)
    else:
        widths = [max(len(row[k]) for row in [header, *lines]) for k in range(len(header))]
        body = "\n".join(
            "  ".join(cell.ljust(w) if k < 2 else cell.rjust(w) for k, (cell, w) in enumerate(zip(row, widths)))
            for row in [header, *lines]
        )
    return "\n\n".join([body, "\n".join(sides), *missing])


def _cells(row: Row) -> list[str]:
    times = [format_time(record["median_s"], record["unit"]) for record in (row.before, row.after)]
    quartiles = f"{row.low:.2f}-{row.high:.2f}"
    return [row.before["case"], row.before["variant"], *times, f"{row.ratio:.2f}", quartiles, row.verdict]


def _measured(side: str, records: list[Record]) -> str:
    stamps = {f"{render.device_line(r)}: {render.stamp(r)}" for r in records}
    return f"{side}: {'; '.join(sorted(stamps))}."
