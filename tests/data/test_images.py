"""Image files: decoding to levels, encoding, grids."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from fastgen.data import image_grid, read_image, write_image
from fastgen.data.images import fit_images


@pytest.mark.parametrize("channels", [1, 3])
def test_write_then_read_is_identity(tmp_path, channels):
    image = torch.randint(0, 256, (channels, 5, 7), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    write_image(tmp_path / "deep" / "image.png", image)
    read = read_image(tmp_path / "deep" / "image.png")
    assert read.dtype == torch.uint8
    assert torch.equal(read, image)


def test_size_scales_the_shorter_side_and_crops_the_centre(tmp_path, pixels):
    picture = Image.fromarray(pixels(0, 20, 40, 3))
    picture.save(tmp_path / "wide.png")
    scaled = np.asarray(picture.resize((20, 10), Image.Resampling.BICUBIC))
    wanted = torch.from_numpy(scaled[:, 5:15].transpose(2, 0, 1).copy())
    assert torch.equal(read_image(tmp_path / "wide.png", 10), wanted)


def test_crop_without_scaling_keeps_pixels(tmp_path, pixels):
    values = pixels(1, 9, 6, 1)
    Image.fromarray(values).save(tmp_path / "tall.png")
    assert torch.equal(read_image(tmp_path / "tall.png", 6)[0], torch.from_numpy(values[1:7]))
    assert torch.equal(read_image(tmp_path / "tall.png", (9, 4))[0], torch.from_numpy(values[:, 1:5]))


@pytest.mark.parametrize("size", [(3, 11), (11, 3), (25, 25), (1, 1)])
def test_any_size_is_covered(tmp_path, pixels, size):
    Image.fromarray(np.full((10, 13), 77, np.uint8)).save(tmp_path / "flat.png")
    read = read_image(tmp_path / "flat.png", size)
    assert read.shape == (1, *size)
    assert (read == 77).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path, orientation):
    upright = np.array([[0, 80, 160], [40, 120, 200]], np.uint8)
    stored = {  # the stored pixels that a viewer turns into `upright`
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: np.rot90(upright),
        7: upright[::-1, ::-1].T,
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "turned.png", exif=exif)
    assert read_image(tmp_path / "turned.png")[0].tolist() == upright.tolist()


def test_16_bit_gray_is_scaled_and_not_clipped(tmp_path):
    values = np.array([[0, 128, 129, 256, 257, 32768, 65535]], np.uint16)
    Image.fromarray(values).save(tmp_path / "deep.png")
    assert read_image(tmp_path / "deep.png").tolist() == [[[0, 0, 1, 1, 1, 128, 255]]]


def test_transparency_shows_white(tmp_path):
    rgba = np.array([[[10, 20, 30, 255], [10, 20, 30, 0]]], np.uint8)
    Image.fromarray(rgba).save(tmp_path / "rgba.png")
    assert read_image(tmp_path / "rgba.png")[:, 0].T.tolist() == [[10, 20, 30], [255, 255, 255]]
    gray = np.array([[[10, 255], [10, 0]]], np.uint8)
    Image.fromarray(gray, mode=None).save(tmp_path / "la.png")
    assert read_image(tmp_path / "la.png").tolist() == [[[10, 255]]]


def test_palettes(tmp_path):
    palette = Image.fromarray(np.array([[0, 1, 2]], np.uint8)).convert("L")
    palette = Image.frombytes("P", palette.size, palette.tobytes())
    palette.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    palette.save(tmp_path / "plain.png")
    assert read_image(tmp_path / "plain.png")[:, 0].T.tolist() == [[255, 0, 0], [0, 255, 0], [0, 0, 255]]
    palette.save(tmp_path / "clear.png", transparency=1)
    assert read_image(tmp_path / "clear.png")[:, 0].T.tolist() == [[255, 0, 0], [255, 255, 255], [0, 0, 255]]
    palette.save(tmp_path / "partly.png", transparency=bytes([255, 0, 128]))  # alpha of each entry
    assert read_image(tmp_path / "partly.png")[:, 0].T.tolist() == [
        [255, 0, 0],
        [255, 255, 255],
        [127, 127, 255],
    ]


def test_one_bit_and_cmyk(tmp_path):
    Image.fromarray(np.array([[True, False]])).save(tmp_path / "bits.png")
    assert read_image(tmp_path / "bits.png").tolist() == [[[255, 0]]]
    Image.new("CMYK", (8, 8), (0, 0, 0, 255)).save(tmp_path / "ink.jpg")
    ink = read_image(tmp_path / "ink.jpg")
    assert ink.shape == (3, 8, 8)
    assert ink.max() < 8


def test_channels_convert_as_pil_does(tmp_path, pixels):
    picture = Image.fromarray(pixels(2, 40, 50, 3))
    picture.save(tmp_path / "colour.png")
    luma = torch.from_numpy(np.array(picture.convert("L")))
    assert torch.equal(read_image(tmp_path / "colour.png", channels=1)[0], luma)
    colour = read_image(tmp_path / "colour.png")[None]
    assert torch.equal(fit_images(colour, None, 1)[0, 0], luma)
    assert torch.equal(fit_images(luma[None, None], None, 3)[0], luma.expand(3, -1, -1))


def test_fit_images_equals_reading_the_files(tmp_path, pixels):
    for channels in (1, 3):
        arrays = [pixels(seed, 9, 12, channels) for seed in range(3)]
        images = torch.from_numpy(np.stack(arrays).reshape(3, 9, 12, channels)).permute(0, 3, 1, 2)
        fitted = fit_images(images, (5, 5), None)
        for array, image in zip(arrays, fitted):
            Image.fromarray(array).save(tmp_path / "one.png")
            assert torch.equal(read_image(tmp_path / "one.png", 5), image)


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "bmp", "webp"])
def test_truncated_files_are_named(tmp_path, pixels, suffix):
    path = tmp_path / f"cut.{suffix}"
    Image.fromarray(pixels(3, 64, 64, 3)).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match=rf"read_image: .*cut\.{suffix}.* must be an image that PIL can decode; got"):
        read_image(path)


@pytest.mark.parametrize("content", [b"", b"not an image", b"\x89PNG\r\n\x1a\n" + bytes(40)])
def test_foreign_files_are_named(tmp_path, content):
    (tmp_path / "fake.png").write_bytes(content)
    with pytest.raises(ValueError, match=r"fake\.png.*replace or remove"):
        read_image(tmp_path / "fake.png")


def test_float_pixels_are_refused(tmp_path):
    Image.fromarray(np.zeros((2, 2), np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(ValueError, match=r"float\.tif.*no defined levels"):
        read_image(tmp_path / "float.tif")


def test_missing_file():
    with pytest.raises(FileNotFoundError, match=r"no image at 'nowhere\.png'"):
        read_image("nowhere.png")


@pytest.mark.parametrize("size", [0, -3, (4,), (4, 0), (1, 2, 3), 2.5, "32"])
def test_bad_sizes(tmp_path, size):
    with pytest.raises((ValueError, TypeError), match="size must be a positive int or"):
        read_image(tmp_path / "unread.png", size)


@pytest.mark.parametrize("channels", [0, 2, 4, "3"])
def test_bad_channels(tmp_path, channels):
    with pytest.raises(ValueError, match="channels must be 1"):
        read_image(tmp_path / "unread.png", channels=channels)


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "image.png"
    write_image(path, torch.full((1, 2, 2), 9, dtype=torch.uint8))

    def fail(self, target, **options):
        target.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        write_image(path, torch.zeros((1, 2, 2), dtype=torch.uint8))
    assert (read_image(path) == 9).all()
    assert [file.name for file in tmp_path.iterdir()] == ["image.png"]


def test_write_refuses_what_it_cannot_write(tmp_path):
    with pytest.raises(TypeError, match=r"uint8 levels \[C, H, W\]; got dtype torch.float32.*signal_to_levels"):
        write_image(tmp_path / "a.png", torch.zeros(3, 2, 2))
    with pytest.raises(TypeError, match="got ndarray"):
        write_image(tmp_path / "a.png", np.zeros((3, 2, 2), np.uint8))
    with pytest.raises(ValueError, match=r"C = 1 or 3; got \[2, 4, 4\]"):
        write_image(tmp_path / "a.png", torch.zeros(2, 4, 4, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"writes PNG only; got .*a\.jpg"):
        write_image(tmp_path / "a.jpg", torch.zeros(3, 4, 4, dtype=torch.uint8))
    assert not list(tmp_path.iterdir())


def test_grid_places_every_image():
    images = torch.arange(5, dtype=torch.uint8).view(5, 1, 1, 1).expand(5, 3, 2, 4).contiguous()
    grid = image_grid(images, columns=3, padding=1, scale=2)
    assert grid.shape == (3, 2 * (4 + 1) + 1, 3 * (8 + 1) + 1)
    wanted = torch.full((11, 28), 255, dtype=torch.uint8)
    for i in range(5):
        row, column = divmod(i, 3)
        wanted[1 + 5 * row : 5 + 5 * row, 1 + 9 * column : 9 + 9 * column] = i
    assert torch.equal(grid, wanted.expand(3, -1, -1))


def test_grid_keeps_pixels_in_place():
    images = torch.randint(0, 256, (4, 1, 3, 2), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    rows = [torch.cat([images[2 * r, 0], images[2 * r + 1, 0]], 1) for r in range(2)]
    assert torch.equal(image_grid(images, padding=0)[0], torch.cat(rows))


@pytest.mark.parametrize("n, columns", [(1, 1), (2, 2), (4, 2), (5, 3), (9, 3), (10, 4)])
def test_grid_is_square_by_default(n, columns):
    grid = image_grid(torch.zeros(n, 1, 2, 2, dtype=torch.uint8), padding=0)
    assert grid.shape == (1, 2 * -(-n // columns), 2 * columns)


def test_grid_refuses():
    images = torch.zeros(2, 1, 2, 2, dtype=torch.uint8)
    with pytest.raises(ValueError, match="at least one image"):
        image_grid(images[:0])
    with pytest.raises(ValueError, match="columns=0"):
        image_grid(images, columns=0)
    with pytest.raises(TypeError, match="uint8"):
        image_grid(images.float())
    with pytest.raises(ValueError, match=r"\[N, C, H, W\]"):
        image_grid(images[0])
