"""Markdown tables from recorded runs, and the README's copy of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from bench import classifier, codec, recipes
from bench.record import RESULTS, ROOT, Record, read
from bench.run import format_bytes, format_rate, format_time

README = ROOT / "README.md"
BEGIN = "<!-- bench:begin (written by `python -m bench render --write`) -->"
END = "<!-- bench:end -->"
SECTIONS: dict[str, Callable[[], str]] = {
    "recipes": lambda: recipes.table(recipes.recorded()),
    "classifier": lambda: classifier.table(classifier.recorded()),
    "codec": lambda: codec.table(codec.recorded()),
    "training": lambda: rates(recorded()),
}
"""What else is recorded has a place of its own in the README."""
TAG = "readme"  # cases with this tag are shown in the README


def latest(records: list[Record]) -> list[Record]:
    """Keep the newest run, of those that did not fail, of each case on each device."""
    runs: dict[tuple[str, str, int], list[Record]] = {}
    for record in records:
        if "error" in record:
            continue
        key = (record["device_name"], record["case"], record["threads"] if record["device"] == "cpu" else 0)
        run = runs.setdefault(key, [])
        if run and run[0]["date"] != record["date"]:
            run.clear()
        run.append(record)
    return [record for run in runs.values() for record in run]


def tables(records: list[Record]) -> str:
    """Render one section a device: a line on what it was measured with, then a row a variant."""
    devices: dict[str, list[Record]] = {}
    for record in latest(records):
        devices.setdefault(device_line(record), []).append(record)
    parts = []
    for heading, rows in devices.items():
        parts += [f"**{heading}**", "", _HEADER]
        shown = None
        for record in rows:
            parts.append(_row(record, first=record["case"] != shown))
            shown = record["case"]
        parts += ["", _measured_with(rows), ""]
    return "\n".join(parts).rstrip() or "No recorded runs yet."


def rates(records: list[Record]) -> str:
    """Render the cases that handle images as rates: a section a device, a row a variant; then what is to be known."""
    devices: dict[str, list[Record]] = {}
    for record in latest(records):
        if "items" in record:
            devices.setdefault(device_line(record), []).append(record)
    parts = []
    for heading, rows in devices.items():
        parts += [
            f"**{heading}**",
            "",
            "| what | variant | images/s | speed-up | extra memory |",
            "|---|---|--:|--:|--:|",
        ]
        shown = None
        for record in rows:
            cells = _row(record, first=record["case"] != shown).split(" | ")
            parts.append(" | ".join([*cells[:2], format_rate(record), *cells[3:]]))
            shown = record["case"]
        notes = sorted({f"{record['case']}: {record['notes']}." for record in rows if "notes" in record})
        parts += ["", _measured_with(rows), "", *notes, ""]
    return "\n".join(parts).rstrip() or "No recorded runs yet."


def on_gpus(records: list[Record]) -> str:
    """Say of each op with kernels on which GPUs it has been measured, at which commit."""
    lines = ["| kernels | run on a GPU |", "|---|---|"]
    for op in sorted(path.parent.name for path in (ROOT / "kernels").glob("*/triton.py")):
        runs = {
            f"{r['device_name']}, commit {r['commit'] or 'unknown'}"
            for r in latest(records)
            if r["device"] == "cuda" and r["case"].startswith(f"{op}/")
        }
        lines.append(f"| `{op}` | {'; '.join(sorted(runs)) or 'not yet: interpreter and offline compilation only'} |")
    return "\n".join(lines)


_HEADER = "| what | variant | time | speed-up | extra memory |\n|---|---|--:|--:|--:|"


def device_line(record: Record) -> str:
    """What was measured on: the GPU, or the processor and its threads."""
    return (
        record["device_name"] if record["device"] == "cuda" else f"{record['device_name']}, {record['threads']} threads"
    )


def _measured_with(rows: list[Record]) -> str:
    return "Measured " + "; ".join(sorted({stamp(r) for r in rows})) + "."


def stamp(record: Record) -> str:
    """With what, and when."""
    return (
        f"{record['date'][:10]}, torch {record['torch']}, triton {record['triton'] or 'none'}, "
        f"commit {record['commit'] or 'unknown'}{' (edited)' if record['dirty'] else ''}, source {record['source']}"
    )


def _row(record: Record, *, first: bool) -> str:
    own = record["variant"] == record["baseline"]
    speedup = "1" if own else f"{record['speedup']:.2f} ({record['speedup_low']:.2f}-{record['speedup_high']:.2f})"
    cells = [
        record["title"] if first else "",
        record["variant"],
        format_time(record["median_s"], record["unit"]),
        speedup,
        format_bytes(record["extra_bytes"]),
    ]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def recorded(folder: Path = RESULTS) -> list[Record]:
    """Read every file of results, by name."""
    return read(sorted(folder.glob("*.jsonl")))


def with_tables(text: str, records: list[Record]) -> str:
    """Return a README's text with what stands between its markers replaced: tagged cases and GPUs, and the sections.

    Raises:
        ValueError: markers are not there once each, in order.
    """
    shown = [record for record in records if TAG in record.get("tags", ())]
    text = _between(text, BEGIN, END, f"{tables(shown)}\n\n{on_gpus(records)}")
    for name, table in SECTIONS.items():
        text = _between(text, *markers(name), table())
    return text


def markers(section: str) -> tuple[str, str]:
    """What a section stands between."""
    return f"<!-- {section}:begin (written by `python -m bench render --write`) -->", f"<!-- {section}:end -->"


def _between(text: str, begin: str, end: str, new: str) -> str:
    """Replace what stands between two markers."""
    before, found_begin, rest = text.partition(begin)
    _, found_end, after = rest.partition(end)
    if not (found_begin and found_end) or begin in after or end in after:
        raise ValueError(f"render: the README must hold {begin} and then {end}, once each; it does not; add them.")
    return f"{before}{begin}\n{new}\n{end}{after}"


if __name__ == "__main__":
    import sys

    from bench.__main__ import main

    sys.exit(main(["render", *sys.argv[1:]]))
