"""The demo's report states what was measured, and the demo fails when cached sampling is not exact."""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from fastgen import sampling
from fastgen.cli import _report, demo
from fastgen.data import read_image
from fastgen.training.recipes import RECIPES

Fastgen = Callable[..., tuple[int, str, str]]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, image_folder: Path) -> None:
    """The demo on 24 small images instead of MNIST; everything else is the demo."""
    recipe = dataclasses.replace(RECIPES[demo.RECIPE], data=str(image_folder), batch_size=8, workers=0)
    recipe = dataclasses.replace(recipe, config={**recipe.config, "n_filters": [4, 4], "n_mix": 2})
    monkeypatch.setitem(RECIPES, demo.RECIPE, recipe)


def test_demo_trains_samples_proves_and_reports(fastgen: Fastgen, small: None, tmp_path: Path) -> None:
    out = tmp_path / "demo"
    code, text, err = fastgen("demo", "--out", out, "--steps", 12, "-n", 7, "--naive", 2, "--quiet", "--device", "cpu")
    assert (code, err) == (0, "")
    assert "native and naive images of the same noise are equal" in text
    expected = {
        "samples.png",
        "training.png",
        "report.md",
        "report.html",
        "model.safetensors",
        "checkpoint.safetensors",
    }
    assert expected <= {path.name for path in out.iterdir()}

    page = (out / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 2 and "mnist5k-demo" in page  # both pictures, in the page itself
    report = (out / "report.md").read_text()
    for shown in ("![samples](samples.png)", "![training](training.png)", 'name = "mnist5k-demo"', torch.__version__):
        assert shown in report
    before, after = re.search(r"bits/dim (\S+) before, (\S+) after", text).groups()  # type: ignore[union-attr]
    assert f"| held-out, before training | {before} |" in report
    assert f"| held-out, after (averaged weights) | {after} ±" in report
    assert "equal, level by level" in report
    grid = read_image(out / "samples.png")
    assert grid.shape == (1, 3 * (8 * 3 + 2) + 2 + _report.HEADING, 3 * (6 * 3 + 2) + 2)
    assert (grid[:, : _report.HEADING] < 128).any()  # the labels are written

    code, text, _ = fastgen("sample", out, "-n", 1, "--quiet", "--out", tmp_path / "again.png")
    assert code == 0


def test_demo_replaces_an_earlier_demo_and_no_other_run(
    fastgen: Fastgen, small: None, trained: Path, tmp_path: Path
) -> None:
    command = ["demo", "--out", tmp_path, "--steps", 2, "-n", 1, "--naive", 1, "--quiet"]
    assert fastgen(*command).code == 0
    (tmp_path / "mine.txt").write_text("kept")
    assert fastgen(*command).code == 0
    assert (tmp_path / "mine.txt").exists()
    code, _, err = fastgen("demo", "--out", trained, "--steps", 2, "--quiet")
    assert code == 2 and "must not hold a run" in err
    assert (trained / "checkpoint.safetensors").exists()


def test_demo_fails_if_a_single_level_differs(
    fastgen: Fastgen, small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = sampling.sample

    def off_by_one(model: torch.nn.Module, n: int, **options: object) -> torch.Tensor:
        images = real(model, n, **options)  # type: ignore[arg-type]
        if options.get("method") != "naive" and next(model.parameters()).dtype == torch.float64:
            images[-1, 0, -1, -1] ^= 1
        return images

    monkeypatch.setattr("fastgen.sampling.sample", off_by_one)
    code, _, err = fastgen("demo", "--out", tmp_path, "--steps", 2, "-n", 1, "--naive", 2, "--quiet")
    assert code == 1
    assert "native and naive images of the same noise differ in float64" in err
    assert "**not equal**" in (tmp_path / "report.md").read_text()


def test_demo_without_matplotlib_says_so(
    fastgen: Fastgen, small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_agg", None)
    code, text, _ = fastgen("demo", "--out", tmp_path, "--steps", 2, "-n", 1, "--naive", 1, "--quiet")
    assert code == 0
    assert "matplotlib is not installed" in text
    assert not (tmp_path / "training.png").exists()
    assert "matplotlib is not installed" in (tmp_path / "report.md").read_text()


def test_both_images_are_drawn_and_compared_in_both_precisions(
    small: None, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fastgen.models.serialization import load

    seen: list[tuple[str, torch.dtype, int]] = []
    real = sampling.sample

    def spy(model: torch.nn.Module, n: int, **options: object) -> torch.Tensor:
        if "prepared" not in options:  # the timed call, which has its method in its plan
            seen.append((str(options["method"]), next(model.parameters()).dtype, n))
        return real(model, n, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("fastgen.sampling.sample", spy)
    compared = demo.compare(load(trained / "model.safetensors").eval(), 2, torch.device("cpu"))
    for dtype in (torch.float32, torch.float64):
        assert {(method, n) for method, kind, n in seen if kind == dtype} == {("native", 2), ("naive", 2)}
    assert compared.equal and compared.n == 2
    assert min(compared.naive, compared.first, compared.again) > 0
