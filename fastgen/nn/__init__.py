"""Layers that own parameters: masked, shifted and gated convolutions, weight normalisation."""

from fastgen.nn.attention import CausalAttention, ChannelNorm, causal_attention
from fastgen.nn.causal import CausalConv1d, CausalConv2d, CausalConvTranspose2d
from fastgen.nn.gated import GatedMaskedConv2d, GatedResnet, concat_elu, tanh_gate
from fastgen.nn.gated_conv import GatedConv2d
from fastgen.nn.heads import CategoricalHead, DMOLHead
from fastgen.nn.masked import MaskedConv2d, VerticalConv2d, channel_groups, raster_mask
from fastgen.nn.quantizer import QuantizerOutput, VectorQuantizer
from fastgen.nn.recurrent import DiagonalBiLSTM, RowLSTM, lattice_lstm
from fastgen.nn.shifted import (
    DownRightShiftedConv2d,
    DownRightShiftedConvTranspose2d,
    DownShiftedConv2d,
    DownShiftedConvTranspose2d,
    shift_down,
    shift_right,
)
from fastgen.nn.weight_norm import WeightNormConv2d, initialize_from_data

__all__ = [
    "CategoricalHead",
    "CausalAttention",
    "CausalConv1d",
    "CausalConv2d",
    "CausalConvTranspose2d",
    "ChannelNorm",
    "DMOLHead",
    "DiagonalBiLSTM",
    "DownRightShiftedConv2d",
    "DownRightShiftedConvTranspose2d",
    "DownShiftedConv2d",
    "DownShiftedConvTranspose2d",
    "GatedConv2d",
    "GatedMaskedConv2d",
    "GatedResnet",
    "MaskedConv2d",
    "QuantizerOutput",
    "RowLSTM",
    "VectorQuantizer",
    "VerticalConv2d",
    "WeightNormConv2d",
    "causal_attention",
    "channel_groups",
    "concat_elu",
    "initialize_from_data",
    "lattice_lstm",
    "raster_mask",
    "shift_down",
    "shift_right",
    "tanh_gate",
]
