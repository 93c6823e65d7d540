"""Layers that own parameters: masked, shifted and gated convolutions, weight normalisation."""

from fastgen.nn.attention import CausalAttention, ChannelNorm, causal_attention
from fastgen.nn.causal import CausalConv1d, CausalConv2d, CausalConvTranspose2d
from fastgen.nn.conv1x1 import Conv1x1
from fastgen.nn.dropout import Dropout
from fastgen.nn.equalized import EqualizedConv2d, EqualizedLinear
from fastgen.nn.gated import GatedMaskedConv2d, GatedResnet, concat_elu, tanh_gate
from fastgen.nn.gated_conv import GatedConv2d
from fastgen.nn.grid_sample import grid_sample
from fastgen.nn.heads import CategoricalHead, DMOLHead
from fastgen.nn.masked import MaskedConv2d, VerticalConv2d, channel_groups, raster_mask
from fastgen.nn.minibatch_std import MinibatchStd
from fastgen.nn.modulated import ModulatedConv2d, NoiseInjection, modulated_conv2d, modulation_form
from fastgen.nn.processes import mean_over_processes
from fastgen.nn.quantizer import QuantizerOutput, VectorQuantizer
from fastgen.nn.recurrent import DiagonalBiLSTM, RowLSTM, lattice_lstm
from fastgen.nn.resample import Blur2d, Downsample2d, Upsample2d, resampled_conv2d
from fastgen.nn.shifted import (
    DownRightShiftedConv2d,
    DownRightShiftedConvTranspose2d,
    DownShiftedConv2d,
    DownShiftedConvTranspose2d,
    shift_down,
    shift_right,
)
from fastgen.nn.sync_batch_norm import SyncBatchNorm, synchronize_batch_norm
from fastgen.nn.weight_norm import WeightNormConv2d, initialize_from_data

__all__ = [
    "Blur2d",
    "CategoricalHead",
    "CausalAttention",
    "CausalConv1d",
    "CausalConv2d",
    "CausalConvTranspose2d",
    "ChannelNorm",
    "Conv1x1",
    "DMOLHead",
    "DiagonalBiLSTM",
    "DownRightShiftedConv2d",
    "DownRightShiftedConvTranspose2d",
    "DownShiftedConv2d",
    "DownShiftedConvTranspose2d",
    "Downsample2d",
    "Dropout",
    "EqualizedConv2d",
    "EqualizedLinear",
    "GatedConv2d",
    "GatedMaskedConv2d",
    "GatedResnet",
    "MaskedConv2d",
    "MinibatchStd",
    "ModulatedConv2d",
    "NoiseInjection",
    "QuantizerOutput",
    "RowLSTM",
    "SyncBatchNorm",
    "Upsample2d",
    "VectorQuantizer",
    "VerticalConv2d",
    "WeightNormConv2d",
    "causal_attention",
    "channel_groups",
    "concat_elu",
    "grid_sample",
    "initialize_from_data",
    "lattice_lstm",
    "mean_over_processes",
    "modulated_conv2d",
    "modulation_form",
    "raster_mask",
    "resampled_conv2d",
    "shift_down",
    "shift_right",
    "synchronize_batch_norm",
    "tanh_gate",
]
