"""`fastgen eval` tells what the functions below it measure, as lines, as JSON and in the report."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import fastgen as package
from fastgen.cli import main
from fastgen.data import LabelledDataset, load
from fastgen.evaluation import evaluate, evaluate_bound, outlier_auroc, reconstruction_error
from fastgen.models.classifier import Classifier
from fastgen.training.coverage import fit_classifier

Fastgen = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def vae(tmp_path_factory: pytest.TempPathFactory, image_folder: Path) -> Path:
    """The folder of a VAE on 8x6 images of three classes, which does not see the classes."""
    out = tmp_path_factory.mktemp("runs") / "vae"
    arguments = ["train", "vae", "--data", str(image_folder), "--size", "8x6", "--out", str(out), "--steps", "4"]
    for assignment in ("config.latent_dim=2", "config.hidden=[6]", "batch_size=8", "workers=0", "conditional=false"):
        arguments += ["--set", assignment]
    assert main([*arguments, "--quiet", "--device", "cpu"]) == 0
    return out


@pytest.fixture
def quick_classifiers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of five steps in place of 300: figures are of no interest here, that they are told is."""

    def quick(data: LabelledDataset, *, steps: int, seed: int) -> Classifier:
        return fit_classifier(data, steps=5, seed=seed)

    for module in ("quality", "coverage"):
        monkeypatch.setattr(f"fastgen.training.{module}.fit_classifier", quick)


@pytest.mark.usefixtures("quick_classifiers")
def test_all_figures_are_written_and_shown(fastgen: Fastgen, vae: Path, image_folder: Path) -> None:
    options = ["--split", "train", "--per-class", "--importance", 5, "--reconstruction", "--against", image_folder]
    code, out, err = fastgen("eval", vae, *options, "--quality", 12, "--modes", 10, "--json", vae / "eval.json")
    assert code == 0, err
    assert f"figures: {vae / 'eval.json'}" in out
    model = package.load(vae / "model.safetensors").eval()
    data = load(image_folder, split="train", size=(8, 6), levels=model.levels)
    said = json.loads((vae / "eval.json").read_text())
    plain, bound = evaluate(model, data), evaluate_bound(model, data, n_samples=5)
    assert said["nats"] == plain.nats and said["images"] == len(data) and said["model"] == "VAE"
    assert said["importance"]["nats"] == bound.nats and said["importance"]["n_samples"] == 5
    low, high = said["importance"]["interval"]["bits_per_dim"]
    assert (low + high) / 2 == pytest.approx(bound.bits_per_dim) and high - low == pytest.approx(
        3.92 * bound.stderr, rel=1e-3
    )
    assert said["importance"]["interval"]["nats"][0] < bound.nats < said["importance"]["interval"]["nats"][1]
    assert said["reconstruction_error"]["mse"] == reconstruction_error(model, data).mse
    assert said["against"]["auroc"] == outlier_auroc(model, data, data) == 0.5 and said["against"]["score"] == "nats"
    assert [row["name"] for row in said["per_class"]] == list(data.class_names)
    assert sum(row["images"] for row in said["per_class"]) == len(data)
    quality = said["quality"]
    assert quality["features"].startswith("classifier:") and quality["images"] == 12
    assert quality["notes"] and "singular covariance" in quality["notes"][0]
    assert sum(said["modes"]["counts"]) == 10
    for text in (
        "  class class0, ",
        "bound of 5 draws",
        "95% interval",
        "reconstructions: mse",
        "by nats",
        "FID ",
        "10 drawn: ",
    ):
        assert text in out
    assert "on features of classifier:" in out

    page = vae / "report.html"
    assert fastgen("report", vae, "-n", 4, "--device", "cpu").code == 0
    text = page.read_text()
    assert "Evaluation: eval.json" in text and f"On features of {quality['features']}" in text


def test_one_line_of_json_has_the_same(fastgen: Fastgen, vae: Path) -> None:
    code, out, _ = fastgen("eval", vae, "--importance", 3, "--per-class", "--json")
    said = json.loads(out)
    assert code == 0 and len(out.splitlines()) == 1 and said["importance"]["n_samples"] == 3 and said["per_class"]


def test_a_model_with_density_is_measured_against_other_images(
    fastgen: Fastgen, trained: Path, image_folder: Path
) -> None:
    code, out, err = fastgen("eval", trained, "--against", image_folder, "--split", "all")
    assert code == 0 and "AUROC 0.5000 by nats" in out, err


def test_what_does_not_fit_is_refused(fastgen: Fastgen, trained: Path, vae: Path, tmp_path: Path) -> None:
    for arguments, message in [
        (
            (trained, "--reconstruction"),
            "--reconstruction: reconstruction_error: model must have codes; got PixelCNNPP",
        ),
        ((trained, "--importance", 3), "PixelCNNPP has none; use evaluate"),
        ((vae, "--quality", 3), "10 images or more to draw"),
        ((vae, "--inception", "w.pth"), "--inception: it is for --quality"),
        ((vae, "--quality", 10, "--inception", tmp_path / "w.pth"), "never downloaded here; got"),
    ]:
        code, _, err = fastgen("eval", *arguments, "--limit", 4)
        assert code == 2 and message in err, err


def test_report_refuses_what_is_no_run(fastgen: Fastgen, trained: Path, tmp_path: Path) -> None:
    for arguments, message in [
        ((tmp_path,), "must be the folder of a run"),
        ((trained, "--out", tmp_path / "a.pdf"), "--out: the report is a page, .html; got"),
        ((trained, "-n", -1), "-n: it must be 0 or more"),
    ]:
        code, _, err = fastgen("report", *arguments)
        assert code == 2 and message in err, err
    out = tmp_path / "page.html"
    code, text, err = fastgen("report", trained, "-n", 0, "--out", out)
    assert code == 0 and f"report: {out} (" in text and "held out" in out.read_text(), err
    assert not (trained / "report.html").exists()
