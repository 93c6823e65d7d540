"""One safetensors file: what goes in comes out, and anything else is refused."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import fastgen
from fastgen.likelihoods import Categorical
from fastgen.models import PixelCNNPP


def images(n=2):
    return torch.randint(0, 4, (n, 3, 5, 6), dtype=torch.uint8)


def options(name):
    return {"bits": 2, "n_classes": 2} if name == "PixelCNNPP" else {"likelihood": Categorical(3, levels=4)}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", ["GatedPixelCNN", "PixelCNN", "PixelCNNPP", "PixelRNN", "PixelSNAIL"])
def test_round_trip_is_exact(build, tmp_path, name, dtype):
    model, x = build(name, **options(name)).to(dtype).train(), images()
    fastgen.save(model, tmp_path / "model.safetensors")
    assert model.training
    state = torch.get_rng_state()
    loaded = fastgen.load(tmp_path / "model.safetensors")
    assert torch.equal(torch.get_rng_state(), state)
    assert type(loaded) is type(model)
    assert loaded.config == model.config
    assert not loaded.training
    assert all(p.requires_grad and p.dtype == dtype for p in loaded.parameters())
    cond = [0, 1] if model.n_classes else None
    assert torch.equal(loaded(x, cond), model.eval()(x, cond))
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]


def test_the_file_is_plain_safetensors_with_json_in_its_header(build, tmp_path):
    model = build("PixelCNNPP")
    fastgen.save(model, tmp_path / "m.safetensors")
    with safe_open(tmp_path / "m.safetensors", framework="pt") as file:
        metadata = file.metadata()
        assert set(file.keys()) == set(model.state_dict())
    assert metadata["format"] == "fastgen-1"
    assert metadata["class"] == "PixelCNNPP"
    assert metadata["fastgen_version"] == fastgen.__version__
    assert json.loads(metadata["config"]) == model.config


def test_a_failed_save_leaves_the_old_file(build, tmp_path, monkeypatch):
    path = tmp_path / "m.safetensors"
    fastgen.save(build("PixelCNNPP"), path)
    before = path.read_bytes()

    def full_disk(tensors, filename, metadata):
        filename.write_bytes(b"half a file")
        raise OSError("no space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full_disk)
    with pytest.raises(OSError, match="no space"):
        fastgen.save(build("PixelCNNPP", n_mix=3), path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["m.safetensors"]


def test_save_refuses_what_load_could_not_build(build, tmp_path):
    class Other(PixelCNNPP):
        pass

    for bad in (torch.nn.Linear(1, 1), torch.nn.DataParallel(build("PixelCNNPP")), Other(1, 1, 2)):
        with pytest.raises(TypeError, match="save: model must be one of"):
            fastgen.save(bad, tmp_path / "m.safetensors")
    assert not list(tmp_path.iterdir())


@pytest.fixture
def saved(build, tmp_path):
    """Path of a saved model, and a function that writes it again with other tensors or metadata."""
    path = tmp_path / "m.safetensors"
    model = build("PixelCNNPP")
    fastgen.save(model, path)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()

    def rewrite(tensors=None, **changes):
        kept = {key: value for key, value in {**metadata, **changes}.items() if value is not None}
        save_file(model.state_dict() if tensors is None else tensors, path, kept)
        return path

    return path, model.state_dict(), rewrite


def test_load_refuses_missing_and_truncated_files(saved, tmp_path):
    path, _, _ = saved
    whole = path.read_bytes()
    for cut in (0, 5, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(ValueError, match=r"whole \.safetensors file"):
            fastgen.load(path)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        fastgen.load(tmp_path / "nowhere.safetensors")
    with pytest.raises(FileNotFoundError):
        fastgen.load(tmp_path)


def test_load_refuses_pickles_and_foreign_files(saved, tmp_path):
    _, state, rewrite = saved
    torch.save(state, tmp_path / "m.pth")
    with pytest.raises(ValueError, match=r"fastgen\.convert"):
        fastgen.load(tmp_path / "m.pth")
    for foreign in (None, "pt", "fastgen-2"):
        with pytest.raises(ValueError, match="must be a file of format 'fastgen-1'"):
            fastgen.load(rewrite(format=foreign))
    save_file(state, tmp_path / "bare.safetensors")
    with pytest.raises(ValueError, match="got None"):
        fastgen.load(tmp_path / "bare.safetensors")


def test_load_refuses_unknown_classes_options_and_broken_configs(saved):
    _, _, rewrite = saved
    with pytest.raises(ValueError, match="unknown model class 'PixelCNN2'"):
        fastgen.load(rewrite(**{"class": "PixelCNN2"}))
    with pytest.raises(ValueError, match="unknown model class"):
        fastgen.load(rewrite(**{"class": None}))
    with pytest.raises(ValueError, match="'depth'"):
        fastgen.load(rewrite(config='{"depth": 3}'))
    for broken in ("{", "3", "", None):
        with pytest.raises(ValueError, match="must be a JSON object"):
            fastgen.load(rewrite(config=broken))


def test_load_lists_missing_superfluous_and_misshapen_weights(saved):
    _, state, rewrite = saved
    state = dict(state)
    state["u_extra.bias"] = state.pop("u_init.bias")
    state["nin_out.bias"] = torch.zeros(3)
    with pytest.raises(ValueError) as error:
        fastgen.load(rewrite(state))
    for part in ("missing u_init.bias", "superfluous u_extra.bias", r"nin_out.bias (3,) instead of (20,)"):
        assert part in str(error.value)
