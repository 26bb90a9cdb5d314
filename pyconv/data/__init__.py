"""Data sets and what is done to images before a network sees them."""

from pyconv.data.dataset import Dataset, load
from pyconv.data.folder import read_image
from pyconv.data.idx import read_idx
from pyconv.data.transform import Shift, Standardize, fit_size

__all__ = ["Dataset", "Shift", "Standardize", "fit_size", "load", "read_idx", "read_image"]
