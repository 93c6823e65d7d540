"""What `impl="auto"` takes on CUDA is written from measurements, for a dtype as a whole or not at all."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.cases import masked_conv2d as bench
from bench.cases.masked_conv2d import KERNELS, Problem
from fastgen.kernels._common.tiling import runs_triton

Records = list[dict[str, Any]]
PLAIN = ("9.0", "bfloat16", "plain forward", 256)


def measured(dtype: str = "bfloat16", kernels: float = 1.0, **changes: Any) -> Records:
    """Records of the whole sweep: the library takes 2 s compiled and 3 s not, the kernels `kernels` seconds."""
    seconds = {"weight * mask": 9.0, "cropped convolution": 3.0, "cropped convolution, compiled": 2.0, KERNELS: kernels}
    env = {"device": "cuda", "capability": "9.0", "source": "abc"}
    return [
        {"case": problem.name, "variant": variant, "median_s": median} | env | changes
        for problem in bench.sweep(dtype)
        for variant, median in seconds.items()
    ]


def slower(records: Records, word: str) -> Records:
    """The kernels take 2 s where the case has a word."""
    return [r | {"median_s": 2.0} if r["variant"] == KERNELS and word in r["case"] else r for r in records]


def test_the_fastest_in_all_problems_of_a_key() -> None:
    table = bench.verdicts(measured())
    assert set(table.values()) == {"triton"} and table[PLAIN] == "triton"
    kinds = {(kind, channels) for _, _, kind, channels in table}
    assert ("image plain training", 64) in kinds and ("gated training", 1024) in kinds and len(kinds) == 24
    one = bench.verdicts(slower(measured(), "forward-2x3-B-gated/32x64x32x32"))
    assert [key for key, verdict in one.items() if verdict == "library"] == [("9.0", "bfloat16", "gated forward", 128)]
    assert set(bench.verdicts(measured(kernels=1.99)).values()) == {"library"}  # within the noise


def test_the_last_measurement_counts() -> None:
    again = slower(measured(), "forward-3x3-B/32x256x32x32")
    assert bench.verdicts(measured() + again)[PLAIN] == "library"
    assert bench.verdicts(again + measured())[PLAIN] == "triton"


def test_float32_is_that_of_pytorchs_convolutions() -> None:
    assert all(key[1] == "tf32" for key in bench.verdicts(measured("float32")))


def failed(records: Records) -> Records:
    """The first case measured again, and failing."""
    return [*records, {"case": records[0]["case"], "error": "OutOfMemoryError"} | {k: records[0][k] for k in ENV}]


ENV = ("device", "capability", "source")


@pytest.mark.parametrize(
    ("records", "message"),
    [
        (measured()[:-1], "not measured: masked_conv2d/forward-and-gradient-2x2-B-gated/32x128x64x64"),
        (measured()[4:], "not measured: masked_conv2d/forward-7x7-A"),
        (failed(measured()), "not measured: masked_conv2d/forward-7x7-A"),
        (measured() + measured("float16")[:-4], "not measured: .*-float16"),
        (measured() + measured(capability="8.0"), "one capability, by --measure; got 8.0, 9.0"),
        (measured() + measured(source="other"), "one source, by --measure; got abc, other"),
        (measured(capability=None), "got None"),
        (measured(device="cpu"), "got none"),
    ],
)
def test_nothing_is_written_from_less(
    records: Records, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ValueError, match=message):
        bench.verdicts(records)
    results, table = tmp_path / "results.jsonl", tmp_path / "table.py"
    results.write_text("".join(json.dumps(record) + "\n" for record in records))
    monkeypatch.setattr(bench, "TABLE", table)
    assert bench.main([str(results)]) == 1
    assert "Nothing is written" in capsys.readouterr().err and not table.exists()


def test_written_and_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results, table = tmp_path / "results.jsonl", tmp_path / "table.py"
    results.write_text("".join(json.dumps(record) + "\n" for record in measured()))
    table.write_text(bench.TABLE.read_text())
    monkeypatch.setattr(bench, "TABLE", table)
    for _ in range(2):  # over an older one too
        assert bench.main([str(results)]) == 0
        assert runpy.run_path(str(table))["TABLE"][PLAIN] == "triton"


def test_only_what_was_measured_is_replaced() -> None:
    old = {
        ("9.0", "bfloat16", "plain forward", 7): "triton",
        ("8.0", "bfloat16", "plain forward", 256): "library",
        ("9.0", "tf32", "plain forward", 256): "library",
    }
    table = bench.merged(old, {PLAIN: "triton"})
    assert table == {PLAIN: "triton"} | {key: verdict for key, verdict in old.items() if key[3] != 7}


def test_measuring_needs_a_gpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    assert bench.main(["--measure", str(tmp_path / "results.jsonl")]) == 2
    assert "needs a CUDA device" in capsys.readouterr().err


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("layer", bench.LAYERS, ids=lambda layer: layer.__name__)
def test_the_variants_agree(layer: Any, training: bool) -> None:
    problem: Problem = layer(2, 1, 5, training)._replace(dtype="float32")
    makers = [bench._naive, bench._cropped, *([bench._kernels] if runs_triton(torch.device("cpu")) else [])]
    results = [bench._variant(problem, make, last=make is not bench._naive)("cpu")() for make in makers]
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], rtol=1e-3, atol=1e-4)
    with pytest.raises(AssertionError):
        bench._close({"one": results[0], "other": [1.1 * tensor for tensor in results[0]]})
