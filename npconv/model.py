"""Model: a network, a loss and an optimizer, for images of 0..255: train, predict, save, load."""

from __future__ import annotations

import dataclasses
import math
import os
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from . import checks, networks, optim
from .backends import backend, to_numpy
from .backends.base import Array
from .data.pairs import ArrayPairs, Pairs, StoredPairs
from .losses import L1, MSE, Loss
from .metrics import psnr
from .module import Module, no_grad
from .optim import SGD, Optimizer
from .random import generator_or_default
from .schedules import Schedule
from .training import CollapseWatch, Crew, TrainingCollapsed, share_sizes
from .weights import WeightsFileError, load, load_into, read_training, save

CHECK_EVERY = 200  # steps between looks for a collapse within an epoch
PROBES = 16  # images for these looks
PREDICT_PIXELS = 1 << 18  # pixels that one worker takes through the network at a time


@dataclasses.dataclass(frozen=True)
class Epoch:
    """What one epoch of training gave; the validation figures are None without validation pairs.

    `loss` is the mean training loss; `validation_mse` is on values in [0, 1]; `psnr` the mean of the per-image
    PSNRs, and `psnr_pooled` the PSNR of the pooled MSE, both in dB; `seconds` for the epoch with its validation.
    """

    epoch: int
    loss: float
    validation_mse: float | None
    psnr: float | None
    psnr_pooled: float | None
    seconds: float
    lr: float


class Model:
    """A network with its loss and its optimizer.

    Args:
        network: a Module; None is the reports' network, `networks.strided()`.
        loss: None is MSE().
        optimizer: over the network's parameters; None is SGD(lr=0.5, momentum=0.9) for the reports' network, Adam()
            for any other.

    `history` lists an `Epoch` for each epoch trained. Raises TypeError for anything else, ValueError for an optimizer
    of other parameters than the network's.
    """

    def __init__(
        self, network: Module | None = None, loss: Loss | None = None, optimizer: Optimizer | None = None
    ) -> None:
        expected = (("network", network, Module), ("loss", loss, Loss), ("optimizer", optimizer, Optimizer))
        for name, value, kind in expected:
            if value is not None and not isinstance(value, kind):
                raise TypeError(f"{name} (={value!r}) must be a {kind.__name__}, or None")
        self.network = networks.strided() if network is None else network
        self.loss = MSE() if loss is None else loss
        self.optimizer = self._default_optimizer(network) if optimizer is None else optimizer
        self._check_optimizer()
        self.history: list[Epoch] = []
        self._crew = Crew(self.network, self.loss)

    def _default_optimizer(self, given: Module | None) -> Optimizer | None:
        parameters = list(self.network.parameters())
        if not parameters:
            return None
        return SGD(parameters, lr=0.5, momentum=0.9) if given is None else optim.Adam(parameters)

    def _check_optimizer(self) -> None:
        if self.optimizer is None:
            return
        own = {id(parameter.data) for parameter in self.network.parameters()}
        if any(id(p.data) not in own for group in self.optimizer.groups for p in group["params"]):
            raise ValueError("the optimizer must have the network's parameters only: make it with network.parameters()")

    # ---- training ----
    def train_batch(self, x: Array, t: Array) -> float:
        """One optimisation step on arrays as the network sees them (float, nothing is scaled); returns the loss.

        Zero the gradients, forward, loss, backward, add up the workers' gradients, update.
        """
        if self.optimizer is None:
            raise ValueError("the network has no parameters to train")
        checks.array(x, "x of train_batch")
        checks.array(t, "t of train_batch")
        if len(x) == 0 or len(x) != len(t):
            raise ValueError(f"x of shape {x.shape} and t of shape {t.shape} must have as many images, at least one")
        loss = self._crew.gradients(x, t)
        self.optimizer.step()
        return loss

    def train(
        self,
        train_input: Any,
        train_target: Any = None,
        num_epochs: int = 10,
        *,
        batch_size: int = 32,
        validation: Any = None,
        seed: int | None = None,
        schedule: Schedule | None = None,
        schedule_every: str = "epoch",
        callback: Callable[[Epoch], object] | None = None,
        batch_callback: Callable[[int, int, float], object] | None = None,
    ) -> list[Epoch]:
        """Train the network.

        Args:
            train_input, train_target: images (N, C, H, W) of 0..255, uint8 or float, of the same shape; or one
                `data.Pairs` that draws them (and no train_target).
            num_epochs: how often all pairs are seen.
            batch_size: images per optimisation step.
            validation: None; a share of the pairs in (0, 1), held out at random; or (input, target) images.
            seed: of shuffles and draws; None takes the generator of `npconv.manual_seed`.
            schedule: changes the learning rate after each `schedule_every`: "epoch" or "batch".
            callback: called with each `Epoch`; training ends early if it returns True.
            batch_callback: called after each batch with its number from 1, the number of batches, and its loss.

        Returns the new part of `history`. Raises ValueError or TypeError for wrong arguments, before anything is
        trained, and TrainingCollapsed if the loss is not a number or the network gives one colour for every image.
        """
        pairs = _pairs(train_input, train_target)
        checks.integer(num_epochs, "num_epochs", 1)
        checks.integer(batch_size, "batch_size", 1)
        if schedule_every not in ("epoch", "batch"):
            raise ValueError(f"schedule_every (={schedule_every!r}) must be 'epoch' or 'batch'")
        if schedule is not None and not isinstance(schedule, Schedule):
            raise TypeError(f"schedule (={schedule!r}) must be a Schedule, or None")
        for name, called in (("callback", callback), ("batch_callback", batch_callback)):
            if called is not None and not callable(called):
                raise TypeError(f"{name} (={called!r}) must be a function, or None")
        rng = generator_or_default(None if seed is None else np.random.default_rng(checks.integer(seed, "seed", 0)))
        pairs, held_out = _validation(pairs, validation, rng)
        probe, _ = pairs.take(min(PROBES, len(pairs)), np.random.default_rng(0))
        watch = CollapseWatch(self.network, self.as_network_input(probe))
        self.network.train()
        first = len(self.history)
        for _ in range(num_epochs):
            started, lr = time.perf_counter(), self.optimizer.lr if self.optimizer else 0.0
            per_batch = schedule if schedule_every == "batch" else None
            loss = self._epoch(pairs, batch_size, rng, watch, per_batch, batch_callback)
            epoch = self._validated(len(self.history) + 1, loss, held_out, started, lr)
            self.history.append(epoch)
            if schedule is not None and schedule_every == "epoch":
                schedule.step()
            if callback is not None and callback(epoch) is True:
                break
        return self.history[first:]

    def _epoch(
        self,
        pairs: Pairs,
        batch_size: int,
        rng: np.random.Generator,
        watch: CollapseWatch,
        schedule: Schedule | None,
        batch_callback: Callable[[int, int, float], object] | None,
    ) -> float:
        """All pairs once; the mean loss over images."""
        batches, total, seen, epoch = math.ceil(len(pairs) / batch_size), 0.0, 0, len(self.history) + 1
        for step, (x, target) in enumerate(pairs.batches(batch_size, rng), 1):
            loss = self.train_batch(self.as_network_input(x), self.as_network_input(target))
            total, seen = total + loss * len(x), seen + len(x)
            if not math.isfinite(loss) or step % CHECK_EVERY == 0 or step == batches:
                watch.check(loss, f"in epoch {epoch}, after step {step} of {batches}")
            if schedule is not None:
                schedule.step()
            if batch_callback is not None:
                batch_callback(step, batches, loss)
        return total / seen

    def _validated(self, number: int, loss: float, held_out: Any, started: float, lr: float) -> Epoch:
        mse = mean = pooled = None
        if held_out is not None:
            mse, mean, pooled = self.validate(*held_out)
        return Epoch(number, loss, mse, mean, pooled, time.perf_counter() - started, lr)

    def validate(self, inputs: Any, targets: Any) -> tuple[float, float, float]:
        """MSE on values in [0, 1], mean of the per-image PSNRs, PSNR of the pooled MSE, of predictions for `inputs`."""
        predictions, clean = self.predict(inputs).astype("float64"), np.asarray(targets, "float64")
        mse = float(np.mean(((predictions - clean) / 255) ** 2))
        return mse, psnr(predictions, clean), psnr(predictions, clean, definition="pooled")

    # ---- prediction ----
    def predict(self, test_input: Any) -> Any:
        """The network's output for images (N, C, H, W), or one (C, H, W), of 0..255; values in 0..255.

        Any height and width: images that the network's strides do not divide are mirrored at the right and the
        bottom, and cropped back. float64 stays float64, uint8 and other types give float32. NumPy images give NumPy
        images, those of the active backend stay there.

        Raises TypeError or ValueError for anything that is not such an image, or NaN in it.
        """
        images, on_host = _as_images(test_input)
        batch = images if images.ndim == 4 else images[None]
        x, crop = self._padded(batch)
        outputs = self._forward(x)
        outputs = outputs[:, :, : crop[0], : crop[1]] if crop else outputs
        outputs = backend().xp.clip(outputs * 255, 0, 255)
        outputs = outputs.astype("float64" if images.dtype.name == "float64" else "float32", copy=False)
        outputs = outputs if images.ndim == 4 else outputs[0]
        return to_numpy(outputs) if on_host else outputs

    def _forward(self, x: Array) -> Array:
        """The network, in evaluation mode and without keeping anything, on shares of the batch."""
        per_task = max(1, min(PREDICT_PIXELS // (x.shape[2] * x.shape[3]), math.ceil(len(x) / backend().workers)))
        shares = [slice(i, i + per_task) for i in range(0, len(x), per_task)] or [slice(0, 0)]
        workers = share_sizes(len(shares), backend().workers)
        with no_grad():
            tasks = [self._prediction(x, shares[part]) for part in workers]
            parts = [output for outputs in backend().run(tasks) for output in outputs]
        return parts[0] if len(parts) == 1 else backend().xp.concatenate(parts)

    def _prediction(self, x: Array, shares: list[slice]) -> Callable[[], list[Array]]:
        replica = self.network.replica().eval()
        return lambda: [replica.forward(self.as_network_input(x[share])) for share in shares]

    def _padded(self, x: Array) -> tuple[Array, tuple[int, int] | None]:
        """x, mirrored up to the next size that comes out whole, and the output size to crop back to (or None)."""
        multiples, size = self.network.size_multiple, x.shape[2:]
        more = [-length % multiple for length, multiple in zip(size, multiples, strict=True)]
        if not any(more):
            return x, None
        padded = backend().xp.pad(x, ((0, 0), (0, 0), (0, more[0]), (0, more[1])), mode="symmetric")
        height, width = (int(length * scale) for length, scale in zip(size, self.network.scale, strict=True))
        return padded, (height, width)

    def as_network_input(self, images: Any) -> Array:
        """Images of 0..255 as the network sees them: its dtype, [0, 1], in the backend's memory order."""
        dtype = next((p.dtype for p in self.network.parameters()), np.dtype("float32"))
        return backend().images(backend().asarray(images), dtype) * (1 / 255)

    # ---- files ----
    def save(self, path: str | os.PathLike[str]) -> None:
        """Write network, parameters, gradients, and the kinds of loss and optimizer, to an HDF5 file."""
        training: dict[str, Any] = {"loss": {"type": type(self.loss).__name__, "arguments": self.loss.arguments()}}
        if self.optimizer is not None:
            options = {"type": type(self.optimizer).__name__, "arguments": self.optimizer.arguments()}
            training["optimizer"] = options
        save(self.network, path, training=training)

    @classmethod
    def load(cls, path: str | os.PathLike[str], network: Module | None = None) -> Model:
        """The model that `save` wrote; `network` for one with modules of one's own, which a file cannot rebuild.

        The optimizer starts anew, with the options it had. Raises WeightsFileError if the file is missing, damaged,
        or does not fit.
        """
        if network is None:
            network = load(path)
        else:
            load_into(network, path)
        return cls(network, *_rebuilt(read_training(path), network, path))

    def load_pretrained_model(self, path: str | os.PathLike[str] = "bestmodel.h5") -> None:
        """Read parameters and gradients of `path` into this model's network; it is unchanged if they do not fit."""
        load_into(self.network, path)

    def __repr__(self) -> str:
        network = repr(self.network).replace("\n", "\n  ")
        return f"Model(\n  network={network},\n  loss={self.loss!r},\n  optimizer={self.optimizer!r}\n)"


def _as_images(images: Any) -> tuple[Array, bool]:
    """Images of 0..255 as an array of the active backend, and whether they came from the host."""
    on_host = not backend().owns(images) or backend().name == "numpy"
    try:
        x = backend().asarray(images)
    except ValueError as error:  # lists of unequal lengths
        raise ValueError(f"images must be an array of (N, C, H, W) or (C, H, W) numbers: {error}") from error
    if x.dtype.kind not in "uif":
        raise TypeError(f"images must be numbers (uint8 or float), got {x.dtype}")
    if x.ndim not in (3, 4) or 0 in x.shape[-3:]:
        raise ValueError(f"images of shape {x.shape} must be (N, C, H, W) or (C, H, W), with C, H and W at least 1")
    if x.dtype.kind == "f":
        if not bool(backend().xp.isfinite(x).all()):
            raise ValueError("images must be finite, got NaN or infinity")
        if x.size and 0 < float(x.max()) <= 1:
            warnings.warn(
                f"the largest value of the images is {float(x.max()):.3g}: Model takes values of 0..255", stacklevel=3
            )
    return x, on_host


def _pairs(train_input: Any, train_target: Any) -> Pairs:
    if isinstance(train_input, Pairs):
        if train_target is not None:
            raise ValueError("train_target must be None where train_input is a Pairs, which draws both")
        return train_input
    if train_target is None:
        raise ValueError("train_target must be given where train_input is an array of images")
    for images in (train_input, train_target):
        _as_images(images)
    return ArrayPairs(to_numpy(train_input), to_numpy(train_target))


def _validation(pairs: Pairs, validation: Any, rng: np.random.Generator) -> tuple[Pairs, Any]:
    """The pairs to train on, and the (input, target) images to validate on, or None."""
    if validation is None:
        return pairs, None
    if isinstance(validation, (tuple, list)):
        if len(validation) != 2:
            raise ValueError(f"validation must be a share or (input, target), got {len(validation)} things")
        images = to_numpy(validation[0]), to_numpy(validation[1])
        ArrayPairs(*images)  # raises for what is not a pair of stacks of images
        return pairs, images
    share = checks.number(validation, "validation", above=0)
    if share >= 1:
        raise ValueError(f"validation (={validation!r}) must be less than 1: a share of the pairs")
    if not isinstance(pairs, StoredPairs):
        raise TypeError("validation as a share needs stored pairs; give (input, target) for pairs drawn on demand")
    kept, held_out = pairs.split(share, rng)
    return kept, held_out.take(len(held_out), rng)


def _rebuilt(training: Any, network: Module, path: Any) -> tuple[Loss | None, Optimizer | None]:
    """Loss and optimizer of a file's training attribute; only the kinds known here are made."""
    if training is None:
        return None, None
    losses: dict[str, type[Loss]] = {"MSE": MSE, "L1": L1}
    optimizers: dict[str, type[Optimizer]] = {"SGD": optim.SGD, "Adam": optim.Adam}
    try:
        loss = losses[training["loss"]["type"]](**training["loss"]["arguments"])
        if "optimizer" not in training:
            return loss, None
        kind: Any = optimizers[training["optimizer"]["type"]]
        return loss, kind(network.parameters(), **training["optimizer"]["arguments"])
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsFileError(f"{os.fspath(path)}: loss or optimizer cannot be rebuilt: {error!r}") from error


__all__ = ["Epoch", "Model", "TrainingCollapsed"]
