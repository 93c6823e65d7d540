"""The page: whole, well-formed, closed to the network, escaped, and with what the run's folder holds."""

from __future__ import annotations

import base64
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fastgen.data import TensorImages, write_image
from fastgen.models import WaveNet
from fastgen.report.curves import curves, skipped_share
from fastgen.report.drawings import drawings
from fastgen.report.page import read_run, recipe_facts, render_page, warnings_of, write_page
from fastgen.training.recipes import Recipe

VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """Fails where elements are not closed in order; keeps addresses and text."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.tags: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def make_run(folder: Path, **changes: Any) -> Path:
    """A folder as training leaves it, without weights."""
    recipe = Recipe(name="tiny", data="digits", model="PixelCNNPP", config={"n_mix": 2}, summary="a <b> run", steps=40)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recipe.json").write_text(json.dumps(recipe.replace(**changes).to_json()))
    lines: list[dict[str, Any]] = [held_out(0, 5.0)]
    for step in range(10, 41, 10):
        terms = {"lr": 1e-3, "loss": 4 / step, "bits_per_dim": 4 / step, "grad_norm": 0.5}
        lines.append({"event": "train", "step": step, "seconds": step / 2, **terms})
    lines.append(held_out(40, 0.25))
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def held_out(step: int, bits: float) -> dict[str, Any]:
    figures = {"images": 50, "dims": 64, "nats": bits * 44.36, "bits_per_dim": bits, "stderr": 0.01}
    return {"event": "eval", "step": step, "seconds": step / 2, **figures}


def picture(path: Path, value: int = 7) -> Path:
    path.parent.mkdir(exist_ok=True)
    write_image(path, torch.full((1, 3, 4), value, dtype=torch.uint8))
    return path


def rendered(folder: Path, drawn: tuple[str, ...] = ()) -> tuple[str, Page]:
    text = render_page(read_run(folder), nn.Linear(3, 4), drawn)
    return text, Page(text)


def test_a_page_has_figures_curves_settings_and_needs_nothing_else(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    text, page = rendered(folder)
    words = " ".join(page.words)
    for wanted in ("tiny: PixelCNNPP on digits", "a <b> run", "0.2500 bits/dim ± 0.0100", "5.0000 bits/dim", "16"):
        assert wanted in words
    for row in ("config.n_mix", "bits per dimension", "gradient norm", "learning rate"):
        assert row in words
    assert page.tags.count("svg") == 4 and "script" not in page.tags and "link" not in page.tags
    assert "default-src 'none'" in text and not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text)
    assert "prefers-color-scheme" in text


def test_pictures_are_inside_and_samples_over_training_in_order(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    for step in range(0, 100, 5):
        picture(folder / "samples" / f"step-{step}.png", step)
    named = picture(folder / "reconstructions.png", 99)
    text, page = rendered(folder)
    assert page.addresses and all(address.startswith("data:image/png;base64,") for address in page.addresses)
    inside = [base64.b64decode(address.split(",")[1]) for address in page.addresses]
    steps = [int(step) for step in re.findall(r"<figcaption>step (\d+)<", text)]
    assert len(steps) == 8 and steps == sorted(steps) and (steps[0], steps[-1]) == (0, 95)
    assert inside[:8] == [(folder / "samples" / f"step-{step}.png").read_bytes() for step in steps]
    assert inside[8] == named.read_bytes() and "reconstructions.png" in " ".join(page.words)


def test_everything_that_a_run_names_is_escaped(tmp_path: Path) -> None:
    nasty = '<img src="http://x/y" onerror=alert(1)>&amp;'
    folder = make_run(tmp_path / "run", name=nasty, data=nasty, summary=nasty, config={nasty: nasty})
    lines = (folder / "log.jsonl").read_text() + json.dumps({"event": "train", "step": 50, "seconds": 1.0, nasty: 2.0})
    (folder / "log.jsonl").write_text(lines + "\n")
    quality = {"features": nasty, "images": 10, "reference_images": 9, "frechet_distance": 1.5, "notes": [nasty]}
    rows = [{"label": 0, "name": nasty, "images": 3, "nats": 1.0, "bits_per_dim": 1.0, "stderr": 0.1}]
    (folder / "eval.json").write_text(json.dumps({"data": nasty, nasty: nasty, "quality": quality, "per_class": rows}))
    text, page = rendered(folder)
    assert "img" not in page.tags and "<img" not in text and not page.addresses
    assert nasty in " ".join(page.words)


def test_what_eval_wrote_is_shown(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    quality = {"features": "classifier:digits:seed0", "images": 300, "reference_images": 200, "frechet_distance": 1.25}
    quality |= {"of_training_images": {"images": 250, "frechet_distance": 0.5}, "notes": ["too few images"]}
    bound = {"n_samples": 50, "bits_per_dim": 0.2, "nats": 9.0, "interval": {"bits_per_dim": [0.19, 0.21]}}
    facts = {"bits_per_dim": 0.25, "quality": quality, "importance": bound, "against": {}}
    facts["against"] = {"data": "shapes", "score": "nats", "auroc": 0.875}
    facts["reconstruction_error"] = {"mse": 0.5, "stderr": 0.125}
    facts["per_class"] = [{"label": k, "name": str(k), "images": 5, "mse": 1.0 + k, "stderr": 0.1} for k in range(3)]
    (folder / "eval-test.json").write_text(json.dumps(facts))
    (folder / "eval-bad.json").write_text("{")
    _, page = rendered(folder)
    words = " ".join(page.words)
    for wanted in (
        "On features of classifier:digits:seed0, beside 200 held-out images.",
        "1.2500 0.5000",
        "95% interval 0.1900 to 0.2100",
        "shapes told from these images by nats: AUROC 0.8750",
        "mse 0.5000 ± 0.1250",
        "eval-test.json: too few images",
        "eval-bad.json is left out",
    ):
        assert wanted in words, wanted
    assert page.tags.count("svg") == 5


def test_what_went_wrong_is_said(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", steps=1000)
    with (folder / "log.jsonl").open("a") as file:
        file.write(
            json.dumps({"event": "train", "step": 50, "seconds": 1, "loss": float("nan"), "skipped": 0.5}) + "\n"
        )
        file.write(json.dumps(held_out(50, 0.9)) + "\n")
        file.write('{"event": "train", "st')
    found = warnings_of(read_run(folder))
    for wanted in (
        "versions and device of the training are not known",
        "step 50 of 1,000",
        "50.00% of the training steps were skipped",
        "1 logged values are not finite",
        "at their best at step 40 (0.2500); at the end they are at 0.9000",
    ):
        assert any(wanted in text for text in found), (wanted, found)
    assert not [text for text in warnings_of(read_run(make_run(tmp_path / "fine"))) if "versions" not in text]


def test_a_run_without_a_log_or_a_recipe(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    (folder / "log.jsonl").unlink()
    _, page = rendered(folder)
    assert any("The run has no log" in text for text in page.words) and "svg" not in page.tags
    (folder / "recipe.json").write_text("{")
    with pytest.raises(ValueError, match=r"recipe\.json is damaged"):
        read_run(folder)
    with pytest.raises(FileNotFoundError, match=r"must be the folder of a run; it has no recipe\.json"):
        read_run(tmp_path)


def test_the_page_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, out = make_run(tmp_path / "run"), tmp_path / "report.html"
    out.write_text("before")
    monkeypatch.setattr("fastgen._files.os.replace", lambda *paths: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_page(out, read_run(folder), nn.Linear(1, 1), [])
    assert out.read_text() == "before" and [path.name for path in tmp_path.glob(".report*")] == []


def test_phases_share_charts_of_losses_and_norms() -> None:
    line = {"event": "train", "step": 5, "seconds": 1.0, "lr": 0.1, "generator_loss": 1.0, "critic_loss": 2.0}
    log = [line | {"generator_grad_norm": 1.0, "critic_grad_norm": 3.0, "critic_skipped": 0.25, "r1": 0.5}]
    log += [{"event": "eval", "step": 5, "images": 3, "dims": 2, "stderr": 0.0, "sliced_distance": 0.5, "r1": 0.75}]
    titles = [re.search('aria-label="(.*?)"', chart) for chart in curves(log)]
    assert [title[1] for title in titles if title] == [
        "sliced distance", "loss", "r1", "gradient norm", "learning rate", "share of steps skipped"
    ]  # fmt: skip
    assert "generator 1" in curves(log)[1] and "critic 2" in curves(log)[1] and "held-out 0.75" in curves(log)[2]
    assert skipped_share(log) == 0.25 and skipped_share([]) == 0


def test_settings_that_are_not_set_are_left_out() -> None:
    facts = recipe_facts(Recipe(name="a", data="d", model="M", config={"n": [1, 2]}, steps=3))
    assert facts["config.n"] == "[1, 2]" and facts["steps"] == "3" and "clip_norm" not in facts and "name" not in facts


def test_sounds_are_played_and_series_are_drawn() -> None:
    recipe = Recipe(name="a", data="tones", model="WaveNet", steps=1)
    options = {"n_layers": 1, "n_stacks": 1, "n_filters": 2, "skip_filters": 2, "length": 64}
    known = {key: value for key, value in options.items() if key in WaveNet.config_class.__dataclass_fields__}
    sound = WaveNet(**known, sample_rate=8000).eval()
    (found,) = drawings(sound, recipe, 9)
    page = Page(found)
    assert page.tags.count("audio") == page.tags.count("svg") == 4  # at most four
    wav = base64.b64decode(page.addresses[0].removeprefix("data:audio/wav;base64,"))
    assert wav[:4] == b"RIFF" and len(wav) > 2 * 64
    series = WaveNet(**known, sample_rate=None, encoding="linear", scale=[[5.0, 2.0]]).eval()
    (found,) = drawings(series, recipe, 2)
    assert Page(found).tags.count("svg") == 2 and "audio" not in found


def test_images_of_classes_stand_in_columns() -> None:
    from fastgen.models import GatedPixelCNN

    recipe = Recipe(name="a", data="none", model="GatedPixelCNN", steps=1)
    model = GatedPixelCNN(1, n_layers=1, n_filters=2, n_classes=3, image_size=(5, 4)).eval()
    (found,) = drawings(model, recipe, 6)
    assert "6 unpicked images of seed 0, a column a class" in found
    png = base64.b64decode(re.findall('base64,([^"]*)', found)[0])
    scale = 64 // 5
    width, height = int.from_bytes(png[16:20], "big"), int.from_bytes(png[20:24], "big")
    assert (height, width) == (2 * (5 * scale + 2) + 2, 3 * (4 * scale + 2) + 2)


def test_images_given_others_stand_below_them(monkeypatch: pytest.MonkeyPatch) -> None:
    from fastgen.models import Colorization

    data = TensorImages("d", torch.randint(0, 256, (5, 3, 4, 4), dtype=torch.uint8), torch.zeros(5, dtype=torch.int64))
    monkeypatch.setattr("fastgen.training.build.load_data", lambda recipe: (data, data))
    model = Colorization(3, n_layers=1, n_filters=3, image_size=(4, 4)).eval()
    (found,) = drawings(model, Recipe(name="a", data="none", model="Colorization", steps=1), 20)
    assert "5 held-out images above" in found
