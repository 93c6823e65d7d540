"""The table of classifiers: means of the newest record, and a run that has what it shows."""

from __future__ import annotations

import pytest

from bench import classifier
from fastgen.training import RECIPES


def test_a_run_fills_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = RECIPES["vae"].replace(steps=2).override(["config.hidden=8,8", "config.latent_dim=2"])
    monkeypatch.setitem(RECIPES, "vae", tiny)
    monkeypatch.setattr("fastgen.training.classifier.train_classifier.__kwdefaults__", FEW, raising=False)
    record = classifier.run(counts=(20,))
    assert [row["labels"] for row in record["rows"]] == [20] and record["held_out"] == 500
    lines = classifier.table([record]).splitlines()
    assert len(lines) == 3 and lines[2].startswith("| 20 | ") and lines[2].count("%") == 3


FEW = {
    "frozen": False, "counts": (20,), "steps": 2, "lr": 1e-3, "repeats": 1, "seed": 0, "device": "cpu",
    "report": lambda row: None,
}  # fmt: skip


def test_means_of_the_newest() -> None:
    old = {"recipe": "vae", "data": "digits", "rows": [{"labels": 1, "frozen": [0], "tuned": [0], "scratch": [0]}]}
    row = {"labels": 1000, "frozen": [0.5, 0.7], "tuned": [0.8], "scratch": [0.1]}
    assert "| 1,000 | 60.0% | 80.0% | 10.0% |" in classifier.table([old, {**old, "rows": [row]}])
    assert classifier.table([]) == "No recorded run yet."
