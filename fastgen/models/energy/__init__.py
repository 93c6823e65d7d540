"""Energy-based models."""

from fastgen.models.energy.energy import EnergyModel, EnergyModelConfig, area_under_roc

__all__ = ["EnergyModel", "EnergyModelConfig", "area_under_roc"]
