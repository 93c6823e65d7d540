"""Speed-ups as pictures, from recorded runs: `python -m bench.pictures`.

An SVG for each part that has been measured on each device, next to the results:
`bench/results/pictures/DEVICE/PART.svg`.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from bench import render
from bench.record import RESULTS, Record
from fastgen._files import atomic_write
from fastgen.report import Bar, bar_chart, standalone

FOLDER = RESULTS / "pictures"


def pictures(records: list[Record]) -> dict[str, str]:
    """Charts by their path below the folder: the newest run of each case, each variant over its baseline.

    Bars begin at 1, where a variant is as fast as the baseline; the whisker has the quartiles of paired ratios. Axes
    are logarithmic, so that twice as fast and twice as slow are equally far.
    """
    parts: dict[tuple[str, str], list[Record]] = {}
    for record in render.latest(records):
        if record["variant"] != record["baseline"]:
            parts.setdefault((device_of(record), record["case"].split("/")[0]), []).append(record)
    charts = {}
    for (device, part), rows in sorted(parts.items()):
        bars = [
            Bar(
                row["variant"],
                row["speedup"],
                row["speedup_low"],
                row["speedup_high"],
                f"over {row['baseline']}: {row['title']}",
                colour=0 if row["speedup"] >= 1 else 1,
            )
            for row in rows
        ]
        title = f"{part}: times as fast as the baseline, {device}"
        slug = re.sub(r"[^a-z0-9.]+", "-", device.lower()).strip("-")
        charts[f"{slug}/{part}.svg"] = standalone(bar_chart(bars, title, log=True, reference=1.0))
    return charts


def device_of(record: Record) -> str:
    """What was measured on, as the tables name it."""
    name: str = record["device_name"]
    return name if record["device"] == "cuda" else f"{name}, {record['threads']} threads"


def main(arguments: list[str] | None = None) -> int:
    """Write the pictures; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.pictures", description=__doc__)
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder (default: bench/results/pictures)")
    parser.add_argument("--check", action="store_true", help="fail if the folder does not hold these pictures")
    options = parser.parse_args(arguments)
    charts = pictures(render.recorded())
    if options.check:
        wrong = [name for name, text in charts.items() if not _holds(options.out / name, text)]
        if wrong:
            print(f"bench.pictures: {', '.join(wrong)} differ from bench/results; run it again.", file=sys.stderr)
        return 1 if wrong else 0
    for name, text in charts.items():
        atomic_write(options.out / name, text)
        print(options.out / name)
    return 0


def _holds(path: Path, text: str) -> bool:
    return path.exists() and path.read_text(encoding="utf-8") == text


if __name__ == "__main__":
    sys.exit(main())
