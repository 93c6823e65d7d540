"""Every code block of the README runs: Python as it stands there on small data, commands on runs of a step.

What is changed before a block runs stands in the tables below, and each entry must be found in the README: sizes
(`SMALLER`), what a section takes as given (`GIVEN`), the words in capitals of a command (`Shell.words`) and the options
that make it cheap (`CHEAPER`). A block of no known kind is an error, so that none is left out by accident.
"""

from __future__ import annotations

import importlib
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from fastgen.cli import COMMANDS, main
from fastgen.convert import to_pixelcnnpp_pytorch
from fastgen.data import load, write_image
from fastgen.models import PixelCNNPP
from fastgen.models.classifier import Classifier
from fastgen.training.coverage import fit_classifier

README = Path(__file__).resolve().parent.parent / "README.md"

SMALLER = {
    "zeros(16, 3, 32, 32)": "zeros(2, 3, 8, 8)",
    "in range(32)": "in range(8)",
    "(model, 16, seed=0": "(model, 2, seed=0",
    "(model, 16, given=": "(model, 2, given=",
    "n_filters=64, image_size=(32, 32)": "n_filters=4, image_size=(8, 8)",
    "sample(64, seed=": "sample(2, seed=",
    "prepare(model, 64)": "prepare(model, 2)",
}
NOT_RUN = {
    "make demo": "it is a training run of minutes, which the tests of the demo make short",
    "make test": "it runs these tests",
    "pip install": "it changes the environment; CI installs the package from scratch",
    "torchrun": "tests/training/test_several_processes.py runs it, on two processes",
}
LISTINGS = ("kernels/     one folder per op",)  # first lines of blocks that are no code


class Block(NamedTuple):
    section: str
    language: str
    text: str


def blocks(text: str) -> list[Block]:
    """The fenced blocks, with the title of the section that each stands in."""
    found, section = [], ""
    for part in re.finditer(r"^## ([^\n]+)$|^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        section = part[1] or section
        if part[3] is not None:
            found.append(Block(section, part[2], part[3]))
    return found


def commands(block: Block) -> list[tuple[str, str]]:
    """The commands of a block, each with its comment; a line that is only a comment goes on with the last one."""
    found: list[tuple[str, str]] = []
    for line in block.text.splitlines():
        command, _, comment = (part.strip() for part in line.partition("#"))
        if command:
            found.append((command, comment))
        else:
            found[-1] = (found[-1][0], f"{found[-1][1]} {comment}")
    return found


BLOCKS = blocks(README.read_text(encoding="utf-8"))
PYTHON = [block for block in BLOCKS if block.language == "python"]
LISTED = [block for block in BLOCKS if block.text.startswith(LISTINGS)]
SHELL = [block for block in BLOCKS if block not in PYTHON and block not in LISTED]
COMMAND_LINES = [line for block in SHELL for line in commands(block)]
RUN = [line for line in COMMAND_LINES if not line[0].startswith(tuple(NOT_RUN))]


def smaller(text: str) -> str:
    for large, small in SMALLER.items():
        text = text.replace(large, small)
    return text


# -- Python


def tiny() -> PixelCNNPP:
    torch.manual_seed(0)
    return PixelCNNPP(image_channels=3, n_resnet=1, n_filters=4, n_mix=2, image_size=(8, 8)).eval()


def given_at_the_top() -> dict[str, Any]:
    """A trained model, a way to draw from its parameters, photos and what is known of them, levels and parameters."""
    model = tiny()
    generator = torch.Generator().manual_seed(1)

    def draw(params: Tensor) -> Tensor:
        uniforms = torch.rand(len(params), model.likelihood.n_draws, generator=generator)
        return model.likelihood.sample(params, uniforms)

    photos = torch.randint(0, 256, (2, 3, 8, 8), generator=generator, dtype=torch.uint8)
    known = (torch.arange(8)[:, None] < 3).expand(1, 1, 8, 8)  # the upper rows
    params = torch.randn(2, model.likelihood.n_params, 8, 8, generator=generator, requires_grad=True)
    import fastgen

    names = {"torch": torch, "fastgen": fastgen, "model": model, "draw": torch.no_grad()(draw)}
    return {**names, "photos": photos, "known": known, "params": params}


def given_for_use() -> dict[str, Any]:
    """Images, and a checkpoint of the PyTorch port in the working directory."""
    torch.save(to_pixelcnnpp_pytorch(tiny()), "pcnn_lr.pth")
    return {"x": torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)}


GIVEN: dict[str, Callable[[], dict[str, Any]]] = {"": given_at_the_top, "Use": given_for_use}


@pytest.fixture
def ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], list[dict[str, Any]]]]:
    """Runs the Python blocks of a section one after another; the names as they stand after each."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))  # what install_stylegan_ops adds itself to
    for package in ("torch_utils", "torch_utils/ops"):  # StyleGAN's code, of which these modules are ours
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)

    def run(section: str) -> list[dict[str, Any]]:
        names, after = GIVEN[section](), []
        for block in PYTHON:
            if block.section == section:
                exec(compile(smaller(block.text), README.name, "exec"), names)
                after.append(dict(names))
        return after

    yield run
    for name in [name for name in sys.modules if name.split(".")[0] == "torch_utils"]:
        del sys.modules[name]


def test_the_first_screen(ran: Callable[[str], list[dict[str, Any]]]) -> None:
    before, after, loss = ran("")
    assert (before["x"].abs() <= 1).all() and before["x"].flatten(1).std(1).min() > 0.1  # every pixel was drawn
    assert after["images"].shape == (2, 3, 8, 8) and after["images"].dtype == torch.uint8
    assert torch.equal(after["images"][..., :3, :], after["photos"][..., :3, :])  # the last line completed them
    assert not torch.equal(after["images"], after["photos"])
    assert loss["nats"].shape == (2, 8, 8)
    (gradient,) = torch.autograd.grad(-loss["nats"].sum(), loss["params"])
    assert torch.isfinite(gradient).all() and gradient.any()


def test_the_section_on_use(ran: Callable[[str], list[dict[str, Any]]], tmp_path: Path) -> None:
    use, installed = ran("Use")
    assert torch.isfinite(use["loss"]) and use["loss"] > 0
    assert use["images"].shape == (2, 3, 8, 8)
    assert (tmp_path / "model.safetensors").exists()
    logits, expected = (model.eval()(use["x"]) for model in (use["model"], tiny()))  # the model of the port, last
    assert torch.allclose(logits, expected, atol=1e-4)
    assert "install_stylegan_ops" in installed
    bias_act = importlib.import_module("torch_utils.ops.bias_act").bias_act
    assert bias_act(torch.tensor([[-1.0]]), act="lrelu").item() == pytest.approx(-0.2 * 2**0.5)


# -- commands


class Shell:
    """Runs of a step for the commands to work on, and the words in capitals as these commands need them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.call("train vae --data digits --steps 2 --set workers=0 --quiet --out runs/codes")
        self.call(
            "train pixelcnnpp-digits --steps 2 --set workers=0 --set config.n_filters=4,4,4 --quiet --out runs/pixels"
        )
        translation = "--set config.n_filters=4 --set config.n_blocks=1 --set config.discriminator_filters=4,4"
        self.call(
            f"train cyclegan --data mnist5k-3-8 --steps 1 --set workers=0 {translation} --quiet --out runs/translation"
        )
        (folder / "my.toml").write_text('recipe = "pixelcnnpp-digits"\n[config]\nn_filters = [4, 4, 4]\n')
        digits = load("digits", split="validation")
        for k in range(2):
            (folder / "digits").mkdir(exist_ok=True)
            write_image(folder / "digits" / f"{k}.png", digits[k][0])

    def call(self, line: str) -> int:
        return main(shlex.split(line))

    def words(self, command: str) -> dict[str, str]:
        """What stands for the words in capitals."""
        of_codes = ("reconstruct", "interpolate", "traverse", "arithmetic", "neighbours", "train")
        run = {"translate": "runs/translation", **dict.fromkeys(of_codes, "runs/codes")}.get(command, "runs/pixels")
        return {
            "RECIPE": "pixelcnnpp-digits",
            "RUN": run,
            "IMAGES...": "digits/0.png digits/1.png",
            "IMAGE": "digits/0.png",
            "FOLDER": "digits",
            "FILE": "packed.fgen",
            "DIR": "unpacked",
            "key=value": "log_interval=1",
        }


CHEAPER = {
    "train": "--quiet",
    "train RECIPE": "--steps 2 --set workers=0 --set config.n_filters=4,4,4 --out runs/new",
    "train --config": "--steps 2 --set workers=0 --out runs/file",
    "train classifier": "--labels 20",
    "eval": "--limit 20",
}
NOT_OFFERED = {"--split test": "no data set without a download has test images of its own"}
CHEAPER_VALUES = {"--importance 500": "--importance 2", "--quality 1000": "--quality 20"}


def variants(command: str) -> list[str]:
    """The command without and with what stands in brackets."""
    bare = re.sub(r"\s*\[[^\]]*\]", "", command)
    return list(dict.fromkeys([bare, command.replace("[", "").replace("]", "")]))


def offered(command: str, comment: str) -> list[str]:
    """What the comment says can be called too: options of the command, and other commands."""
    options = re.findall(r"(--[a-z-]+(?: \w+)?)(?=[;:,]|$)", comment)
    bare = " ".join(variants(command)[0].split(" ")[:3])  # fastgen COMMAND RUN
    options = [option for option in options if option not in NOT_OFFERED]
    return [f"{bare} {option}" for option in options] + re.findall(r"fastgen [a-z]+ [A-Z]+ -o [A-Z]+", comment)


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    folder = tmp_path_factory.mktemp("readme")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        yield Shell(folder)


@pytest.fixture
def quick_classifiers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Features of a classifier after five steps."""

    def quick(data: Any, *, steps: int = 0, seed: int = 0) -> Classifier:
        return fit_classifier(data, steps=5, seed=seed)

    for module in ("coverage", "quality"):
        monkeypatch.setattr(f"fastgen.training.{module}.fit_classifier", quick)


@pytest.mark.parametrize(("command", "comment"), RUN, ids=[line.split(" #")[0] for line, _ in RUN])
@pytest.mark.usefixtures("quick_classifiers")
def test_commands(shell: Shell, command: str, comment: str, capfd: pytest.CaptureFixture[str]) -> None:
    if "compress" in command:
        pytest.importorskip("constriction")
    for line in [*variants(command), *offered(command, comment)]:
        program, *_ = arguments = line.split()
        assert program == "fastgen"
        for prefix, more in CHEAPER.items():
            if line.startswith(f"fastgen {prefix}"):
                arguments += more.split()
        line = " ".join(arguments[1:])
        for costly, cheap in CHEAPER_VALUES.items():
            line = line.replace(costly, cheap)
        name = arguments[1]
        if "--importance" in line:  # a bound is of models with codes
            name = "reconstruct"
        for word, value in shell.words(name).items():
            line = re.sub(rf"(?<![\w.]){re.escape(word)}(?![\w.])", value, line)
        code = shell.call(line)
        _, err = capfd.readouterr()
        assert code == 0, f"fastgen {line}: {err}"


# -- that nothing is left out


def test_every_block_is_of_a_known_kind() -> None:
    assert len(LISTED) == len(LISTINGS) and len(PYTHON) >= 4 and len(SHELL) >= 3
    assert {block.section for block in PYTHON} == set(GIVEN)
    assert {block.language for block in SHELL + LISTED} <= {""}
    for command, _ in RUN:
        program, name, *_ = command.split()
        assert program == "fastgen" and name in COMMANDS, command


def test_the_tables_are_of_this_readme() -> None:
    code = "".join(block.text for block in PYTHON)
    assert [large for large in SMALLER if large not in code] == []
    shown = "\n".join(f"{command} # {comment}" for command, comment in COMMAND_LINES)
    assert [text for text in (*NOT_RUN, *NOT_OFFERED, *CHEAPER_VALUES) if text not in shown] == []
    assert [text for text in CHEAPER if f"fastgen {text}" not in shown] == []


def test_blocks_and_commands_are_found() -> None:
    text = """## A
```python
x
```
## B
```
fastgen eval RUN [--a b]   # --c 5: more; --d;
                           # --split test; fastgen f FILE -o DIR
```
"""
    first, second = blocks(text)
    assert first == ("A", "python", "x\n") and second.section == "B"
    ((command, comment),) = commands(second)
    assert variants(command) == ["fastgen eval RUN", "fastgen eval RUN --a b"]
    assert offered(command, comment) == ["fastgen eval RUN --c 5", "fastgen eval RUN --d", "fastgen f FILE -o DIR"]
