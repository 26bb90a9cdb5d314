"""Training: the loop, its callbacks, the history and the checkpoints."""

from pyconv.train.callbacks import Callback, Checkpoint, Progress
from pyconv.train.history import History
from pyconv.train.trainer import Trainer

__all__ = ["Callback", "Checkpoint", "History", "Progress", "Trainer"]
