"""Pictures of recorded speed-ups: the newest runs alone, a file a part and device, the same text every time."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

from bench import pictures, render
from bench.record import Record


def record(case: str, variant: str, speedup: float, date: str = "2026-01-01", device: str = "A CPU") -> Record:
    return {
        "case": case,
        "title": f"title of {case}",
        "variant": variant,
        "baseline": "plain",
        "speedup": speedup,
        "speedup_low": 0.9 * speedup,
        "speedup_high": 1.1 * speedup,
        "device": "cpu",
        "device_name": device,
        "threads": 2,
        "date": date,
    }


def test_each_part_of_each_device_has_its_newest_runs() -> None:
    records = [record("op/a", "ours", 3.0), record("op/a", "plain", 1.0), record("op/a", "ours", 4.5, "2026-02-01")]
    records += [record("op/b", "ours", 0.5), record("other/c", "ours", 2.0), record("op/a", "ours", 7.0, device="B")]
    found = pictures.pictures(records)
    assert list(found) == ["a-cpu-2-threads/op.svg", "a-cpu-2-threads/other.svg", "b-2-threads/op.svg"]
    root = ElementTree.fromstring(found["a-cpu-2-threads/op.svg"])
    texts = [entry.text for entry in root.iter("{http://www.w3.org/2000/svg}text")]
    assert "4.5" in texts and "0.5" in texts and "3" not in texts and texts.count("ours") == 2 and "plain" not in texts
    assert "over plain: title of op/a" in texts
    classes = [entry.attrib["class"] for entry in root.iter("{http://www.w3.org/2000/svg}rect")]
    assert classes == ["background", "bar f0", "bar f1"]  # slower is another colour


def test_pictures_are_written_and_checked(tmp_path: Path) -> None:
    assert render.recorded()
    assert pictures.main(["--out", str(tmp_path), "--check"]) == 1
    assert pictures.main(["--out", str(tmp_path)]) == 0
    assert pictures.main(["--out", str(tmp_path), "--check"]) == 0
    written = next(tmp_path.glob("*/*.svg"))
    written.write_text("<svg/>")
    assert pictures.main(["--out", str(tmp_path), "--check"]) == 1
