"""Augmentations do what they say to each image, let the gradient through, and are applied as often as asked."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fastgen.training.adversarial import AUGMENTATIONS, augment
from fastgen.training.adversarial.augmentation import (
    check_augmentations,
    color,
    controlled_probability,
    cutout,
    translation,
)

ALL = tuple(AUGMENTATIONS)


def images(n: int = 64, channels: int = 3, size: tuple[int, int] = (8, 12)) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand((n, channels, *size), dtype=torch.float64, generator=generator) * 2 - 1


def test_translation_moves_each_image_by_its_own_whole_pixels() -> None:
    torch.manual_seed(0)
    x = images(size=(16, 24))
    moved = translation(x)
    shifts = set()
    for before, after in zip(x, moved, strict=True):
        found = []
        for dy in range(-2, 3):
            for dx in range(-3, 4):
                wanted = torch.zeros_like(before)
                rows, columns = slice(max(0, dy), 16 + min(0, dy)), slice(max(0, dx), 24 + min(0, dx))
                from_rows, from_columns = slice(max(0, -dy), 16 + min(0, -dy)), slice(max(0, -dx), 24 + min(0, -dx))
                wanted[:, rows, columns] = before[:, from_rows, from_columns]
                if torch.equal(wanted, after):
                    found.append((dy, dx))
        assert len(found) == 1
        shifts.add(found[0])
    assert {dy for dy, _ in shifts} == set(range(-2, 3)) and {dx for _, dx in shifts} == set(range(-3, 4))


def test_cutout_clears_one_rectangle_of_half_the_sides() -> None:
    torch.manual_seed(0)
    x = images(n=400) + 3  # nowhere 0
    cleared = cutout(x)
    hole = cleared == 0
    assert torch.equal(cleared[~hole], x[~hole])
    assert torch.equal(hole, hole[:, :1].expand_as(hole))  # all channels
    rows, columns = hole[:, 0].any(2), hole[:, 0].any(1)
    assert torch.equal(hole[:, 0], rows[:, :, None] & columns[:, None, :])  # a rectangle
    assert rows.sum(1).max() == 4 and columns.sum(1).max() == 6
    assert rows.any(0).all() and columns.any(0).all()  # anywhere
    for line in (rows, columns):
        starts = (line & ~torch.cat([torch.zeros_like(line[:, :1]), line[:, :-1]], 1)).sum(1)
        assert (starts <= 1).all()  # in one piece


def test_color_is_affine_in_each_image() -> None:
    """saturation keeps the gray, brightness adds a constant, contrast scales around the mean."""
    torch.manual_seed(0)
    x = images()
    y = color(x)
    gray_x, gray_y = x.mean(1), y.mean(1)
    centred_x, centred_y = (t - t.mean((1, 2), keepdim=True) for t in (gray_x, gray_y))
    contrast = (centred_y / centred_x).flatten(1)
    torch.testing.assert_close(contrast, contrast[:, :1].expand_as(contrast))
    assert 0.5 <= contrast.min() < 0.6 and 1.4 < contrast.max() <= 1.5
    saturation = ((y - gray_y[:, None]) / (x - gray_x[:, None])).flatten(1) / contrast[:, :1]
    torch.testing.assert_close(saturation, saturation[:, :1].expand_as(saturation))
    assert 0 <= saturation.min() < 0.2 and 1.8 < saturation.max() <= 2
    brightness = y.mean((1, 2, 3)) - x.mean((1, 2, 3))
    assert -0.5 <= brightness.min() < -0.4 and 0.4 < brightness.max() <= 0.5


def test_the_gradient_goes_through_all_of_them() -> None:
    x = images(n=2, size=(4, 6)).requires_grad_()

    def through(t: Tensor) -> Tensor:
        torch.manual_seed(1)
        return augment(t, ALL)

    assert torch.autograd.gradcheck(through, (x,))
    assert torch.autograd.gradgradcheck(lambda t: through(t).square(), (x,))


@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
def test_each_is_applied_with_its_probability(p: float) -> None:
    torch.manual_seed(0)
    x = images(n=4000, size=(2, 2))
    changed = (augment(x, ["color"], torch.tensor(p)) != x).flatten(1).any(1).double().mean().item()
    assert changed == pytest.approx(p, abs=4 * (p * (1 - p) / 4000) ** 0.5 + 1e-9)


def test_probability_one_and_a_tensor_of_one_agree() -> None:
    x = images()
    torch.manual_seed(0)
    always = augment(x, ["cutout"], 1.0)
    torch.manual_seed(0)
    assert torch.equal(always, augment(x, ["cutout"], torch.tensor(1.0)))


def test_the_probability_follows_the_overfitting() -> None:
    p = torch.tensor(0.5)
    assert controlled_probability(p, torch.tensor(0.9), 0.6, 0.1).item() == pytest.approx(0.6)
    assert controlled_probability(p, torch.tensor(0.1), 0.6, 0.1).item() == pytest.approx(0.4)
    assert controlled_probability(p, torch.tensor(0.9), 0.6, 0.7).item() == 1
    assert controlled_probability(p, torch.tensor(-0.9), 0.6, 0.7).item() == 0


def test_names_of_augmentations_are_checked() -> None:
    assert check_augmentations("cutout, color") == ("cutout", "color")
    assert check_augmentations([]) == ()
    with pytest.raises(ValueError, match=r"unknown augmentation 'cutot'; did you mean cutout\?"):
        check_augmentations("cutot")
