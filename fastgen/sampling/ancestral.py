"""Ancestral sampling: draw the pixels one after another, each given those before."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from fastgen._names import unknown_name
from fastgen.likelihoods import Likelihood, levels_to_signal, signal_to_levels
from fastgen.sampling.executors import CachedExecutor, Executor, NaiveExecutor, NativeExecutor, why_not
from fastgen.sampling.noise import uniforms
from fastgen.sampling.normalize import normalize
from fastgen.sampling.plan import plan
from fastgen.sampling.trace import TraceError, trace

METHODS = ("native", "cached", "naive")  # best first


def available_methods(device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> list[str]:
    """Sampling methods that a device supports, fastest first; "auto" takes the first that fits the model.

    "native" runs the cached program in compiled C (on the CPU, where there is a C compiler), "cached" as PyTorch calls
    on any device, and "naive" is one full forward for every pixel.
    """
    return [method for method in METHODS if method != "native" or why_not(torch.device(device), dtype) is None]


def sample(
    model: nn.Module,
    n: int,
    *,
    shape: tuple[int, int, int] | None = None,
    seed: int = 0,
    temperature: float = 1.0,
    given: Tensor | None = None,
    mask: Tensor | None = None,
    cond: Any = None,
    method: str = "auto",
    progress: bool = False,
    batch_size: int | None = None,
    first_image: int = 0,
    prepared: Executor | None = None,
) -> Tensor:
    """Draw images from an autoregressive model: x_i ~ p(x_i | x_<i), pixel by pixel in raster order.

    The noise is a function of (seed, image, row, column, draw) alone, so image k of a seed is the same image at any
    batch size and by every method.

    Shapes: result [n, C, H, W] uint8 levels on the model's device. `shape` is (C, H, W), by default the one the model
        was trained on. `given` is uint8 levels [n or 1, C, H, W]; where `mask` [n or 1, 1 or C, H, W] is True, its
        pixels are kept and not drawn, and every pixel after them sees them. `cond` is what the model documents,
        for class-conditional models int64 labels [n], or one label for all.
    Dtypes: logits and draws in the dtype of the model's parameters, noise in float32.
    `temperature` scales the spread of every draw (0 is the mode); `method` is "auto" or one of `available_methods`;
    `batch_size` bounds how many images are drawn side by side; `first_image` is the index of the first one.
    `prepared`, from `prepare`, saves tracing and planning the model again; it has its own shape, labels and method.

    Raises: ValueError for arguments that do not fit; CausalityError for a model that sees the pixel it predicts;
        TraceError if `method="cached"` and the model does something the engine has no rule for ("auto" warns and
        takes "naive").
    """
    likelihood = _likelihood_of(model)
    if n < 0:
        raise ValueError(f"sample: n must not be negative; got {n}")
    if not temperature >= 0:
        raise ValueError(f"sample: temperature must not be negative; got {temperature}")
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"sample: batch_size must be at least 1; got {batch_size}")
    if prepared is not None:
        _check_prepared(prepared, n, shape, cond)
        shape = prepared.image_shape
    shape = _shape_of(model, shape, given)
    parameter = next(model.parameters())
    given, mask = _check_given(given, mask, n, shape, likelihood.levels)
    cond = _check_cond(model, cond, n) if prepared is None else None
    if prepared is not None:
        batch_size = prepared.n_images
    batch_size = batch_size or min(n, 64 if parameter.device.type == "cpu" else 256)
    out = torch.empty(n, *shape, dtype=torch.uint8, device=parameter.device)
    executor = prepared
    with _Progress(progress, n, shape) as advance:
        for start in range(0, n, batch_size or 1):
            stop = min(start + batch_size, n)
            part = slice(start, stop)
            if executor is None or (prepared is None and cond is not None):
                batch = parameter.new_zeros(batch_size if cond is None else stop - start, *shape)
                executor = _executor(model, batch, None if cond is None else cond[part], method)
            # a last batch that is too small is filled up with images that nobody asked for
            images = range(first_image + start, first_image + start + executor.n_images)
            noise = _Noise(seed, images, shape, likelihood, parameter.device)
            rows = torch.arange(start, start + executor.n_images).clamp_(max=n - 1)
            kept = None if given is None or mask is None else (_rows(given, rows), _rows(mask, rows))
            draw = _Draw(likelihood, noise, temperature, kept, executor.substeps, parameter)
            signal = run(executor, shape, draw, parameter.new_empty(executor.n_images, *shape), advance)
            out[part] = signal_to_levels(signal[: stop - start], likelihood.levels)
    return out


def teacher_forced(model: nn.Module, x: Tensor, *, cond: Any = None, method: str = "auto") -> Tensor:
    """The parameters that a sampler computes at every pixel when the image is given instead of drawn.

    By construction they equal `model(x, cond)`; that they do is the proof that a method samples exactly.

    Shapes: x uint8 levels or float in [-1, 1], [N, C, H, W]; result [N, P, H, W].
    Raises: as `sample`.
    """
    likelihood = _likelihood_of(model)
    parameter = next(model.parameters())
    signal = x if x.is_floating_point() else levels_to_signal(x, likelihood.levels, parameter.dtype)
    signal = signal.to(parameter.device, parameter.dtype)
    cond = _check_cond(model, cond, len(x))
    executor = _executor(model, torch.zeros_like(signal), cond, method)
    out = signal.new_empty(len(x), likelihood.n_params, *signal.shape[2:])
    parts = _parts(likelihood) if executor.substeps > 1 else [slice(0, likelihood.n_params)]

    def draw(row: int, column: int, group: int, params: Tensor) -> Tensor:
        out[:, parts[group], row, column] = params[:, parts[group]]
        channels = slice(group, group + 1) if executor.substeps > 1 else slice(None)
        return signal[:, channels, row, column]

    run(executor, tuple(signal.shape[1:]), draw, torch.empty_like(signal), lambda: None)
    return out


def prepare(
    model: nn.Module, n: int, *, shape: tuple[int, int, int] | None = None, cond: Any = None, method: str = "auto"
) -> Executor:
    """Trace and plan a model once, for any number of calls `sample(model, k, ..., prepared=...)` with k <= n images.

    The result holds the weights as they are now, and `cond` (as in `sample`) for its n images.

    Raises: as `sample`.
    """
    shape = _shape_of(model, shape, None)
    image = next(model.parameters()).new_zeros(n, *shape)
    return _executor(model, image, _check_cond(model, cond, n), method)


def _executor(model: nn.Module, image: Tensor, cond: Any, method: str) -> Executor:
    """The fastest executor that `method` allows, for images like `image`."""
    if method not in (*METHODS, "auto"):
        raise unknown_name("sampling method", method, (*METHODS, "auto"))
    likelihood = _likelihood_of(model)
    parts = _parts(likelihood)
    reason = why_not(image.device, image.dtype) if method in ("auto", "native") else None
    if method == "native" and reason:
        raise ValueError(f'sample: method="native" cannot run: {reason}; method="auto" takes what can')
    if method != "naive":
        try:
            # constants that differ between the images need all of them; otherwise one image shows the whole graph
            traced = trace(model, torch.zeros_like(image if cond is not None else image[:1]), cond)
            program = plan(normalize(traced), parts)
            if method == "cached" or reason:
                return CachedExecutor(program, len(image), image)
            return NativeExecutor(program, len(image), image, likelihood)
        except TraceError as error:
            if method != "auto":
                raise
            warnings.warn(f"sampling is slow: one full forward for every pixel; {error}", stacklevel=3)
    return NaiveExecutor(model, image, cond, len(parts))


DrawFunction = Callable[[int, int, int, Tensor], Tensor]


@torch.inference_mode()
def run(
    executor: Executor, shape: tuple[int, ...], draw: DrawFunction, out: Tensor, advance: Callable[[], object]
) -> Tensor:
    """Visit the pixels in raster order; x = draw(row, column, group, parameters) goes to the executor and `out`."""
    _, height, width = shape
    executor.start()
    draw_row = _row_sampler(executor, draw)
    for row in range(height):
        executor.begin_row(row)
        if draw_row is not None:
            out[:, :, row] = draw_row(row)
            advance()
            continue
        for column in range(width):
            for group in range(executor.substeps):
                x = draw(row, column, group, executor.parameters(column, group))
                executor.write(column, group, x)
                if executor.substeps == 1:
                    out[:, :, row, column] = x
                else:
                    out[:, group : group + 1, row, column] = x
        executor.end_row()
        advance()
    return out


def _row_sampler(executor: Executor, draw: DrawFunction) -> Callable[[int], Tensor] | None:
    """A function that draws a whole row, [N, C, W], where the executor can draw by itself."""
    if isinstance(executor, NativeExecutor) and isinstance(draw, _Draw) and executor.draws(draw.likelihood):
        return lambda row: executor.draw_row(*draw.row(row)).permute(0, 2, 1)
    return None


class _Noise:
    """The uniforms of a batch, laid out so that a pixel's are one contiguous view."""

    def __init__(
        self, seed: int, images: range, shape: tuple[int, ...], likelihood: Likelihood, device: torch.device
    ) -> None:
        index = torch.arange(images.start, images.stop, device=device)
        values = uniforms(seed, index, shape[1], shape[2], likelihood.n_draws)
        self.rows = values.permute(2, 3, 0, 1).contiguous()  # [H, W, N, U]


class _Draw:
    """Draws pixels from a likelihood, or keeps given ones."""

    def __init__(
        self,
        likelihood: Likelihood,
        noise: _Noise,
        temperature: float,
        kept: tuple[Tensor, Tensor] | None,
        substeps: int,
        like: Tensor,
    ) -> None:
        self.likelihood, self.noise, self.temperature = likelihood, noise.rows, temperature
        if substeps == 1:
            self.groups = [(likelihood, slice(None), slice(None), slice(None))]
        else:
            self.groups = [(*likelihood.channel(c), slice(c, c + 1)) for c in range(likelihood.channels)]
        self.kept = None
        if kept is not None:
            signal = levels_to_signal(kept[0].to(like.device), likelihood.levels, like.dtype)
            self.kept = (signal, kept[1].to(like.device).expand_as(signal), kept[1].flatten(0, 1).any(0).cpu())
            self.kept_rows = [
                tensor.expand(self.noise.shape[2], -1, -1, -1).permute(2, 3, 0, 1).contiguous()
                for tensor in self.kept[:2]
            ]

    def row(self, row: int) -> tuple[Tensor, float, Tensor | None, Tensor | None]:
        """What draws of a whole row need: uniforms [W, N, U], temperature, and what is kept, [W, N, C], where."""
        kept, mask = (None, None) if self.kept is None else (rows[row] for rows in self.kept_rows)
        return self.noise[row], self.temperature, kept, mask

    def __call__(self, row: int, column: int, group: int, params: Tensor) -> Tensor:
        likelihood, part, draws, channels = self.groups[group]
        x = likelihood.sample(params[:, part], self.noise[row, column][:, draws], temperature=self.temperature)
        if self.kept is not None and self.kept[2][row, column]:
            signal, mask, _ = self.kept
            x = torch.where(mask[:, channels, row, column], signal[:, channels, row, column], x)
        return x


def _likelihood_of(model: nn.Module) -> Likelihood:
    likelihood = getattr(model, "likelihood", None)
    if not isinstance(likelihood, Likelihood):
        raise ValueError(
            f"sample: the model must have a `likelihood` of fastgen.likelihoods; got {type(likelihood).__name__} on "
            f"{type(model).__name__}; set model.likelihood, for example to Categorical(channels=3)"
        )
    return likelihood


def _parts(likelihood: Likelihood) -> list[slice]:
    """The slices of the parameters that the draws of a pixel need, one after another."""
    if likelihood.coupled:
        return [slice(0, likelihood.n_params)]
    return [likelihood.channel(c)[1] for c in range(likelihood.channels)]


def _shape_of(model: nn.Module, shape: tuple[int, int, int] | None, given: Tensor | None) -> tuple[int, int, int]:
    channels = _likelihood_of(model).channels
    if shape is None:
        size = getattr(model, "image_size", None)
        if size is None and given is not None:
            size = given.shape[2:]
        if size is None:
            raise ValueError("sample: the model knows no image size; got shape=None; pass shape=(C, H, W)")
        shape = (channels, int(size[0]), int(size[1]))
    if len(shape) != 3 or shape[0] != channels or shape[1] < 1 or shape[2] < 1:
        raise ValueError(f"sample: shape must be ({channels}, H, W) with H and W at least 1; got {tuple(shape)}")
    return (int(shape[0]), int(shape[1]), int(shape[2]))


def _check_prepared(prepared: Executor, n: int, shape: tuple[int, int, int] | None, cond: Any) -> None:
    if n > prepared.n_images or (shape is not None and tuple(shape) != prepared.image_shape) or cond is not None:
        raise ValueError(
            f"sample: `prepared` serves up to {prepared.n_images} images of shape {prepared.image_shape} with its own "
            f"labels; got n={n}, shape={shape}, cond={'None' if cond is None else 'labels'}; prepare again"
        )


def _check_given(
    given: Tensor | None, mask: Tensor | None, n: int, shape: tuple[int, int, int], levels: int
) -> tuple[Tensor | None, Tensor | None]:
    if (given is None) != (mask is None):
        raise ValueError("sample: given and mask come together; got only one of them")
    if given is None or mask is None:
        return None, None
    if (
        given.dtype != torch.uint8
        or given.dim() != 4
        or given.shape[0] not in (1, n)
        or tuple(given.shape[1:]) != shape
    ):
        raise ValueError(
            f"sample: given must be uint8 levels [{n} or 1, {', '.join(map(str, shape))}]; "
            f"got {given.dtype} {list(given.shape)}"
        )
    if given.numel() and int(given.max()) >= levels:
        raise ValueError(f"sample: given must hold levels below {levels}; got {int(given.max())}; requantise the image")
    fits = (
        mask.dim() == 4
        and mask.shape[0] in (1, n)
        and mask.shape[1] in (1, shape[0])
        and mask.shape[2:] == given.shape[2:]
    )
    if mask.dtype != torch.bool or not fits:
        raise ValueError(
            f"sample: mask must be bool [{n} or 1, 1 or {shape[0]}, {shape[1]}, {shape[2]}], True where given is kept; "
            f"got {mask.dtype} {list(mask.shape)}"
        )
    return given, mask


def _check_cond(model: nn.Module, cond: Any, n: int) -> Any:
    prepare = getattr(model, "prepare_cond", None)
    return cond if prepare is None else prepare(cond, n)


def _rows(tensor: Tensor, rows: Tensor) -> Tensor:
    return tensor if len(tensor) == 1 else tensor[rows.to(tensor.device)]


class _Progress:
    """A bar over the rows of all batches, or nothing."""

    def __init__(self, show: bool, n: int, shape: tuple[int, int, int]) -> None:
        self.bar = None
        if show:
            from tqdm import tqdm

            self.bar = tqdm(total=None, unit="row", desc=f"sampling {n} of {shape[1]}x{shape[2]}")

    def __enter__(self) -> Callable[[], object]:
        return (lambda: None) if self.bar is None else self.bar.update

    def __exit__(self, *exc: object) -> None:
        if self.bar is not None:
            self.bar.close()
