"""The cases as pytest-benchmark tests: `pytest bench --benchmark-only`. Not part of `make test`."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from bench.case import Case, all_cases

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
PAIRS = [(case, label) for case in all_cases() if DEVICE in case.devices for label in case.variants]


@pytest.mark.parametrize(("case", "label"), PAIRS, ids=[f"{case.name}-{label}" for case, label in PAIRS])
def test_case(case: Case, label: str, benchmark: Any) -> None:
    """Time one variant; pytest-benchmark compares those of one case as a group."""
    benchmark.group = case.name
    run = case.variants[label](DEVICE)

    def synchronized() -> None:
        run()
        if DEVICE == "cuda":
            torch.cuda.synchronize()

    benchmark(synchronized)
