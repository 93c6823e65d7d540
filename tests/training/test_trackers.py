"""Trackers get what a run says: TensorBoard's files are read back, a module of the same calls stands in for W&B."""

from __future__ import annotations

import math
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch

from fastgen.training.trackers import TRACKERS, Tracker, open_trackers

RECIPE = {"name": "tiny", "lr": 1e-3, "config": {"n_filters": [4, 4]}}


class StandIn(types.ModuleType):
    """The part of wandb that is called, as its documentation describes it."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.opened: list[dict[str, Any]] = []
        self.metrics: list[tuple[Any, ...]] = []
        self.lines: list[dict[str, Any]] = []
        self.finished = 0

    def init(self, **options: Any) -> StandIn:
        self.opened.append(options)
        return self

    def define_metric(self, name: str, step_metric: str | None = None) -> None:
        self.metrics.append((name, step_metric))

    def log(self, line: dict[str, Any]) -> None:
        self.lines.append(line)

    def finish(self) -> None:
        self.finished += 1

    @staticmethod
    def Image(pixels: Any) -> Any:
        return pixels


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    module = StandIn()
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    return module


def tell(tracker: Tracker) -> torch.Tensor:
    image = torch.randint(0, 256, (3, 5, 7), dtype=torch.uint8)
    tracker.scalars(10, {"train/loss": 2.5, "train/lr": 0.25, "train/grad_norm": math.inf})
    tracker.scalars(20, {"eval/nats": 1.5})
    tracker.image(20, "samples", image)
    tracker.close()
    return image


def test_wandb_goes_on_with_the_same_run(wandb: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tracker,) = open_trackers(["wandb"], tmp_path / "run", RECIPE)
    image = tell(tracker)
    assert wandb.lines[0] == {"step": 10, "train/loss": 2.5, "train/lr": 0.25}
    assert wandb.lines[1] == {"step": 20, "eval/nats": 1.5}
    assert (torch.from_numpy(wandb.lines[2]["samples"]) == image.permute(1, 2, 0)).all() and wandb.finished == 1
    assert wandb.metrics == [("step", None), ("*", "step")]
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    open_trackers(["wandb"], tmp_path / "run", RECIPE)
    first, second = wandb.opened
    assert first["project"] == "fastgen" and second["project"] == "mine"
    assert first["id"] == second["id"] and first["resume"] == "allow" and first["config"] == RECIPE
    open_trackers(["wandb"], tmp_path / "another", RECIPE)
    assert wandb.opened[2]["id"] != first["id"]


def test_gray_pictures_have_two_axes_for_wandb(wandb: StandIn, tmp_path: Path) -> None:
    (tracker,) = open_trackers(["wandb"], tmp_path, RECIPE)
    tracker.image(1, "samples", torch.zeros(1, 4, 6, dtype=torch.uint8))
    assert wandb.lines[0]["samples"].shape == (4, 6)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of TensorBoard's own code
def test_tensorboard_files_hold_what_was_said(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (tracker,) = open_trackers(["tensorboard"], tmp_path, RECIPE)
    image = tell(tracker)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    found = {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    assert found == {"train/loss": [(10, 2.5)], "train/lr": [(10, 0.25)], "eval/nats": [(20, 1.5)]}
    (picture,) = events.Images("samples")
    assert (picture.step, picture.height, picture.width) == (20, *image.shape[1:])
    text = events.Tensors("recipe/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "name = 'tiny'" in text and "{'n_filters': [4, 4]}" in text


@pytest.mark.parametrize("name", TRACKERS)
def test_what_is_not_installed_is_named_with_its_extra(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, {"tensorboard": "torch.utils.tensorboard"}.get(name, name), None)
    with pytest.raises(ValueError, match=rf"{name} must be installed; .*pip install 'fastgen-torch\[{name}\]'"):
        open_trackers([name], tmp_path, RECIPE)


def test_a_tracker_is_closed_when_the_next_one_fails(
    wandb: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ValueError, match="tensorboard must be installed"):
        open_trackers(["wandb", "tensorboard"], tmp_path, RECIPE)
    assert wandb.finished == 1


def test_names_are_checked_before_anything_is_opened(wandb: StandIn, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown tracker 'tensorbord'; did you mean tensorboard"):
        open_trackers(["wandb", "tensorbord"], tmp_path, RECIPE)
    with pytest.raises(ValueError, match="named once; got wandb, wandb"):
        open_trackers(["wandb", "wandb"], tmp_path, RECIPE)
    assert not wandb.opened and open_trackers([], tmp_path, RECIPE) == []
