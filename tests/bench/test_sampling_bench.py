"""The performance model of sampling, the picture of it, and what rounded weights do."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
import torch

from bench import gpu, sampling_picture, sampling_precision, sampling_roofline
from bench.__main__ import main as bench_main
from bench.case import Case
from bench.cases.sampling_launches import FORWARD, HALF, METHODS, MODELS, Model
from bench.record import Record
from bench.sampling_roofline import Device, Step, Work, floors, measured, table, work_of
from fastgen.likelihoods import Categorical
from fastgen.models import GatedPixelCNN
from fastgen.sampling import explain
from fastgen.sampling.ancestral import _executor
from fastgen.sampling.executors import Executor, LoweredExecutor

SMALL = Model("GatedPixelCNN", {"n_layers": 2, "n_filters": 6, "levels": 5}, (1, 8, 8), (1, 4), "small")
UNIT = Device("test device", l2=1e3, flops=1e6, half_flops=2e6, launch=1.0, barrier=0.5, call=3.0)


def record(batch: int, variant: str, seconds: float, key: str = "pixelcnnpp-5x160") -> Record:
    return {
        "case": MODELS[key].name(key, batch), "variant": variant, "median_s": seconds, "device": "cuda",
        "device_name": "NVIDIA H100", "threads": 1, "date": "2026-01-01",
    }  # fmt: skip


def test_work_is_read_off_the_plan() -> None:
    model = SMALL.build("cpu")
    work = work_of(model, SMALL.shape)
    explained = explain(model, SMALL.shape, method="cuda_graph")
    assert work.pixels == 64
    assert len(work.launches) * work.repeats / work.pixels == explained.launches
    # a border does without some taps
    per_pixel = sum(part.operations for part in explained.parts if part.when == "pixel")
    assert 0.9 * per_pixel <= work.operations <= per_pixel


def test_floors_by_hand() -> None:
    """The longest of the step, the bytes and the arithmetic of every launch."""
    launches = (Step(10, 5), Step(1000, 5))
    work = Work(pixels=4, launches=launches, rows=(Step(0, 0),), repeats=2, calls=7, forward_calls=9, operations=2000)
    found = floors(work, UNIT, batch=3)
    # 40 + 60 bytes: 0.1 s; 4000 + 60 bytes: 4.06 s
    assert found[METHODS["cuda_graph"]] == pytest.approx(2 * (1.0 + 4.06 + 1.0))
    assert found[METHODS["megakernel"]] == pytest.approx(2 * (0.5 + 4.06 + 1.0))
    assert found[HALF] == pytest.approx(2 * (1.0 + 2.06 + 1.0))
    assert found[METHODS["cached"]] == 2 * 7 * 3.0
    assert found[FORWARD] == 4 * 9 * 3.0
    busy = floors(work, Device("busy", 1e9, 1e3, 1e3, 1.0, 0.5, 3.0), batch=3)
    assert busy[METHODS["cuda_graph"]] == pytest.approx(2 * (1.0 + 2 * 1000 * 3 / 1e3 + 1.0))


def test_measurements_stand_beside_their_floors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODELS, "small", SMALL)
    records = [record(4, METHODS["cuda_graph"], 0.25, "small"), record(4, FORWARD, 0.01, "small")]
    assert measured(records, "small", SMALL, 4, "H100") == {METHODS["cuda_graph"]: 0.25, FORWARD: 0.64}
    assert measured(records, "small", SMALL, 4, "A100") == {}
    lines = table("small", SMALL, sampling_roofline.DEVICES["h100"], records).splitlines()
    assert [line for line in lines if METHODS["cuda_graph"] in line and "0.25 s" in line and line.startswith("    4")]
    assert sampling_roofline.main(["--model", "small", "--device", "cpu"]) == 0


def test_the_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    label = METHODS["cuda_graph"]
    records = [record(1, label, 0.1), record(16, label, 0.2), record(1, FORWARD, 0.005)]
    curves = sampling_picture.curves(records, "pixelcnnpp-5x160", "H100")
    assert curves == {FORWARD: {1: 0.005 * 1024}, label: {1: 0.1, 16: 0.2 / 16}}
    monkeypatch.setattr("bench.render.recorded", lambda: records)
    assert sampling_picture.main([str(tmp_path / "out.svg")]) == 0
    drawn = ElementTree.parse(tmp_path / "out.svg").getroot()
    lines = drawn.findall("{http://www.w3.org/2000/svg}polyline")
    places = [[tuple(map(float, at.split(","))) for at in line.attrib["points"].split()] for line in lines]
    assert [len(line) for line in places] == [1, 2]
    (x1, y1), (x16, y16) = places[1]
    assert x1 == places[0][0][0] < x16
    assert places[0][0][1] < y1 < y16  # the slower the higher
    monkeypatch.setattr("bench.render.recorded", list)
    assert sampling_picture.main([str(tmp_path / "none.svg")]) == 1


def test_what_rounding_does() -> None:
    torch.manual_seed(0)
    model = GatedPixelCNN(1, n_layers=2, n_filters=6, likelihood=Categorical(1, 200)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter))

    def prepared(precision: str) -> Executor:
        executor = _executor(model, torch.zeros(12, 1, 6, 6), None, "cuda_graph", precision=None, explaining=True)
        assert isinstance(executor, LoweredExecutor)
        return LoweredExecutor(executor.plan, 12, torch.zeros(12, 1, 6, 6), model.likelihood, precision=precision)

    assert sampling_precision.differences(model, 12, prepared, "float32") == (0.0, 0.0)
    pixels, images = sampling_precision.differences(model, 12, prepared, "bfloat16")
    assert 0 < pixels < 0.5
    assert images > 0


def test_the_stage_of_sampling_runs_alone(tmp_path: Path) -> None:
    assert "sampling" not in [stage.name for stage in gpu.stages(tmp_path, [])]
    (stage,) = gpu.stages(tmp_path, ["sampling"])
    assert "sampling-gpu" in stage.command
    assert stage.limit_s <= gpu.TOTAL_S


def test_cases_can_be_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    cases = [
        Case(name, {"a": lambda device: int}, "a", name, tags=tags) for name, tags in (("x", ("slow",)), ("y", ()))
    ]
    chosen: list[Case] = []
    monkeypatch.setattr("bench.__main__.all_cases", lambda: cases)
    monkeypatch.setattr("bench.__main__.run_cases", lambda found, *args, **options: chosen.extend(found) or 0)
    assert bench_main(["run", "--device", "cpu", "--without", "slow"]) == 0
    assert [case.name for case in chosen] == ["y"]
