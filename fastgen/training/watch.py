"""Losses and gradients that stop being finite."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor


class FiniteWatch:
    """Remembers the first step whose loss or gradient was not finite, without waiting for the device."""

    def __init__(self, device: torch.device, checkpoint: Path, batch_names: Callable[[int], str]) -> None:
        self.first = torch.full((4,), -1.0, dtype=torch.float64, device=device)  # step, rate, loss, norm
        self.checkpoint, self.batch_names = checkpoint, batch_names
        self.at_once = device.type == "cpu"  # elsewhere looking would make every step wait for the device

    def see(self, step: int, rate: float, loss: Tensor, norm: Tensor) -> None:
        """Note one step; on a CPU raise at once if it is not finite."""
        facts = [torch.full_like(loss, value, dtype=torch.float64) for value in (step, rate)]
        now = torch.stack([*facts, loss.double(), norm.double()])
        self.first = torch.where((self.first[0] < 0) & ~torch.isfinite(loss + norm), now, self.first)
        if self.at_once:
            self.check()

    def check(self) -> None:
        """Raise if a step so far was not finite.

        Raises:
            FloatingPointError: with the step, its batch, and the checkpoint that is left.
        """
        step, rate, loss, norm = self.first.tolist()
        if step >= 0:
            kept = f"{self.checkpoint} is whole; " if self.checkpoint.exists() else ""
            raise FloatingPointError(
                f"train: loss and gradient must be finite; got loss {loss} and gradient norm {norm} at step "
                f"{int(step)}, whose batch was {self.batch_names(int(step))}; {kept}lower lr (it was {rate:.3g}) "
                "or set clip_norm"
            )
