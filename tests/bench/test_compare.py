"""Two recorded runs side by side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench import __main__ as command
from bench import record, render
from bench.compare import compare, select, table


def row(case: str, variant: str, low: float, median: float, high: float, **changes: Any) -> record.Record:
    return {
        "case": case,
        "variant": variant,
        "baseline": variant,
        "unit": "ms",
        "low_s": low,
        "median_s": median,
        "high_s": high,
        "device": "cpu",
        "device_name": "Processor",
        "threads": 2,
        "torch": "2.13.0",
        "triton": None,
        "commit": "aaa111",
        "dirty": False,
        "source": "def",
        "date": "2030-01-02T03:04:05+00:00",
        **changes,
    }


BEFORE = [
    row("a/8", "plain", 0.9, 1.0, 1.1),
    row("a/8", "ours", 0.9, 1.0, 1.1),
    row("b/8", "ours", 0.9, 1.0, 1.1),
    row("gone/8", "ours", 1.0, 1.0, 1.0),
]
LATER = {"commit": "bbb222", "date": "2030-02-01T00:00:00+00:00", "dirty": True}
AFTER = [
    row("a/8", "plain", 1.0, 1.15, 1.3, **LATER),
    row("a/8", "ours", 1.4, 1.5, 1.6, **LATER),
    row("b/8", "ours", 0.4, 0.5, 0.6, **LATER),
    row("new/8", "ours", 1.0, 1.0, 1.0, **LATER),
]


def test_ratios_spread_and_verdicts() -> None:
    found = compare(BEFORE, AFTER)
    assert [(r.ratio, r.verdict) for r in found.rows] == [
        (pytest.approx(1.15), "within the noise"),
        (pytest.approx(1.5), "slower"),
        (pytest.approx(0.5), "faster"),
    ]
    slower = found.rows[1]
    assert (slower.low, slower.high) == (pytest.approx(1.4 / 1.1), pytest.approx(1.6 / 0.9))
    assert (found.only_before, found.only_after) == ([("gone/8", "ours")], [("new/8", "ours")])


def test_only_what_is_beyond_the_noise_counts_as_slower() -> None:
    found = compare(BEFORE, AFTER)
    assert [r.ratio for r in found.slower_than(10)] == [pytest.approx(1.5)]  # 1.15 is within the noise
    assert found.slower_than(60) == []


def test_table_in_both_formats() -> None:
    found = compare(BEFORE, AFTER)
    markdown = table(found)
    assert "| a/8 | ours | 1,000 ms | 1,500 ms | 1.50 | 1.27-1.78 | slower |" in markdown
    assert "Only before: gone/8 (ours)." in markdown and "Only after: new/8 (ours)." in markdown
    assert "after: Processor, 2 threads: 2030-02-01, torch 2.13.0" in markdown and "bbb222 (edited)" in markdown
    text = table(found, "text").splitlines()
    assert text[2].split() == ["a/8", "ours", "1,000", "ms", "1,500", "ms", "1.50", "1.27-1.78", "slower"]
    assert len({len(line) for line in text[:4]}) == 1  # columns line up
    assert table(compare(BEFORE[:1], AFTER[2:3])).startswith("Nothing to compare")


class TestSelect:
    OTHER = row("a/8", "ours", 1.0, 1.0, 1.0, device_name="Other")

    def test_by_device_and_commit(self) -> None:
        everything = [*BEFORE, *AFTER, self.OTHER]
        assert select("processor", everything)[0]["commit"] == "bbb222"  # the newest of a case
        assert select("processor@aaa", everything) == BEFORE
        assert select("@bbb222", everything) == AFTER

    def test_by_file(self, tmp_path: Path) -> None:
        path = tmp_path / "run.jsonl"
        record.append(path, [*BEFORE, *AFTER])
        assert select(f"{path}@aaa111", []) == BEFORE

    def test_several_devices_or_none_are_refused(self) -> None:
        with pytest.raises(ValueError, match=r"must name runs of one device.*Other, 2 threads, Processor, 2 threads"):
            select("", [*BEFORE, self.OTHER])
        with pytest.raises(ValueError, match=r"'nothing@abc' must name.*got none"):
            select("nothing@abc", BEFORE)

    def test_other_threads_are_another_device(self) -> None:
        four = row("a/8", "ours", 1.0, 1.0, 1.0, threads=4)
        assert select("processor, 4", [*BEFORE, four]) == [four]


class TestCommand:
    @pytest.fixture
    def files(self, tmp_path: Path) -> list[str]:
        paths = []
        for name, records in (("a", BEFORE), ("b", AFTER)):
            paths.append(str(tmp_path / f"{name}.jsonl"))
            record.append(Path(paths[-1]), records)
        return paths

    def test_status_says_whether_something_got_slower(
        self, files: list[str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert command.main(["compare", *files]) == 0
        assert command.main(["compare", *files, "--fail-slower", "60", "--format", "markdown"]) == 0
        assert "| slower |" in capsys.readouterr().out
        assert command.main(["compare", *files, "--fail-slower", "10"]) == 1
        assert "a/8 (ours) takes 1.50 times as long" in capsys.readouterr().err
        assert command.main(["compare", *files[::-1], "--fail-slower", "10"]) == 1  # b/8 was faster

    def test_nothing_in_common_is_no_success(self, tmp_path: Path, files: list[str]) -> None:
        other = tmp_path / "other.jsonl"
        record.append(other, [row("else/8", "ours", 1.0, 1.0, 1.0)])
        assert command.main(["compare", files[0], str(other), "--fail-slower", "10"]) == 1
        assert command.main(["compare", files[0], str(other)]) == 0

    def test_an_unknown_run(self, files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
        assert command.main(["compare", files[0], "no-such-device"]) == 2
        assert "must name runs of one device" in capsys.readouterr().err


def test_every_recorded_run_says_what_it_was_measured_with() -> None:
    wanted = {"device", "device_name", "threads", "python", "torch", "triton", "commit", "dirty", "source", "date"}
    for found in render.recorded():
        assert wanted <= found.keys(), f"{found['case']} lacks {wanted - found.keys()}"


def test_the_commit_and_whether_it_was_edited_come_from_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import subprocess

    def git(*words: str) -> None:
        subprocess.run(["git", "-C", str(tmp_path), "-c", "user.name=n", "-c", "user.email=e", *words], check=True)

    (tmp_path / "fastgen").mkdir()
    source = tmp_path / "fastgen" / "a.py"
    source.write_text("1")
    git("init", "-q")
    git("add", ".")
    git("commit", "-q", "-m", "first")
    monkeypatch.setattr(record, "ROOT", tmp_path)
    clean = record.environment("cpu")
    assert len(clean["commit"]) == 12 and clean["dirty"] is False
    source.write_text("2")
    edited = record.environment("cpu")
    assert edited["dirty"] is True and edited["commit"] == clean["commit"] and edited["source"] != clean["source"]
    json.dumps(edited)


def test_rates_are_shown_for_cases_that_handle_images() -> None:
    common = {
        "title": "steps",
        "tags": [],
        "speedup": 1.0,
        "speedup_low": 0.9,
        "speedup_high": 1.1,
        "extra_bytes": None,
    }
    plain = row("training/x", "plain", 0.9, 2.0, 1.1, items=32, notes="why", **common)
    shown = render.rates([plain, row("a/8", "plain", 1.0, 1.0, 1.0, **common)])
    assert "| steps | plain | 16.0 | 1 | - |" in shown and "training/x: why." in shown
    assert shown.count("\n| ") == 2  # the header and one row: no case without images
    assert render.rates([]) == "No recorded runs yet."
