"""Checkpoints of PixelCNN++: the original one for TensorFlow, and the widely used port to PyTorch.

Both describe the paper's network: three levels of one width, the stem (2, 3), (1, 3), (2, 1). Ours names levels from
the finest to the coarsest, theirs count layers in the order of the calls, so the way down runs the other way.
"""

from __future__ import annotations

import os
import pickle
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from fastgen.models import PixelCNNPP
from fastgen.models.serialization import check_keys, load_weights

N_LEVELS = 3
EMA = "/ExponentialMovingAverage"


@dataclass(frozen=True)
class Layer:
    """One weight-normalised layer under its three names."""

    ours: str
    port: str
    openai: str
    kind: Literal["conv", "dense", "deconv"]


def pixelcnnpp_layers(n_resnet: int) -> tuple[list[Layer], list[str]]:
    """All layers of the paper's network, and our names of its gated resnets, both in the order of the calls."""
    layers: list[Layer] = []
    resnets: list[str] = []
    counts = {"conv": 0, "dense": 0, "deconv": 0}
    variable = {"conv": "conv2d", "dense": "dense", "deconv": "deconv2d"}
    suffix = {"conv": "conv", "dense": "lin_a", "deconv": "deconv"}

    def layer(ours: str, port: str, kind: Literal["conv", "dense", "deconv"]) -> None:
        openai = f"model/{variable[kind]}_{counts[kind]}"
        layers.append(Layer(ours, f"{port}.{suffix[kind]}", openai, kind))
        counts[kind] += 1

    def pair(way: str, level: int, port_level: int, block: int) -> None:
        for stream in ("u", "ul"):
            ours = f"{way}_{stream}.{level}.{block}"
            port = f"{way}_layers.{port_level}.{stream}_stream.{block}"
            layer(f"{ours}.conv_in", f"{port}.conv_input", "conv")
            if (way, stream) != ("up", "u"):  # the only blocks without a short-cut
                layer(f"{ours}.nin_skip", f"{port}.nin_skip", "dense")
            layer(f"{ours}.conv_out", f"{port}.conv_out", "conv")
            resnets.append(ours)

    layer("u_init", "u_init", "conv")
    layer("ul_init_above", "ul_init.0", "conv")
    layer("ul_init_left", "ul_init.1", "conv")
    for level in range(N_LEVELS):
        for block in range(n_resnet):
            pair("up", level, level, block)
        if level < N_LEVELS - 1:
            for stream in ("u", "ul"):
                layer(f"downsize_{stream}.{level}", f"downsize_{stream}_stream.{level}", "conv")
    for step in range(N_LEVELS):
        level = N_LEVELS - 1 - step
        for block in range(n_resnet + (step > 0)):
            pair("down", level, step, block)
        if level > 0:
            for stream in ("u", "ul"):
                layer(f"upsize_{stream}.{level - 1}", f"upsize_{stream}_stream.{step}", "deconv")
    layer("nin_out", "nin_out", "dense")
    return layers, resnets


def load_pixelcnnpp_pytorch(
    source: str | os.PathLike[str] | Mapping[str, Tensor], *, tails: str = "exact"
) -> PixelCNNPP:
    """PixelCNN++ from a checkpoint of the PyTorch port: a .pth or .safetensors file, or its state dict.

    Number of resnets, filters, mixtures and channels are read from the shapes; 8 bits, dropout per channel. A
    `module.` before all names is dropped, and weight norms stored as parametrizations are read like the older ones.
    The model is in evaluation mode and has the dtype of the checkpoint. `tails="pixelcnn++"` takes the published
    likelihood instead of the exact one; the parameters that `forward` returns do not depend on it.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a file or mapping that holds anything but the weights of this network; missing, superfluous and
            misshapen ones are listed.
    Source: the names are those of https://github.com/pclucas14/pixel-cnn-pp.
    """
    name = "load_pixelcnnpp_pytorch"
    weights = _without_prefix(_state_dict(source, name))
    found = [re.match(r"up_layers\.0\.u_stream\.(\d+)\.", key) for key in weights]
    n_resnet = 1 + max((int(match[1]) for match in found if match), default=-1)
    if n_resnet == 0 or "u_init.conv.weight_v" not in weights or "nin_out.lin_a.weight_v" not in weights:
        raise ValueError(
            f"{name}: the state dict must hold u_init.conv.weight_v, up_layers.0.u_stream.0... and "
            f"nin_out.lin_a.weight_v; got {_some(weights)}; this is no checkpoint of that port"
        )
    stem, last = weights["u_init.conv.weight_v"], weights["nin_out.lin_a.weight_v"]
    if stem.dim() != 4:
        raise ValueError(f"{name}: u_init.conv.weight_v must be [filters, channels + 1, 2, 3]; got {list(stem.shape)}")
    model = _paper_model(
        name,
        n_resnet=n_resnet,
        n_filters=stem.shape[0],
        channels=stem.shape[1] - 1,
        n_params=last.shape[0],
        n_classes=0,
        dropout_kind="channel",
        tails=tails,
    )

    layers, _ = pixelcnnpp_layers(n_resnet)
    ours = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    want: dict[str, tuple[int, ...]] = {}
    converted: dict[str, Tensor] = {}
    for layer in layers:
        for part in ("weight_g", "weight_v", "bias"):
            shape, key = ours[f"{layer.ours}.{part}"], f"{layer.port}.{part}"
            want[key] = shape[:2] if layer.kind == "dense" else shape  # a linear layer has no window
            if key in weights:
                converted[f"{layer.ours}.{part}"] = weights[key].reshape(*weights[key].shape, *shape[len(want[key]) :])
    check_keys(want, {key: tuple(tensor.shape) for key, tensor in weights.items()}, name)
    load_weights(model, converted, name)
    return model.eval()


def to_pixelcnnpp_pytorch(model: PixelCNNPP) -> dict[str, Tensor]:
    """State dict of the PyTorch port for a PixelCNN++ that it can express; the inverse of the loader.

    Raises:
        ValueError: the model has options that the port lacks: classes, another stem, level widths or way down.
    """
    config = model.config
    standard = PixelCNNPP.config_class()
    lacks = [key for key in ("n_classes", "stem", "down_resnets") if config[key] != _plain(getattr(standard, key))]
    if not isinstance(config["n_filters"], int):
        lacks.append("n_filters")
    if lacks:
        raise ValueError(
            "to_pixelcnnpp_pytorch: the port has no classes, one width, the paper's stem and way down; got "
            f"{', '.join(f'{key}={config[key]}' for key in lacks)}; keep this model in fastgen's format (fastgen.save)"
        )
    state = model.state_dict()
    result: dict[str, Tensor] = {}
    for layer in pixelcnnpp_layers(config["n_resnet"])[0]:
        for part in ("weight_g", "weight_v", "bias"):
            tensor = state[f"{layer.ours}.{part}"].detach().clone()
            window = layer.kind == "dense" and part != "bias"
            result[f"{layer.port}.{part}"] = tensor[:, :, 0, 0] if window else tensor
    return result


def load_pixelcnnpp_openai(source: str | os.PathLike[str] | Mapping[str, Any], *, tails: str = "exact") -> PixelCNNPP:
    """PixelCNN++ from the variables of the original TensorFlow checkpoint: an .npz file, or a mapping of arrays.

    Names are those of the variables, `model/conv2d_0/V` and so on (a closing `:0` is dropped). Where there are
    copies under `.../ExponentialMovingAverage` these are used, all of them. Resnets, filters, mixtures, channels and
    classes are read from the shapes; 8 bits, dropout per element. The model is in evaluation mode and has the dtype
    of the arrays. `tails="pixelcnn++"` takes the published likelihood instead of the exact one.

    Layouts: convolutions V [kh, kw, Ci, Co] and dense layers V [Ci, Co] are normalised per output channel like ours;
    transposed convolutions V [kh, kw, Co, Ci] too, unlike ours, so that W itself is stored as v.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a file or mapping that holds anything but the variables of this network; missing, superfluous and
            misshapen ones are listed.
    Source: the names are those of https://github.com/openai/pixel-cnn.
    """
    name = "load_pixelcnnpp_openai"
    variables, beside, suffix = _openai_variables(source, name)
    n_conv = sum(bool(re.fullmatch(r"model/conv2d_\d+/V", key)) for key in variables)
    n_dense = sum(bool(re.fullmatch(r"model/dense_\d+/V", key)) for key in variables)
    n_resnet = round((n_conv - 15) / 24)  # 3 in the stem, 4 strided, 4 a pair of blocks, 6 n_resnet + 2 pairs
    last = f"model/dense_{n_dense - 1}/V"
    if n_resnet < 1 or "model/conv2d_0/V" not in variables or last not in variables:
        raise ValueError(
            f"{name}: the variables must be model/conv2d_0/V, model/dense_0/V and so on; got {_some(variables)}; "
            "dump the checkpoint under the names that it uses"
        )
    stem = variables["model/conv2d_0/V"]
    if stem.dim() != 4:
        raise ValueError(f"{name}: model/conv2d_0/V must be [2, 3, channels + 1, filters]; got {list(stem.shape)}")
    classes = variables.get("model/conditional_weights_0/hw")
    model = _paper_model(
        name,
        n_resnet=n_resnet,
        n_filters=stem.shape[3],
        channels=stem.shape[2] - 1,
        n_params=variables[last].shape[-1],
        n_classes=len(classes) if classes is not None else 0,
        dropout_kind="element",
        tails=tails,
    )

    layers, resnets = pixelcnnpp_layers(n_resnet)
    ours = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    want: dict[str, tuple[int, ...]] = {}
    for layer in layers:
        first, second, *window = ours[f"{layer.ours}.weight_v"]
        want[f"{layer.openai}/V"] = (second, first) if layer.kind == "dense" else (*window, second, first)
        want[f"{layer.openai}/g"] = want[f"{layer.openai}/b"] = ours[f"{layer.ours}.bias"]
    if model.n_classes:
        for k, resnet in enumerate(resnets):
            want[f"model/conditional_weights_{k}/hw"] = ours[f"{resnet}.class_embedding.weight"]
    # where there are averages their plain copies are expected beside them, but nothing else is
    got = {key + suffix: tuple(tensor.shape) for key, tensor in variables.items()}
    got |= {key: tuple(tensor.shape) for key, tensor in beside.items() if key not in want}
    check_keys({key + suffix: shape for key, shape in want.items()}, got, name)

    converted: dict[str, Tensor] = {}
    for layer in layers:
        v, g, b = (variables[f"{layer.openai}/{part}"] for part in "Vgb")
        if layer.kind == "dense":
            v, g = v.t()[:, :, None, None], g[:, None, None, None]
        elif layer.kind == "conv":
            v, g = v.permute(3, 2, 0, 1), g[:, None, None, None]
        else:
            v = (v * (g / torch.linalg.vector_norm(v, dim=(0, 1, 3)))[:, None]).permute(3, 2, 0, 1)
            g = torch.linalg.vector_norm(v, dim=(1, 2, 3), keepdim=True)
        converted |= {f"{layer.ours}.weight_v": v, f"{layer.ours}.weight_g": g, f"{layer.ours}.bias": b}
    if model.n_classes:
        for k, resnet in enumerate(resnets):
            converted[f"{resnet}.class_embedding.weight"] = variables[f"model/conditional_weights_{k}/hw"]
    load_weights(model, converted, name)
    return model.eval()


def _paper_model(
    name: str,
    *,
    n_resnet: int,
    n_filters: int,
    channels: int,
    n_params: int,
    n_classes: int,
    dropout_kind: str,
    tails: str,
) -> PixelCNNPP:
    per_mixture = 1 + 2 * channels + channels * (channels - 1) // 2
    if channels < 1 or n_params < 1 or n_params % per_mixture:
        raise ValueError(
            f"{name}: the first layer must see an image and ones, and the last one give a multiple of {per_mixture} "
            f"parameters for {channels} channels; got {channels + 1} inputs and {n_params} outputs"
        )
    with torch.random.fork_rng(devices=[]):  # the random start is overwritten: leave the caller's generator alone
        return PixelCNNPP(
            channels,
            n_resnet,
            n_filters,
            n_params // per_mixture,
            n_classes=n_classes,
            dropout_kind=dropout_kind,
            tails=tails,
        )


def _state_dict(source: str | os.PathLike[str] | Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    if not isinstance(source, Mapping):
        if not Path(source).is_file():
            raise FileNotFoundError(f"{name}: source must be a file or a state dict; got {str(source)!r}")
        try:
            if Path(source).suffix == ".safetensors":
                source = load_file(source)
            else:
                source = torch.load(source, map_location="cpu", weights_only=True)
        except (pickle.UnpicklingError, SafetensorError, EOFError, RuntimeError) as error:
            raise ValueError(
                f"{name}: {str(source)!r} must hold a state dict of tensors and nothing else ({error}); save "
                "model.state_dict() with the project that wrote it"
            ) from error
    if not isinstance(source, Mapping) or not all(isinstance(v, Tensor) for v in source.values()):
        keys = _some(source) if isinstance(source, Mapping) else type(source).__name__
        raise ValueError(
            f"{name}: the checkpoint must map names to tensors; got {keys}; pass the entry that holds the state dict"
        )
    return {str(key): tensor for key, tensor in source.items()}


def _without_prefix(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Drop the `module.` of data-parallel training; name the parts of parametrized weight norms like the older ones."""
    parts = {".parametrizations.weight.original0": ".weight_g", ".parametrizations.weight.original1": ".weight_v"}
    prefix = "module." if all(key.startswith("module.") for key in weights) else ""
    result = {}
    for key, tensor in weights.items():
        key = key[len(prefix) :]
        for theirs, plain in parts.items():
            key = key.replace(theirs, plain)
        result[key] = tensor
    return result


def _openai_variables(
    source: str | os.PathLike[str] | Mapping[str, Any], name: str
) -> tuple[dict[str, Tensor], dict[str, Tensor], str]:
    """The variables to use by plain name, those beside them that are no averages, and the suffix of the used ones."""
    if not isinstance(source, Mapping):
        if not Path(source).is_file():
            raise FileNotFoundError(f"{name}: source must be an .npz file or a mapping; got {str(source)!r}")
        try:
            with open(source, "rb") as file, np.load(file, allow_pickle=False) as archive:
                source = {key: archive[key] for key in archive.files}
        except (ValueError, OSError, EOFError, AttributeError, TypeError, zipfile.BadZipFile) as error:
            raise ValueError(
                f"{name}: {str(source)!r} must be an .npz file of plain arrays ({error}); write it with numpy.savez"
            ) from error
    arrays = {str(key).removesuffix(":0"): torch.from_numpy(np.array(value)) for key, value in source.items()}
    averages = {key.removesuffix(EMA): tensor for key, tensor in arrays.items() if key.endswith(EMA)}
    plain = {key: tensor for key, tensor in arrays.items() if not key.endswith(EMA)}
    return (averages, plain, EMA) if averages else (plain, {}, "")


def _some(mapping: Mapping[Any, Any]) -> str:
    keys = sorted(map(str, mapping))
    return ", ".join(keys[:5]) + (f" and {len(keys) - 5} more" if len(keys) > 5 else "") if keys else "nothing"


def _plain(value: Any) -> Any:
    return [_plain(v) for v in value] if isinstance(value, tuple) else value
