"""What is compiled and checked for the masked convolution is what the launchers start."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from torch import Tensor

from fastgen.kernels._common.compilation import Job
from fastgen.kernels.masked_conv2d import configurations

MODULE = "fastgen.kernels.masked_conv2d.triton"
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
Launches = dict[str, dict[str, Any]]


class Kernel:
    """Stands in for a kernel and keeps the arguments by name that it is started with."""

    def __init__(self, name: str, signature: inspect.Signature, launches: Launches) -> None:
        self.name, self.signature, self.launches = name, signature, launches

    def __getitem__(self, grid: Any) -> Any:
        return self.launch

    def launch(self, *arguments: Any, num_warps: int, num_stages: int | None = None, **constants: Any) -> None:
        options = {"num_warps": num_warps} | ({} if num_stages is None else {"num_stages": num_stages})
        self.launches[self.name] = {**self.signature.bind(*arguments, **constants).arguments, "options": options}


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> Launches:
    """The arguments by kernel, filled as launchers run."""
    kernels = pytest.importorskip(MODULE)
    found: Launches = {}
    for name in {job.kernel for job in configurations.jobs()}:
        monkeypatch.setattr(kernels, name, Kernel(name, inspect.signature(getattr(kernels, name).fn), found))
    return found


def image(channels: int, dtype: torch.dtype, stride: int = 1) -> Tensor:
    return torch.zeros(2, channels, -(-6 // stride), -(-7 // stride), dtype=dtype)


def start(job: Job) -> None:
    """Call the launcher with tensors that the job describes."""
    from fastgen.kernels.masked_conv2d import triton as kernels

    constants = job.constants
    pointer = next(
        kind for name, kind in job.signature.items() if name in ("x_ptr", "weight_ptr", "gradient_ptr", "pre_ptr")
    )
    dtype, inputs, stride = DTYPES[pointer.removeprefix("*")], constants.get("INPUTS", 8), constants.get("STRIDE", 1)
    kernel = constants.get("KW", 3)
    geometry = (kernel * kernel // 2 + 1, kernel // 2, kernel // 2, False, stride, 1)
    groups: tuple[Tensor | None, Tensor | None] = (None, None)
    if constants.get("GROUPED"):
        groups = (torch.zeros(inputs, dtype=torch.int32), torch.zeros(constants["OUTPUTS"], dtype=torch.int32))
    if job.kernel == "_masked_conv2d_gate_backward_kernel":
        features = constants["F"]
        kernels.masked_conv2d_gate_backward(image(features, dtype), image(2 * features, dtype), "tanh")
    elif job.kernel in ("_masked_conv2d_weight_gradient_kernel", "_masked_conv2d_unpack_kernel"):
        outputs = constants["OUTPUTS"]
        weight = torch.zeros(outputs, inputs, kernel, kernel, dtype=dtype)
        kernels.masked_conv2d_weight_gradient(image(outputs, dtype), image(inputs, dtype), weight, *groups, *geometry)
    elif constants["MIRRORED"]:
        weight = torch.zeros(inputs, constants["F"], kernel, kernel, dtype=dtype)
        kernels.masked_conv2d_input_gradient(image(inputs, dtype, stride), weight, *groups, 6, 7, *geometry)
    else:
        packed = job.kernel == "_masked_conv2d_pack_kernel"
        gate = "tanh" if packed else {value: key for key, value in configurations.GATES.items()}[constants["GATE"]]
        outputs = constants["OUTPUTS"] if packed else constants["F"] * (2 if gate else 1)
        features = outputs // 2 if gate else outputs
        kernels.masked_conv2d_forward(
            image(inputs, dtype),
            torch.zeros(outputs, inputs, kernel, kernel, dtype=dtype),
            torch.zeros(outputs, dtype=dtype),
            image(outputs, dtype) if gate else torch.zeros(2, outputs, dtype=dtype),
            image(features, dtype),
            *groups,
            *geometry,
            gate,
            True,
        )


def kind_of(value: Any) -> str:
    """Triton's type of an argument."""
    if isinstance(value, Tensor):
        names = {dtype: name for name, dtype in DTYPES.items()} | {torch.int32: "i32"}
        return f"*{names[value.dtype]}"
    assert isinstance(value, int)
    return "i32" if value < 2**31 else "i64"


@pytest.mark.parametrize("job", configurations.jobs(), ids=lambda job: job.name)
def test_the_launchers_start_what_is_compiled(monkeypatch: pytest.MonkeyPatch, launches: Launches, job: Job) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", "TF32" in job.name)
    start(job)
    got = launches[job.kernel]
    assert got.pop("options") == job.options
    assert {name: value for name, value in got.items() if name in job.constants} == job.constants
    # a pointer that is not followed stands in where a tensor is missing
    followed = {name: kind for name, kind in job.signature.items() if name not in _unused(job.constants)}
    assert {name: kind_of(value) for name, value in got.items() if name in followed} == followed
    assert set(got) == {*job.constants, *job.signature}


def _unused(constants: Any) -> set[str]:
    names = {"BIAS": "bias_ptr", "CONDITION": "condition_ptr", "RESIDUAL": "residual_ptr", "SAVE": "pre_ptr"}
    return {pointer for flag, pointer in names.items() if flag in constants and not constants[flag]}


@pytest.mark.parametrize("kind", ["half", "tf32", "float32"])
@pytest.mark.parametrize("channels", [1, 3, 15, 16, 17, 31, 64, 65, 80, 96, 128, 160, 192, 255, 512, 1000])
def test_tiles_are_blocks_that_waste_little(kind: str, channels: int) -> None:
    for inputs in (channels, 128):
        tiles = [configurations.convolution_tile(kind, inputs, channels, halves) for halves in (1, 2)]
        for tile in (*tiles, configurations.weight_gradient_tile(kind, inputs, channels)):
            for size in (tile.rows, tile.columns, tile.depth):
                assert size >= 16 and size & (size - 1) == 0
            padded = configurations.padded(channels, tile.columns)
            assert padded - channels < 16 or padded <= channels * 5 / 4
