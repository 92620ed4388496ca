"""Checkpoints: what a training leaves on disk while it runs, and how it goes on from there, with the same bits.

    Model.train(checkpoint=...)    step -> mark -> step -> mark -> write -> ... -> the file
    Model.train(resume_from=...)   the file -> does it fit this training? -> restore -> step -> ...

arguments.py            where checkpoints go, and how often
writing.py              the marks between the steps, and when a checkpoint is written
file.py                 the file: a model's, and beside it what the training needs
resuming.py             all of a file read, compared and put in place
same_training.py        what must be the same where a training goes on
generators.py           random generators as plain data
loss_and_optimizer.py   loss and optimizer as plain data, in a model's file too
"""

from __future__ import annotations

from .arguments import CheckpointFile, Every, where_and_when
from .resuming import Resumed
from .writing import Keeper

__all__ = ["CheckpointFile", "Every", "Keeper", "Resumed", "where_and_when"]
