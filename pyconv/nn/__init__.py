"""Layers, containers, losses, initialisers and models: networks that know both directions."""

from pyconv.nn import init, models
from pyconv.nn.activation import (
    GELU,
    Flatten,
    LeakyReLU,
    ReLU,
    ReLU6,
    Scale,
    Sigmoid,
    SiLU,
    Softmax,
    Tanh,
)
from pyconv.nn.containers import Concat, Residual, Sequential
from pyconv.nn.conv import (
    Conv1d,
    Conv2d,
    Conv3d,
    ConvTranspose1d,
    ConvTranspose2d,
    ConvTranspose3d,
    Linear,
)
from pyconv.nn.deconvnet import deconvnet
from pyconv.nn.files import load, save
from pyconv.nn.graph import Add, Cat, Graph, Join
from pyconv.nn.layer import Layer, Parameter, no_grad
from pyconv.nn.losses import auxiliary_loss, mse, softmax_cross_entropy
from pyconv.nn.norm import (
    BatchNorm1d,
    BatchNorm2d,
    BatchNorm3d,
    Dropout,
    LayerNorm,
    LocalResponseNorm,
)
from pyconv.nn.pool import (
    AvgPool1d,
    AvgPool2d,
    AvgPool3d,
    GlobalAvgPool,
    MaxPool1d,
    MaxPool2d,
    MaxPool3d,
    SubSample2d,
    Upsample,
)

__all__ = [
    "GELU",
    "Add",
    "AvgPool1d",
    "AvgPool2d",
    "AvgPool3d",
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "Cat",
    "Concat",
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "ConvTranspose3d",
    "Dropout",
    "Flatten",
    "GlobalAvgPool",
    "Graph",
    "Join",
    "Layer",
    "LayerNorm",
    "LeakyReLU",
    "Linear",
    "LocalResponseNorm",
    "MaxPool1d",
    "MaxPool2d",
    "MaxPool3d",
    "Parameter",
    "ReLU",
    "ReLU6",
    "Residual",
    "Scale",
    "Sequential",
    "SiLU",
    "Sigmoid",
    "Softmax",
    "SubSample2d",
    "Tanh",
    "Upsample",
    "auxiliary_loss",
    "deconvnet",
    "init",
    "load",
    "models",
    "mse",
    "no_grad",
    "save",
    "softmax_cross_entropy",
]
