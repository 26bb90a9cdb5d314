"""Training: the loop, its callbacks, averages of weights, the history and the checkpoints."""

from pyconv.train.average import Average, Lookahead
from pyconv.train.callbacks import (
    Callback,
    Checkpoint,
    EarlyStopping,
    Log,
    Progress,
    TensorBoard,
)
from pyconv.train.history import History
from pyconv.train.trainer import Trainer
from pyconv.train.watch import watched

__all__ = [
    "Average",
    "Callback",
    "Checkpoint",
    "EarlyStopping",
    "History",
    "Log",
    "Lookahead",
    "Progress",
    "TensorBoard",
    "Trainer",
    "watched",
]
