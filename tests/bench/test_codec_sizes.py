"""The comparison of sizes: the formats lose nothing, and the table shows the newest record."""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image

from bench import codec


def record(size: int) -> dict[str, object]:
    formats = {"PNG": 900, "WebP": 800, "PNG, one sheet": 700, "WebP, one sheet": 600}
    sizes = {"bytes": {"fastgen": size, **formats}, "ideal_bytes": 480.2, "pack_s": 1.0, "unpack_s": 2.0}
    return {"recipe": "pixelcnnpp", "data": "mnist5k", "shape": [1, 28, 28], "images": 10, **sizes}


def test_the_newest_record_is_shown() -> None:
    table = codec.table([record(111), record(500)])
    assert "| 480 | 500 | 900 | 700 | 800 | 600 | 1.0 s, 2.0 s |" in table and "111" not in table


def test_other_formats_are_lossless_and_sheets_hold_every_image() -> None:
    images = torch.randint(0, 256, (6, 3, 4, 5)).to(torch.uint8)
    for options in codec._FORMATS.values():
        found = np.array(Image.open(io.BytesIO(codec._saved(images[0], options))).convert("RGB"))
        assert (found == images[0].permute(1, 2, 0).numpy()).all()
    sheet = codec._sheet(images)
    assert sheet.shape == (3, 12, 10)
    assert torch.equal(sheet[:, 4:8, 5:10], images[3])
