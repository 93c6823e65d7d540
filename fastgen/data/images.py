"""Images as uint8 levels [C, H, W]: read them, write them, lay them out in a grid."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from fastgen._files import atomic_path

if TYPE_CHECKING:
    from PIL.Image import Image

Size = int | Sequence[int]

_GRAY_MODES = ("1", "L", "LA", "La", "I", "F")
_CHUNK = 4096  # images converted at a time, which bounds the int32 temporaries


def read_image(path: str | os.PathLike[str], size: Size | None = None, channels: int | None = None) -> Tensor:
    """The image at `path` as levels: oriented by EXIF, scaled to cover `size`, cropped at the centre.

    Shapes: uint8 [C, H, W]; `size` is S for S x S or (H, W), and None keeps the image's own. The shorter side
        (relative to the wanted one) is resized with an antialiased bicubic filter and the excess of the other
        is cropped evenly.
    Dtypes: 16-bit gray becomes 8 bits by round(v / 257). Transparent pixels show white. `channels` is 1
        (gray, the luma of ITU-R BT.601) or 3 (RGB); None gives 1 where the file is gray and 3 otherwise. The
        first frame of several.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file cannot be decoded (the message names it), or `size` or `channels` is not valid.
    """
    pair, wanted = check_size("read_image", size), check_channels("read_image", channels)
    with open_image(path) as image:
        try:
            return image_to_tensor(image, pair, wanted)
        except Exception as error:  # of whatever type the format's decoder raises: OSError, SyntaxError, ...
            raise undecodable(path, error) from error


def write_image(path: str | os.PathLike[str], image: Tensor) -> None:
    """Write uint8 levels [C, H, W], C = 1 or 3, as a PNG that is whole or not there at all.

    Raises:
        TypeError: the image is not a uint8 tensor.
        ValueError: its shape is not [1 or 3, H, W], or `path` does not end in .png.
        OSError: the file cannot be written.
    """
    from PIL import Image

    _check_levels("write_image", image, 3)
    if Path(path).suffix.lower() != ".png":
        raise ValueError(f"write_image: writes PNG only; got {os.fspath(path)!r}; give it the suffix .png.")
    pixels = image.detach().cpu().numpy()
    picture = Image.fromarray(pixels[0] if pixels.shape[0] == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    with atomic_path(path) as temporary:
        picture.save(temporary, format="PNG")


def image_grid(images: Tensor, columns: int | None = None, padding: int = 2, scale: int = 1) -> Tensor:
    """Lay images out row by row on white, `padding` pixels between and around them.

    Shapes: uint8 [N, C, H, W] -> uint8 [C, rows * (scale * H + padding) + padding, columns * (scale * W +
        padding) + padding]. `columns` is ceil(sqrt(N)) if None and at most N; `scale` repeats each pixel
        scale x scale times.

    Raises:
        TypeError: the images are not a uint8 tensor.
        ValueError: no images, a wrong shape, or columns < 1, padding < 0, scale < 1.
    """
    _check_levels("image_grid", images, 4)
    n, channels, height, width = images.shape
    if n == 0:
        raise ValueError("image_grid: needs at least one image; got none; pass [N, C, H, W] with N > 0.")
    columns = math.isqrt(n - 1) + 1 if columns is None else columns
    if columns < 1 or padding < 0 or scale < 1:
        raise ValueError(
            "image_grid: needs columns >= 1, padding >= 0 and scale >= 1; "
            f"got columns={columns}, padding={padding}, scale={scale}; correct the one that is out of range."
        )
    columns = min(columns, n)
    rows = -(-n // columns)
    tile_height, tile_width = scale * height + padding, scale * width + padding
    cells = images.new_full((rows * columns, channels, tile_height, tile_width), 255)
    cells[:n, :, padding:, padding:] = images.repeat_interleave(scale, 2).repeat_interleave(scale, 3)
    cells = cells.view(rows, columns, channels, tile_height, tile_width).permute(2, 0, 3, 1, 4)
    grid = images.new_full((channels, rows * tile_height + padding, columns * tile_width + padding), 255)
    grid[:, : rows * tile_height, : columns * tile_width] = cells.reshape(
        channels, rows * tile_height, columns * tile_width
    )
    return grid


def open_image(path: str | os.PathLike[str]) -> Image:
    """Open the header of an image file with PIL; every failure names the file."""
    from PIL import Image

    if not os.path.exists(path):
        raise FileNotFoundError(f"read_image: no image at {os.fspath(path)!r}; check the path.")
    try:
        return Image.open(path)
    except PermissionError:
        raise
    except Exception as error:
        raise undecodable(path, error) from error


def image_channels(image: Image) -> int:
    """The channels of an image by its mode: 1 if gray (with or without alpha), else 3."""
    return 1 if image.mode in _GRAY_MODES or image.mode.startswith("I;") else 3


def image_to_tensor(image: Image, size: tuple[int, int] | None, channels: int | None) -> Tensor:
    """A PIL image of any mode as uint8 levels [C, H, W]; the rules are those of `read_image`."""
    from PIL import ImageOps

    image = _to_8_bits(ImageOps.exif_transpose(image))
    wanted = image_channels(image) if channels is None else channels
    image = _cover(image.convert("L" if wanted == 1 else "RGB"), size)
    pixels = np.array(image)  # a copy: PIL's own memory is read-only
    return torch.from_numpy(pixels[None] if wanted == 1 else np.ascontiguousarray(pixels.transpose(2, 0, 1)))


def fit_images(images: Tensor, size: tuple[int, int] | None, channels: int | None) -> Tensor:
    """Bring uint8 [N, C, H, W] to `size` and `channels` by the rules of `read_image`; None keeps them."""
    if channels not in (None, images.shape[1]):
        images = torch.cat([_convert_channels(chunk) for chunk in images.split(_CHUNK)])
    if size is None or size == tuple(images.shape[2:]):
        return images
    fitted = images.new_empty((*images.shape[:2], *size))
    for source, target in zip(images, fitted):
        target.copy_(_resize(source, size))
    return fitted


def check_size(name: str, size: Size | None) -> tuple[int, int] | None:
    """`size` as (H, W) or None; ValueError unless it is a positive int or two of them."""
    if size is None:
        return None
    pair = tuple(size) if isinstance(size, Sequence) else (size, size)
    if len(pair) != 2 or not all(isinstance(side, int) and side > 0 for side in pair):
        raise ValueError(
            f"{name}: size must be a positive int or (H, W); got {size!r}; pass for example 32 or (32, 48)."
        )
    return pair[0], pair[1]


def eight_bits(images: Tensor, levels: int) -> Tensor:
    """Images of `levels` levels, at most 256, as ones of 256: black and white where they are. Shapes: any."""
    return images if levels == 256 else ((images.int() * 255 + (levels - 1) // 2) // (levels - 1)).to(torch.uint8)


def check_channels(name: str, channels: int | None) -> int | None:
    """`channels` unless it is neither None, 1 nor 3: ValueError."""
    if channels not in (None, 1, 3):
        raise ValueError(f"{name}: channels must be 1 (gray) or 3 (RGB); got {channels!r}; pass 1, 3 or None.")
    return channels


def undecodable(path: str | os.PathLike[str], error: Exception) -> ValueError:
    """The error for a file that PIL could not decode."""
    return ValueError(
        f"read_image: {os.fspath(path)!r} must be an image that PIL can decode; got {type(error).__name__}: "
        f"{error}; "
        "replace or remove the file."
    )


def _check_levels(name: str, images: Any, dimensions: int) -> None:
    layout = "[C, H, W]" if dimensions == 3 else "[N, C, H, W]"
    if not isinstance(images, Tensor) or images.dtype != torch.uint8:
        got = f"dtype {images.dtype}" if isinstance(images, Tensor) else type(images).__name__
        raise TypeError(
            f"{name}: images must be uint8 levels {layout}; got {got}; "
            "convert a signal in [-1, 1] by fastgen.likelihoods.signal_to_levels."
        )
    if images.ndim != dimensions or images.shape[-3] not in (1, 3) or 0 in images.shape[-2:]:
        raise ValueError(
            f"{name}: images must be {layout} with C = 1 or 3; got {list(images.shape)}; permute or select channels."
        )


def _to_8_bits(image: Image) -> Image:
    """Bring any PIL mode to L or RGB."""
    from PIL import Image as pil

    if image.mode == "F":
        raise ValueError("float pixels have no defined levels")
    if image.mode.startswith("I"):  # PIL's own conversion would clip everything above 255 instead of scaling
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError(f"integer pixels must be in 0..65535; got {values.min()}..{values.max()}")
        return pil.fromarray(((values + 128) // 257).astype(np.uint8))
    mode = "L" if image_channels(image) == 1 else "RGB"
    if image.mode in ("La", "RGBa"):  # premultiplied alpha converts to nothing but its plain form
        image = image.convert(image.mode.upper())
    if image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = pil.alpha_composite(pil.new("RGBA", image.size, (255, 255, 255, 255)), image).convert("RGB")
    return image.convert(mode)


def _cover(image: Image, size: tuple[int, int] | None) -> Image:
    """Scale to the least size that covers (H, W), then crop that from the centre."""
    from PIL import Image as pil

    if size is None:
        return image
    height, width = size
    scale = max(height / image.height, width / image.width)
    scaled = (max(width, round(image.width * scale)), max(height, round(image.height * scale)))
    if scaled != image.size:
        image = image.resize(scaled, pil.Resampling.BICUBIC)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def _resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    from PIL import Image as pil

    pixels = image.permute(1, 2, 0).contiguous().numpy()
    return image_to_tensor(pil.fromarray(pixels.squeeze(2) if image.shape[0] == 1 else pixels), size, None)


def _convert_channels(images: Tensor) -> Tensor:
    """Gray [N, 1, H, W] to RGB, or RGB to PIL's luma, 0.299 R + 0.587 G + 0.114 B in fixed point."""
    if images.shape[1] == 1:
        return images.expand(-1, 3, -1, -1).contiguous()
    weights = torch.tensor([19595, 38470, 7471], dtype=torch.int32).view(3, 1, 1)
    return (((images * weights).sum(1, keepdim=True, dtype=torch.int32) + 32768) >> 16).to(torch.uint8)
