"""Two processes train the run of one, share evaluation, survive the death of one, and refuse what cannot be shared."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from fastgen.cli import main
from fastgen.data import TensorImages
from fastgen.training.checkpoint import read_checkpoint
from fastgen.training.distributed import Ranks
from fastgen.training.log import read_log
from fastgen.training.recipes import Recipe
from fastgen.training.run import CHECKPOINT, LOG, MODEL, Run

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="needs torch.distributed")

RUNS = """
import sys
import torch
import torch.distributed as dist
from fastgen.data import TensorImages
from fastgen.models import DCGAN, MODELS
from fastgen.sampling.noise import uniforms
from fastgen.training import Recipe, train

torch.set_num_threads(1)
out = sys.argv[1]
several = len(sys.argv) > 2
if several:
    dist.init_process_group("gloo")
generator = torch.Generator().manual_seed(0)
levels = torch.randint(0, 256, (20, 1, 8, 8), generator=generator, dtype=torch.uint8)
images = TensorImages("noise", levels, torch.arange(20) % 2, ("a", "b"))


class SharedNoise(DCGAN):
    '''The codes of a step are those of the whole batch, of which a process takes its share.'''

    calls = 0

    def random_latent(self, n):
        if not self.training:
            return super().random_latent(n)
        rank, world_size = (dist.get_rank(), dist.get_world_size()) if several else (0, 1)
        self.calls += 1
        drawn = uniforms(self.calls, torch.arange(world_size * n), 1, *self.latent_shape, 1)[:, 0, 0]
        return drawn[rank * n : (rank + 1) * n].to(next(self.parameters()))

    def finish(self, batches):
        pass  # its noise is no process's share of anything


MODELS["SharedNoise"] = SharedNoise
plain = {"data": "none", "batch_size": 8, "steps": 5, "ema_decay": 0.9, "log_interval": 1, "checkpoint_interval": 99}
recipes = {
    "pixelcnn++": Recipe(
        name="a", model="PixelCNNPP", config={"n_resnet": 1, "n_filters": [4, 4], "n_mix": 2, "dropout": 0.0},
        init_from_data=True, clip_norm=1.0, accumulate=2, conditional=True, lr=5e-3, eval_interval=3, **plain,
    ),
    "sharded": Recipe(
        name="b", model="ImageGPT", config={"n_layers": 2, "n_features": 8, "n_heads": 2},
        sharding="fsdp", clip_norm=0.5, optimizer="adamw", weight_decay=0.1, accumulate=2, lr=5e-3, **plain,
    ),
    "gan": Recipe(
        name="c", model="SharedNoise", config={"latent_dim": 4, "n_filters": [4, 6]},
        adversarial={"r1": 1.0, "r1_interval": 2, "ada_target": 0.6, "augment": "cutout", "augment_p": 0.0,
                     "ada_images": 1e9, "d_steps": 2},
        lr=1e-3, sample_grid=6, **{**plain, "batch_size": 4},
    ),
}
for name, recipe in recipes.items():
    train(recipe, f"{out}/{name}", device="cpu", progress=False, data=(images, images))
if several:
    dist.destroy_process_group()
"""


def torchrun(*arguments: str, options: Sequence[str] = (), **popen: object) -> subprocess.Popen[str]:
    """Start two processes by torchrun on a port of their own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *options]
    return subprocess.Popen([*launcher, *arguments], env=environment, stderr=subprocess.PIPE, text=True, **popen)  # type: ignore[call-overload,no-any-return]


def finish(process: subprocess.Popen[str], code: int = 0) -> str:
    try:
        error = process.communicate(timeout=240)[1]
    finally:
        process.kill()
    assert process.returncode == code, error[-3000:]
    return error


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same runs by one process and by two."""
    folder = tmp_path_factory.mktemp("runs")
    script = folder / "runs.py"
    script.write_text(textwrap.dedent(RUNS))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, str(script), str(folder / "one")], env=environment, check=True, timeout=240)
    finish(torchrun(str(script), str(folder / "two"), "several"))
    return folder


@pytest.mark.parametrize("name", ["pixelcnn++", "sharded", "gan"])
def test_two_processes_train_the_run_of_one(runs: Path, name: str) -> None:
    one, two = (load_file(runs / count / name / CHECKPOINT) for count in ("one", "two"))
    assert one.keys() == {key for key in two if not key.startswith("process.1/")}
    if name == "gan":  # each counts the signs of its own images
        two["state/adversarial/signs"] += two["process.1/state/adversarial/signs"]
    # gradients are summed in another order, and Adam's first steps divide by their size, whatever it is
    for key in one.keys() - {"rng/cpu"}:
        torch.testing.assert_close(two[key], one[key], rtol=2e-4, atol=3e-5, msg=lambda m, key=key: f"{key}: {m}")


@pytest.mark.parametrize("name", ["pixelcnn++", "sharded", "gan"])
def test_two_processes_log_what_one_logs(runs: Path, name: str) -> None:
    one, two = (read_log(runs / count / name / LOG) for count in ("one", "two"))
    assert len(one) == len(two) > 5
    for mine, theirs in zip(one, two, strict=True):
        assert mine.keys() == theirs.keys()
        for key in mine.keys() - {"seconds", "event"}:
            assert theirs[key] == pytest.approx(mine[key], rel=1e-3, abs=1e-4), (key, mine["step"])


def test_pictures_are_drawn_together(runs: Path) -> None:
    pictures = [sorted(p.name for p in (runs / count / "gan" / "samples").iterdir()) for count in ("one", "two")]
    assert pictures[0] == pictures[1] == ["step-0.png", "step-5.png"]
    assert (runs / "one/gan/samples/step-0.png").read_bytes() == (runs / "two/gan/samples/step-0.png").read_bytes()


@pytest.fixture
def config(tmp_path: Path, image_folder: Path) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(
        f'''
data = "{image_folder}"
model = "PixelCNNPP"
batch_size = 8
steps = 30
ema_decay = 0.9
checkpoint_interval = 5
log_interval = 5

[config]
n_resnet = 1
n_filters = [4, 4]
n_mix = 2
dropout = 0.5
'''
    )
    return path


def _children(pid: int) -> list[int]:
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            found.append(int(entry.parent.name))
    return sorted(found)


def _rank_of(pid: int) -> str | None:
    try:
        pairs = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return None
    return next((pair[5:].decode() for pair in pairs if pair.startswith(b"RANK=")), None)


def assert_near(found: object, wanted: object) -> None:
    """Numbers may be rounded otherwise, as of another number of threads."""
    if isinstance(wanted, dict):
        assert isinstance(found, dict) and found.keys() == wanted.keys()
        for key, value in wanted.items():
            assert_near(found[key], value)
    elif isinstance(wanted, list):
        assert isinstance(found, list) and len(found) == len(wanted)
        for mine, theirs in zip(found, wanted, strict=True):
            assert_near(mine, theirs)
    else:
        assert found == (pytest.approx(wanted, rel=1e-6, nan_ok=True) if isinstance(wanted, float) else wanted)


def _wait_for(condition: Callable[[], object], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, process.communicate()[1][-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _kill_the_second(process: subprocess.Popen[str], out: Path, step: int) -> None:
    """Kill the process of rank 1 with SIGKILL once there is a checkpoint of `step` or later."""
    _wait_for(lambda: (out / CHECKPOINT).exists() and read_checkpoint(out / CHECKPOINT).step >= step, process)
    (second,) = [pid for pid in _children(process.pid) if _rank_of(pid) == "1"]
    os.kill(second, signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_a_killed_process_ends_all_and_an_elastic_restart_ends_with_the_same_bits(config: Path, tmp_path: Path) -> None:
    command = ["-m", "fastgen", "train", "--config", str(config), "--device", "cpu", "--quiet", "--set", "workers=0"]
    whole = torchrun(*command, "--out", str(tmp_path / "whole"))
    finish(whole)

    dying = torchrun(*command, "--out", str(tmp_path / "dying"))
    _kill_the_second(dying, tmp_path / "dying", 5)
    finish(dying, code=1)
    left = read_checkpoint(tmp_path / "dying" / CHECKPOINT)
    assert 5 <= left.step < 30

    elastic = torchrun(*command, "--out", str(tmp_path / "dying"), "--resume", options=["--max-restarts", "2"])
    _kill_the_second(elastic, tmp_path / "dying", left.step + 5)
    finish(elastic)
    for file in (CHECKPOINT, MODEL):
        ours, theirs = (load_file(tmp_path / run / file) for run in ("dying", "whole"))
        assert ours.keys() == theirs.keys()
        assert [key for key in ours if not torch.equal(ours[key], theirs[key])] == []


@pytest.mark.slow
def test_a_signal_to_the_launcher_saves_the_run(config: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = ["-m", "fastgen", "train", "--config", str(config), "--device", "cpu", "--quiet", "--set", "steps=100000"]
    process = torchrun(*command, "--out", str(out), "--set", "checkpoint_interval=100000")
    _wait_for(lambda: len(read_log(out / LOG)) > 3, process)
    process.send_signal(signal.SIGTERM)
    error = process.communicate(timeout=120)[1]
    assert read_checkpoint(out / CHECKPOINT).step >= 10, error[-3000:]  # beyond the checkpoint of the start


def test_what_cannot_be_shared_is_refused(config: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    error = finish(
        torchrun("-m", "fastgen", "train", "--config", str(config), "--out", str(out), "--set", "batch_size=7"), code=1
    )
    assert "batch_size must be a multiple of the 2 processes times accumulate=1" in error
    assert "set batch_size=8" in error
    assert not out.exists()


def test_fewer_images_than_processes_are_refused(recipe: Recipe, data: tuple[TensorImages, TensorImages]) -> None:
    with pytest.raises(ValueError, match="as many images as processes; got 30 of stripes and 31 processes"):
        Run(recipe, Path("none"), torch.device("cpu"), data[0], Ranks(0, 31))


def test_evaluation_and_sampling_are_shared_and_give_the_figures_and_images_of_one(
    config: Path, image_folder: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    options = ["--device", "cpu", "--quiet", "--out", str(run), "--set", "workers=0", "--set", "steps=2"]
    assert main(["train", "--config", str(config), *options]) == 0
    flags = {
        "eval": ["eval", str(run), "--data", str(image_folder), "--split", "all", "--batch-size", "7", "--json"],
        "sample": ["sample", str(run), "-n", "5", "--seed", "3", "--quiet", "--out"],
    }
    for command, ending in (("eval", "json"), ("sample", "npy")):
        assert main([*flags[command], str(tmp_path / f"one.{ending}"), "--device", "cpu"]) == 0
        finish(torchrun("-m", "fastgen", *flags[command], str(tmp_path / f"two.{ending}"), "--device", "cpu"))
    one, two = (json.loads((tmp_path / f"{count}.json").read_text()) for count in ("one", "two"))
    assert one.keys() == two.keys() and one["images"] == 30
    assert_near(two, one)
    ours, theirs = (np.load(tmp_path / f"{count}.npy") for count in ("one", "two"))
    assert np.array_equal(ours, theirs) and ours.shape == (5, 1, 8, 8)


LEAVES = """
import os, sys
import torch
from fastgen.training.distributed import joined
with joined("cpu") as (ranks, _):
    torch.distributed.barrier()
    import torch._dynamo
    own = torch.distributed.group.WORLD is not None
tasks = [open(f"/proc/self/task/{task}/comm").read().strip() for task in os.listdir("/proc/self/task")]
sys.exit(not own or any("gloo" in name for name in tasks))
"""


def test_a_group_that_was_left_has_no_threads(tmp_path: Path) -> None:
    script = tmp_path / "leaves.py"
    script.write_text(LEAVES)
    finish(torchrun(str(script)))


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As torchrun gives each of its processes."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
def test_what_is_drawn_and_given_back_for_figures_is_shared(image_folder: Path, tmp_path: Path) -> None:
    run, config = tmp_path / "run", tmp_path / "vae.toml"
    config.write_text(
        f'data = "{image_folder}"\nmodel = "VAE"\nbatch_size = 8\nsteps = 2\nworkers = 0\nlevels = 2\n'
        "[config]\nlatent_dim = 3\nhidden = [8]\n"
    )
    assert main(["train", "--config", str(config), "--device", "cpu", "--quiet", "--out", str(run)]) == 0
    command = ["eval", str(run), "--data", str(image_folder), "--split", "train", "--batch-size", "4"]
    command += ["--reconstruction", "--importance", "3", "--against", str(image_folder), "--modes", "11"]
    command += ["--quality", "13", "--device", "cpu", "--json"]
    assert main([*command, str(tmp_path / "one.json")]) == 0
    finish(torchrun("-m", "fastgen", *command, str(tmp_path / "two.json")))
    one, two = (json.loads((tmp_path / f"{count}.json").read_text()) for count in ("one", "two"))
    assert one["reconstruction_error"]["images"] == one["images"] and sum(one["modes"]["counts"]) == 11
    assert_near(two, one)


def test_a_dry_run_of_two_processes_speaks_once_and_writes_nothing(config: Path, tmp_path: Path) -> None:
    process = torchrun(
        "-m", "fastgen", "train", "--config", str(config), "--out", str(tmp_path / "run"), "--dry-run",
        stdout=subprocess.PIPE,
    )  # fmt: skip
    told, error = process.communicate(timeout=240)
    assert process.returncode == 0, error[-2000:]
    assert told.count("parameters") == 1
    assert "batch       8 on 2 processes" in told
    assert not (tmp_path / "run").exists()
    assert json.dumps(sorted(path.name for path in tmp_path.iterdir())) == '["images", "tiny.toml"]'
