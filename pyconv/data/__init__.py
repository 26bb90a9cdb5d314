"""Data sets and what is done to images before a network sees them."""

from pyconv.data.augment import (
    AlternatingFlip,
    Augmentation,
    Batch,
    Brightness,
    Chain,
    Contrast,
    Crop,
    Cutout,
    Flip,
    Mixup,
    Shift,
)
from pyconv.data.dataset import Dataset, load
from pyconv.data.download import download
from pyconv.data.folder import read_image
from pyconv.data.idx import read_idx
from pyconv.data.prefetch import prefetch
from pyconv.data.tar import TarImages
from pyconv.data.transform import (
    Standardize,
    StandardizeEach,
    centre,
    channels_last,
    fit_size,
    views,
)

__all__ = [
    "AlternatingFlip",
    "Augmentation",
    "Batch",
    "Brightness",
    "Chain",
    "Contrast",
    "Crop",
    "Cutout",
    "Dataset",
    "Flip",
    "Mixup",
    "Shift",
    "Standardize",
    "StandardizeEach",
    "TarImages",
    "centre",
    "channels_last",
    "download",
    "fit_size",
    "load",
    "prefetch",
    "read_idx",
    "read_image",
    "views",
]
