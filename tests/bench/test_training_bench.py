"""Plain copies of our networks are the same networks, and the cases of whole training steps run them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench import __main__ as command
from bench import plain as plain_module
from bench import record, training
from bench.cases import commands
from bench.cases import training as cases
from bench.cases.training import COMPILED, CPU, OURS, PLAIN, Setting
from bench.plain import PlainTraining, check_same, plain
from bench.run import run_case
from fastgen.models import PixelCNNPP
from fastgen.nn import DownShiftedConv2d, Dropout, GatedResnet

PIXELCNN = {"n_resnet": 1, "n_filters": 4, "n_mix": 2, "dropout": 0.5}
TINY = {
    "pixelcnnpp": Setting("PixelCNNPP", {**PIXELCNN, "n_mix": 10}, 2, 8),
    "vdvae": Setting("VDVAE", {**cases.SMALL_VDVAE, "n_filters": 8, "scales": [1, 2, 4, 8]}, 2, 8),
    "dcgan": Setting("DCGAN", {"latent_dim": 4, "n_filters": [4, 8]}, 4, 8),
    "stylegan2": dataclasses.replace(
        CPU["stylegan2"], config={"n_filters": [4, 4], "w_dim": 8, "latent_dim": 8}, batch=4, size=8, steps=1
    ),
}


def tiny_run(name: str) -> tuple[Any, Tensor]:
    run = cases._run(TINY[name], "cpu", "none")
    return run, next(run.batches())[0]


@pytest.mark.parametrize("name", TINY)
def test_a_plain_copy_has_the_same_losses_and_gradients(name: str) -> None:
    run, x = tiny_run(name)
    check_same(run.model, run.recipe, x, lambda: cases.plain_operations(TINY[name]))


@pytest.mark.parametrize("name", ["pixelcnnpp", "vdvae"])
def test_another_network_is_noticed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run, x = tiny_run(name)
    monkeypatch.setattr(plain_module, "published", lambda x, params: params.sum(1))
    with pytest.raises(AssertionError):
        check_same(run.model, run.recipe, x, lambda: cases.plain_operations(TINY[name]))


def test_a_wrong_gradient_is_noticed_by_the_name_of_its_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    run, x = tiny_run("pixelcnnpp")

    class HalfAGradient(plain_module.PlainGatedResnet):
        def forward(self, x: Tensor, skip: Tensor | None = None, cond: Tensor | None = None) -> Tensor:
            return super().forward(x, None if skip is None else (skip + skip.detach()) / 2, cond)

    monkeypatch.setitem(plain_module.REPLACED, GatedResnet, HalfAGradient)
    with pytest.raises(AssertionError, match=r"\w+\.weight_v: gradients of"):
        check_same(run.model, run.recipe, x, lambda: cases.plain_operations(TINY["pixelcnnpp"]))


def test_nothing_of_ours_is_left_in_a_plain_copy() -> None:
    model = PixelCNNPP(3, **PIXELCNN)
    copied = plain(model)
    assert not {type(module) for module in copied.modules()} & set(plain_module.REPLACED)
    assert {type(m) for m in model.modules()} >= {PixelCNNPP, GatedResnet, DownShiftedConv2d, Dropout}  # as it was
    assert copied.state_dict().keys() == model.state_dict().keys()
    assert all(a is not b for a, b in zip(model.parameters(), copied.parameters()))
    assert any(type(module) is nn.Dropout for module in copied.modules())


@pytest.mark.parametrize("compiled", ["default", "blocks"])
def test_compiled_training_is_the_same(compiled: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # without code generation: what is compiled, and that it is the step
    taken: list[object] = []

    def compile_by_eager(function: Any = None, **options: Any) -> Any:
        taken.append(function)
        return real(function, backend="eager")

    real = torch.compile
    monkeypatch.setattr(torch, "compile", compile_by_eager)
    monkeypatch.setattr(nn.Module, "compile", lambda self: taken.append(type(self)))
    setting = dataclasses.replace(TINY["pixelcnnpp"], config={**TINY["pixelcnnpp"].config, "dropout": 0.0})
    run = cases._run(setting, "cpu", "none")
    x = next(run.batches())[0]
    losses = [PlainTraining(plain(run.model), run.recipe, "cpu", mode).step(x)[0] for mode in (None, compiled)]
    torch.testing.assert_close(losses[1], losses[0])
    blocks = [plain_module.PlainGatedResnet] * sum(isinstance(m, GatedResnet) for m in run.model.modules())
    assert taken == blocks if compiled == "blocks" else len(taken) == 1


@pytest.mark.parametrize("name", TINY)
def test_the_variants_of_a_case_agree_and_move_their_weights(name: str) -> None:
    chosen = cases.case(name, TINY[name], "cpu")
    takes = {label: chosen.variants[label]("cpu") for label in (PLAIN, OURS)}
    first: dict[str, Any] = {label: take() for label, take in takes.items()}
    assert chosen.check is not None
    chosen.check(first)
    for label, take in takes.items():  # the same batch and random numbers have another loss after a step
        assert any(not torch.equal(a, b) for a, b in zip(first[label], take())), label  # type: ignore[call-overload]


def test_what_cannot_be_compiled_says_so() -> None:
    assert COMPILED not in cases.case("stylegan2", TINY["stylegan2"], "cpu").variants
    assert "second derivative" in cases.case("stylegan2", TINY["stylegan2"], "cpu").notes
    assert COMPILED in cases.case("dcgan", TINY["dcgan"], "cpu").variants


def test_input_is_read_from_memory_and_from_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.measure.MIN_SAMPLE_S", 0.0)
    chosen = cases.pipeline("dcgan", TINY["dcgan"], "cpu")
    read_in_between = dataclasses.replace(
        chosen, variants={k: v for k, v in chosen.variants.items() if "workers" not in k}
    )
    records = run_case(read_in_between, "cpu", budget_s=0.0)
    assert [r["variant"] for r in records] == [
        cases.AT_HAND, "images in memory", "folder of PNGs, read in between"
    ]  # fmt: skip
    data = cases._folder(TINY["dcgan"])
    assert len(data) == 8 * TINY["dcgan"].batch and data.shape == (3, 8, 8) and not data.in_memory


def test_the_command_records_what_it_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny = [dataclasses.replace(cases.case("dcgan", TINY["dcgan"], "cpu"), notes="a note")]
    tiny = [dataclasses.replace(c, variants={k: v for k, v in c.variants.items() if k != COMPILED}) for c in tiny]
    monkeypatch.setattr(training, "all_cases", lambda: tiny)
    monkeypatch.setattr(command, "all_cases", lambda: tiny)
    monkeypatch.setattr(record, "RESULTS", tmp_path)
    monkeypatch.setattr("bench.__main__.run_cases", _with_little_time(command.run_cases))
    assert training.main(["dcgan", "--device", "cpu", "--record"]) == 0
    (path,) = tmp_path.glob("*.jsonl")
    records = record.read([path])
    assert {r["variant"] for r in records} == {PLAIN, OURS} and records[0]["tags"] == ["training"]
    for key in ("device", "device_name", "threads", "torch", "python", "commit", "dirty", "source", "date"):
        assert key in records[0]
    table = capsys.readouterr().out
    assert "| images/s | speed-up |" in table and "a note." in table
    with pytest.raises(SystemExit):
        training.main(["nothing-of-that-name"])
    with pytest.raises(SystemExit):
        training.main(["--quick", "--record"])


def _with_little_time(run_cases: Any) -> Any:
    return lambda *arguments, **options: run_cases(*arguments, **{**options, "budget_s": 0.0})


def test_commands_run_as_whole_processes() -> None:
    names = {chosen.name: chosen for chosen in commands.cases()}
    assert not any(chosen.in_process for chosen in names.values())  # the memory of this process says nothing
    sample = names["commands/sample/16x1x28x28"].variants["fastgen sample"]
    assert "PixelCNN" in type(commands._model()).__name__
    sample("cpu")()
    with pytest.raises(RuntimeError, match=r"failed: .*no-such-command"):
        commands._command(None, "no-such-command")("cpu")()
