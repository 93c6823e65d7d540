"""Pictures and sounds inside a page: data URIs, so that the page needs no other file."""

from __future__ import annotations

import base64
import io
import tempfile
from pathlib import Path

import torch
from torch import Tensor


def data_uri(data: bytes, kind: str) -> str:
    """`data:KIND;base64,...`."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def png_uri(image: Tensor) -> str:
    """A picture, as PNG. Shapes: uint8 [C, H, W], C = 1 or 3."""
    from PIL import Image

    pixels = image.permute(1, 2, 0).contiguous().numpy()
    buffer = io.BytesIO()
    Image.fromarray(pixels[:, :, 0] if image.shape[0] == 1 else pixels).save(buffer, format="PNG", optimize=True)
    return data_uri(buffer.getvalue(), "image/png")


def wav_uri(signal: Tensor, sample_rate: int) -> str:
    """A sound, as WAV. Shapes: float [C, T] in [-1, 1]."""
    from fastgen.data import write_wav

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "sound.wav"
        write_wav(path, torch.as_tensor(signal), sample_rate)
        return data_uri(path.read_bytes(), "audio/wav")
