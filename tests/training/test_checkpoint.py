"""A checkpoint holds a run exactly, and no failure in the middle of a write loses the one before."""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from fastgen.models import Phase
from fastgen.training.checkpoint import Checkpoint, capture, read_checkpoint, restore, write_checkpoint
from fastgen.training.distributed import ALONE
from fastgen.training.ema import ExponentialMovingAverage
from fastgen.training.recipes import get_recipe
from fastgen.training.turn import Turn

RECIPE = get_recipe("mnist5k-demo").replace(steps=10)
CPU = torch.device("cpu")


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)
        self.register_buffer("count", torch.zeros(2, dtype=torch.int64))
        self.chain = torch.zeros(4, 3)

    def training_state(self) -> dict[str, torch.Tensor]:
        return {"chain": self.chain}


class Run:
    """Model, average and Adam, a few steps in."""

    def __init__(self, steps: int = 0) -> None:
        self.model = Net()
        self.ema = ExponentialMovingAverage(self.model, 0.9)
        phase = Phase("all", tuple(self.model.parameters()), lambda x, cond: {"loss": x.sum()})
        self.turn = Turn(phase, RECIPE.replace(lr=0.1), CPU, ALONE, sharded=False)
        for _ in range(steps):
            self.step()

    def step(self) -> None:
        self.turn.optimizer.zero_grad()
        noise = torch.randn(4, 3)  # from the global generator, whose state must come back too
        self.model.layer(noise).square().sum().backward()
        self.turn.optimizer.step()
        self.model.count += 1
        self.model.chain.add_(noise)
        self.ema.update(self.model, int(self.model.count[0]))

    def checkpoint(self, step: int = 3) -> Checkpoint:
        tensors = capture(self.model, self.ema, [self.turn], CPU)
        return Checkpoint(RECIPE, {"n": [1, 2]}, step, 1.25, tensors, {"data": "abc"})

    def restore(self, checkpoint: Checkpoint) -> None:
        restore(checkpoint, self.model, self.ema, [self.turn], CPU)

    def state(self) -> dict[str, torch.Tensor]:
        return {name: value.clone() for name, value in capture(self.model, self.ema, [self.turn], CPU).items()}


def assert_equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    assert [name for name in a if a[name].dtype != b[name].dtype or not torch.equal(a[name], b[name])] == []


def test_everything_comes_back_and_the_next_steps_are_the_same(tmp_path: Path) -> None:
    run = Run(steps=3)
    write_checkpoint(tmp_path / "c.safetensors", run.checkpoint())
    at_save = run.state()
    run.step()
    run.step()

    again = Run()
    saved = read_checkpoint(tmp_path / "c.safetensors")
    again.restore(saved)
    assert_equal(again.state(), at_save)
    assert (saved.recipe, saved.model_config, saved.step, saved.seconds, saved.notes) == (
        RECIPE,
        {"n": [1, 2]},
        3,
        1.25,
        {"data": "abc"},
    )
    again.step()
    again.step()
    assert_equal(again.state(), run.state())


def test_every_kind_of_state_is_in_the_file(tmp_path: Path) -> None:
    names = set(Run(steps=1).checkpoint().tensors)
    parts = {"layer.weight", "layer.bias"}
    assert names == (
        {f"model/{name}" for name in (*parts, "count")}
        | {f"ema/{name}" for name in (*parts, "count")}
        | {f"optimizer/{name}/{key}" for name in parts for key in ("step", "exp_avg", "exp_avg_sq")}
        | {"state/chain"}
        | {"rng/cpu"}
    )


@pytest.mark.parametrize("keep", [0.0, 0.01, 0.3, 0.9, 0.999])
def test_a_truncated_file_is_refused_by_name(tmp_path: Path, keep: float) -> None:
    path = tmp_path / "c.safetensors"
    write_checkpoint(path, Run(steps=1).checkpoint())
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(ValueError, match=r"c.safetensors is truncated or not a safetensors file"):
        read_checkpoint(path)


def test_foreign_newer_and_missing_files_are_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    with pytest.raises(FileNotFoundError, match=r"c.safetensors does not exist"):
        read_checkpoint(path)
    path.write_text("torch pickles are not read here" * 10)
    with pytest.raises(ValueError, match=r"truncated or not a safetensors file"):
        read_checkpoint(path)
    for metadata in (None, {"other": "1"}, {"fastgen": json.dumps({"format": "fastgen-model"})}):
        save_file({"a": torch.zeros(2)}, path, metadata=metadata)
        with pytest.raises(ValueError, match=r"no checkpoint of fastgen train"):
            read_checkpoint(path)
    save_file({"a": torch.zeros(2)}, path, metadata={"fastgen": '{"format": "fastgen-ch'})
    with pytest.raises(ValueError, match=r"metadata of .* is damaged"):
        read_checkpoint(path)
    header = json.dumps({"format": "fastgen-checkpoint", "version": 99})
    save_file({"a": torch.zeros(2)}, path, metadata={"fastgen": header})
    with pytest.raises(ValueError, match=r"format version 99; this fastgen reads up to 2"):
        read_checkpoint(path)


def test_a_checkpoint_of_another_model_lists_what_does_not_fit() -> None:
    run = Run(steps=1)
    checkpoint = run.checkpoint()
    checkpoint.tensors["model/extra"] = torch.zeros(1)
    checkpoint.tensors["model/layer.weight"] = torch.zeros(5, 3)
    del checkpoint.tensors["model/count"]
    before = run.state()
    with pytest.raises(ValueError, match=r"missing count; unexpected extra; layer.weight is \[5, 3\] instead of"):
        run.restore(checkpoint)
    assert_equal(run.state(), before)


def test_a_checkpoint_without_optimiser_state_is_refused() -> None:
    checkpoint = Run(steps=1).checkpoint()
    for key in ("step", "exp_avg", "exp_avg_sq"):
        del checkpoint.tensors[f"optimizer/layer.bias/{key}"]
    with pytest.raises(ValueError, match=r"optimiser state of layer.bias is missing"):
        Run().restore(checkpoint)


def test_a_full_disk_leaves_the_previous_checkpoint_and_no_litter(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    write_checkpoint(path, Run(steps=1).checkpoint(step=1))
    data = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(data) // 2, hard))  # writes beyond fail with EFBIG
    try:
        with pytest.raises(OSError, match=r"c.safetensors could not be written .* what was there before is whole"):
            write_checkpoint(path, Run(steps=2).checkpoint(step=2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == data
    assert os.listdir(tmp_path) == ["c.safetensors"]
    assert read_checkpoint(path).step == 1


def test_a_failing_sync_leaves_the_previous_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "c.safetensors"
    write_checkpoint(path, Run(steps=1).checkpoint(step=1))

    def no_space(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(OSError, match=r"No space left on device"):
        write_checkpoint(path, Run(steps=2).checkpoint(step=2))
    assert os.listdir(tmp_path) == ["c.safetensors"]
    assert read_checkpoint(path).step == 1


def test_kill_9_in_the_middle_of_writes_never_leaves_a_broken_file(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    code = """
        import sys, torch
        from fastgen.training.checkpoint import Checkpoint, write_checkpoint
        from fastgen.training.recipes import get_recipe
        tensors = {f"model/{i}": torch.zeros(1_000_000) for i in range(8)}
        recipe = get_recipe("mnist5k-demo")
        for step in range(10_000):
            write_checkpoint(sys.argv[1], Checkpoint(recipe, {}, step, 0.0, tensors))
    """
    torn = 0
    for delay in (0.0, 0.013, 0.031):
        path.unlink(missing_ok=True)
        process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code), str(path)])
        deadline = time.monotonic() + 60
        while not path.exists():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.005)
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert len(read_checkpoint(path).tensors) == 8
        torn += len(os.listdir(tmp_path)) > 1
        for litter in tmp_path.glob(".*.tmp"):
            litter.unlink()
    assert torn  # at least one kill hit a write, else the test has shown nothing
