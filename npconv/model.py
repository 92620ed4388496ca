"""Model: a network, a loss and an optimizer, for images of 0..255: train, predict, save, load."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from . import checks, networks
from .backends import backend, to_numpy
from .backends.base import Array
from .backends.geometry import IntOrPair
from .checkpoints import CheckpointFile, Keeper, Resumed, where_and_when
from .checkpoints.generators import describe
from .checkpoints.loss_and_optimizer import (
    describe_loss_and_optimizer,
    rebuild_loss,
    rebuild_optimizer,
    training_in,
)
from .checkpoints.same_training import describe as describe_fit
from .data.pairs import Pairs
from .epochs import Clock, Course, Epoch
from .exclusive import trains_alone
from .inputs import as_images, as_pairs, held_out_images
from .losses import MSE, Loss
from .module import Module, structure_version
from .noise_map import check_channels, with_noise_level
from .optim import SGD, Adam, Optimizer
from .ownership import is_written_by
from .prediction import Collected, network_input, predict_regions
from .random import generator_or_default
from .schedules import OneCycleLR, Schedule
from .training import CollapseWatch, Crew, TrainingCollapsed
from .validation import Figures, figures
from .weights import load, load_into, save

PROBES = 16  # images by which a collapse is noticed


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
        if network is not None and any("_is_copy" in vars(module) for module in network.modules()):
            raise ValueError("network is a replica, which workers compute with: a Model takes the network itself")
        self.network = networks.strided() if network is None else network
        self.loss = MSE() if loss is None else loss
        self.optimizer = self._default_optimizer(network) if optimizer is None else optimizer
        self._checked: Any = None
        self._check_optimizer()
        self.history: list[Epoch] = []
        self._crew = Crew()

    def _default_optimizer(self, given: Module | None) -> Optimizer | None:
        parameters = list(self.network.parameters())
        if not parameters:
            return None
        return SGD(parameters, lr=0.5, momentum=0.9) if given is None else Adam(parameters)

    def _check_trainable(self) -> None:
        if self.optimizer is None:
            raise ValueError("the network has no parameters to train")

    def _check_optimizer(self) -> None:
        if self.optimizer is None:
            return
        counts = [len(group["params"]) for group in self.optimizer.groups]
        state = (structure_version(), self.network, self.optimizer, counts)
        if state == self._checked:  # once is enough, until something changes
            return
        own = {id(parameter.data) for parameter in self.network.parameters()}
        if any(id(p.data) not in own for group in self.optimizer.groups for p in group["params"]):
            raise ValueError("the optimizer must have the network's parameters only: make it with network.parameters()")
        self._checked = state

    # ---- training ----
    @trains_alone
    def train_batch(self, x: Array, t: Array) -> float:
        """One optimisation step on arrays as the network sees them (float, nothing is scaled); returns the loss.

        Zero the gradients, forward, loss, backward, add up the workers' gradients, update. Raises RuntimeError if
        another thread is training this network.
        """
        self._check_trainable()
        checks.array(x, "x of train_batch")
        checks.array(t, "t of train_batch")
        if len(x) == 0 or len(x) != len(t):
            raise ValueError(f"x of shape {x.shape} and t of shape {t.shape} must have as many images, at least one")
        return float(self._step(x, t))

    def _step(self, x: Array, t: Array) -> Any:
        """As `train_batch`, of arrays that have been checked; the loss may still be on its way from a device."""
        assert self.optimizer is not None  # train_batch and train have asked
        self._check_optimizer()
        return self._crew.step(self.network, self.loss, self.optimizer, x, t)

    @trains_alone
    def train(
        self,
        train_input: Any,
        train_target: Any = None,
        num_epochs: int | None = None,
        *,
        seconds: float | None = None,
        batch_size: int = 32,
        validation: Any = None,
        seed: int | None = None,
        schedule: Schedule | None = None,
        schedule_every: str = "epoch",
        callback: Callable[[Epoch], object] | None = None,
        batch_callback: Callable[[int, int, float], object] | None = None,
        checkpoint: str | os.PathLike[str] | CheckpointFile | None = None,
        checkpoint_every: int | str | None = None,
        resume_from: str | os.PathLike[str] | None = None,
    ) -> list[Epoch]:
        """Train the network.

        Args:
            train_input, train_target: images (N, C, H, W) of 0..255, uint8 or float, of the same shape; or one
                `data.Pairs` that draws them (and no train_target).
            num_epochs: how often all pairs are seen; None is 10, or as often as `seconds` allow.
            seconds: how long to train, in place of num_epochs, with all that belongs to it. An epoch is then a
                twentieth of the time, or so much more that validation and callbacks take no more than a tenth of it.
                If one validation would take more than a twentieth, it is on some of the images, always the same ones,
                drawn at random: 16 or more, unless those would take half of the time. Two such runs are not the same
                bit for bit.
            batch_size: images per optimisation step.
            validation: None; a share of the pairs in (0, 1), held out at random; (input, target) images; or Pairs. Of
                pairs that are not in memory, as many are taken, at random, as 256 MB hold. Each `Epoch` says how many
                images it was validated on.
            seed: of shuffles, draws and dropout; None takes the generator of `npconv.manual_seed`.
            schedule: changes the learning rate after each `schedule_every`: "epoch" or "batch". With `seconds` it
                follows the share of the time that has passed, from its beginning to its `total_steps`.
            callback: called with each `Epoch`; training ends early if it returns True.
            batch_callback: called after each batch with its number from 1, the number of batches (0 with `seconds`,
                when nobody knows it), and its loss; on a GPU the loss that was read last, because reading one waits
                for the device.
            checkpoint: the HDF5 file in which the training is kept, so that it can go on after whatever ends it: at
                its beginning and end, every `checkpoint_every`, and at Ctrl-C or an error, but for one within a step.
                Each takes the place of the last one when it is whole. `Model.load` reads it as a model. Of those every
                `checkpoint_every`, one that cannot be written is told in a warning, and the next is tried; the first
                and the last one must be. None writes none; with resume_from, it is the same file.
            checkpoint_every: a number of epochs, or text: "500 steps", "10m" (a time); None is 1.
            resume_from: a checkpoint to go on from. Model, data and all arguments must be made as they were; then the
                result is that of a training that was never stopped, bit for bit with the same number of threads
                (of one by `seconds`, the time used so far counts). num_epochs or seconds may be more, and the schedule
                then another one of its kind; neither of them, and the length stays. A training that had come to its
                end is not begun again. Callbacks may change arrays, options of the optimizer, and train() or eval() of
                any module. Beside these, and the generators that are attributes of its modules, nothing of a network
                may change from step to step.

        Returns the new part of `history`, with resume_from from the first epoch of that training. Raises ValueError or
        TypeError for wrong arguments, before anything is trained, and TrainingCollapsed if the loss is not a number or
        the network gives one colour for every image; ValueError that lists what differs for a checkpoint of another
        training, WeightsFileError for a file that is none, or cannot be written, and RuntimeError if another thread is
        training this network, or a callback of this training calls it.
        """
        if self._crew.trained_by is threading.current_thread():
            raise RuntimeError("train was called by a callback of this model's own training: there, use train_batch")
        if seconds is not None and num_epochs is not None:
            raise ValueError(f"num_epochs (={num_epochs!r}) and seconds (={seconds!r}) must not be given both")
        file, every = where_and_when(checkpoint, checkpoint_every, resume_from)
        resumed = None if resume_from is None else Resumed(resume_from)
        num_epochs = None if num_epochs is None else checks.integer(num_epochs, "num_epochs", 1)
        seconds = None if seconds is None else checks.number(seconds, "seconds", above=0)
        seed = None if seed is None else checks.integer(seed, "seed", 0)
        batch_size = checks.integer(batch_size, "batch_size", 1)
        if resumed is not None and file is not None:
            num_epochs, seconds = resumed.length_of(num_epochs, seconds)
            file.notes = resumed.notes if file.notes is None else file.notes
        clock = None if seconds is None else Clock(seconds)
        num_epochs = None if clock else num_epochs or 10
        if is_written_by(Model, self, "train_batch"):
            self._check_trainable()
        pairs = as_pairs(train_input, train_target)
        if schedule_every not in ("epoch", "batch"):
            raise ValueError(f"schedule_every (={schedule_every!r}) must be 'epoch' or 'batch'")
        self._check_optimizer()
        by_batch, count = schedule_every == "batch", getattr(schedule, "count", 0)
        steps = None if num_epochs is None else num_epochs * (-(-len(pairs) // batch_size) if by_batch else 1)
        self._check_schedule(schedule, steps, count if resumed is None else resumed.began["count"])
        for name, called in (("callback", callback), ("batch_callback", batch_callback)):
            if called is not None and not callable(called):
                raise TypeError(f"{name} (={called!r}) must be a function, or None")
        rng = generator_or_default(None if seed is None else np.random.default_rng(seed))
        if resumed is not None:
            rng = resumed.first_generator()
        began = {"generator": describe(rng), "count": count} if file is not None else {}
        pairs, held_out = held_out_images(pairs, validation, rng)
        probe = pairs.take(min(PROBES, len(pairs)), np.random.default_rng(0))
        watch = CollapseWatch(self.network, self.as_network_input(probe[0]))
        self._check_shapes(watch.output_shape, pairs)
        if file is not None:
            fit = describe_fit(self, pairs, probe, held_out, schedule, num_epochs=num_epochs, seconds=seconds,
                               batch_size=batch_size, schedule_every=schedule_every, seed=seed)  # fmt: skip
        if resumed is not None:
            resumed.check(fit, self, schedule)
            rng, began = resumed.rng, resumed.began
        self._crew.close()
        self._crew = Crew(rng)
        self.network.train()
        course = Course(
            self,
            pairs,
            batch_size,
            rng,
            held_out,
            watch,
            self._step_taker(),
            schedule,
            by_batch,
            callback,
            batch_callback,
            clock,
            None if file is None else Keeper(file, every, fit, began, self._crew),
        )
        crew = self._crew
        try:
            crew.trained_by = threading.current_thread()
            return self._run(course, num_epochs or 0, resumed)
        finally:
            crew.trained_by = None  # first: an interrupt may come while processes are ended
            crew.close()
            crew.forget_recordings()

    def _run(self, course: Course, num_epochs: int, resumed: Resumed | None) -> list[Epoch]:
        """The new part of the history."""
        if resumed is None:
            course.begin()
        else:
            resumed.restore(course, self._crew)
        keeper = course.keeper
        if resumed is None or resumed.longer or not resumed.finished:
            with contextlib.nullcontext() if keeper is None else keeper.keeping(course):
                course.run(num_epochs)
        elif keeper is not None and not keeper.is_at(resumed.path):
            keeper.write_finished(course)
        return self.history[course.first :]

    def _step_taker(self) -> Callable[[Array, Array], Any]:
        """What takes the steps of a training; its losses may still be on their way from a device."""
        # train_batch waits for the loss, which costs nothing on the CPU. A subclass's, or an object's own, is called
        # anywhere.
        if not backend().shares_batch and is_written_by(Model, self, "train_batch"):
            return self._step
        return lambda x, t: float(self.train_batch(x, t))

    def _check_schedule(self, schedule: Any, steps: int | None, count: int) -> None:
        """`steps`: of this training; None if it lasts for some time. `count`: those of the schedule before it."""
        if schedule is None:
            return
        if not isinstance(schedule, Schedule):
            raise TypeError(f"schedule (={schedule!r}) must be a Schedule, or None")
        if schedule.optimizer is not self.optimizer:
            raise ValueError("schedule must be one of this model's optimizer: make it with model.optimizer")
        if steps is None:
            if schedule.total_steps is None:
                raise ValueError(f"{type(schedule).__name__} must be made with total_steps to follow the time")
        elif isinstance(schedule, OneCycleLR) and count + steps > schedule.total_steps:
            raise ValueError(
                f"total_steps (={schedule.total_steps}) of the OneCycleLR must be at least the {steps} steps of this "
                f"training and the {count} before it"
            )

    def _check_shapes(self, output: tuple[int, ...], pairs: Pairs) -> None:
        """Raise if the loss cannot compare an output of this shape with the pairs' targets."""
        needed = tuple(self.loss.target_shape(output)[1:])
        if needed == tuple(pairs.target_shape):
            return
        multiple, size = self.network.size_multiple, pairs.input_shape[1:]
        rule = ""
        if any(length % part for length, part in zip(size, multiple, strict=True)):
            rule = f": height and width must be multiples of {multiple} for its strides"
        raise ValueError(
            f"the network gives {output[1:]} for inputs of {pairs.input_shape}, which {type(self.loss).__name__} "
            f"compares with targets of {needed}, and the targets are {pairs.target_shape}{rule}"
        )

    def validate(self, inputs: Any, targets: Any) -> Figures:
        """MSE on values in [0, 1], mean of the per-image PSNRs, PSNR of the pooled MSE, of predictions for `inputs`.

        targets: images of 0..255 of the output's shape, or with weights as further channels, as `losses.MaskedMSE`
        takes them: only elements with a weight count.
        """
        return figures(to_numpy(self.predict(inputs)), to_numpy(targets))

    # ---- prediction ----
    def predict(
        self,
        test_input: Any,
        *,
        noise_level: Any = None,
        tile: IntOrPair | None = None,
        max_memory: int | str | None = None,
        progress: Callable[[int, int], object] | None = None,
    ) -> Any:
        """The network's output for images (N, C, H, W), or one (C, H, W), of 0..255; values in 0..255.

        Any height and width: images that the network's strides do not divide are mirrored at the right and the
        bottom, and cropped back. float64 stays float64, uint8 and other types give float32. NumPy images give NumPy
        images, those of the active backend stay there. `npconv.denoise` takes images of 16 bits, gray ones for an RGB
        network, and alpha too, and keeps their dtype.

        Args:
            noise_level: for a network that takes a noise-level map as its last channel (such as `networks.ffdnet`):
                the noise's standard deviation in 8-bit steps, a number, or one for each pixel, (H, W) or
                (N, 1, H, W).
            tile: the side of the tiles that an image is cut into, or a pair (height, width), in pixels; None cuts
                images of more than 1024 x 1024 (on a GPU, 2048 x 2048), or as it must for 1 GB. Tiles overlap by what
                the network sees, so the result is the same but for rounding: up to 1e-5 of the range for the networks
                of `npconv.networks`, more for weights that make much larger numbers of their input. A network with a
                module that may see the whole image is never cut.
            max_memory: what prediction may allocate beyond its input and its output, in bytes or as text ("500M",
                "2G"), all workers together; tiles are made as large as that allows. None is 1 GB where no `tile` is
                given, or more if not even the smallest tile fits into that.
            progress: called with the numbers of tiles (or shares of a batch) that are done, and of all.

        Raises TypeError or ValueError for anything that is not such an image, or NaN in it; for integers beyond 0..255;
        for other channels than the network takes; for a noise level that it does not take, or lacks; for a `tile` where
        the network cannot be cut; and for a `max_memory` that is not enough for the smallest tile, saying how much is.
        Warns where a `max_memory` makes tiles so small that the work is more than 3 times that of the whole image.
        """
        images, on_host = as_images(test_input)
        batch = images if images.ndim == 4 else images[None]
        check_channels(self.network, images.shape, noise_level is not None)
        shape, read = with_noise_level(self.network, batch, noise_level)
        outputs = Collected(len(batch), "float64" if images.dtype.name == "float64" else "float32", on_host)
        predict_regions(
            self.network,
            shape,
            read,
            outputs.write,
            tile=tile,
            max_memory=max_memory,
            progress=progress,
            prepare=self.as_network_input,
        )
        return outputs.array if images.ndim == 4 else outputs.array[0]

    def as_network_input(self, images: Any) -> Array:
        """Images of 0..255 as the network sees them: its dtype, [0, 1], in the backend's memory order."""
        return network_input(self.network, images)

    # ---- files ----
    def save(self, path: str | os.PathLike[str]) -> None:
        """Write network, parameters, gradients, and the kinds of loss and optimizer, to an HDF5 file."""
        save(self.network, path, training=describe_loss_and_optimizer(self.network, self.loss, self.optimizer))

    @classmethod
    def load(cls, path: str | os.PathLike[str], network: Module | None = None, loss: Loss | None = None) -> Model:
        """The model that `save` wrote; `network` and `loss` for those of one's own, which a file cannot rebuild.

        The optimizer starts anew, with the options it had; where it was one of one's own, it is the default. Raises
        WeightsFileError if the file is missing, damaged, or does not fit.
        """
        if network is None:
            network = load(path)
        else:
            load_into(network, path)
        training = training_in(path)
        return cls(network, loss or rebuild_loss(training, path), rebuild_optimizer(training, network, path))

    def load_pretrained_model(self, path: str | os.PathLike[str] = "bestmodel.h5") -> None:
        """Read parameters and gradients of `path` into this model's network; it is unchanged if they do not fit."""
        load_into(self.network, path)

    def __repr__(self) -> str:
        network = repr(self.network).replace("\n", "\n  ")
        return f"Model(\n  network={network},\n  loss={self.loss!r},\n  optimizer={self.optimizer!r}\n)"


__all__ = ["Epoch", "Model", "TrainingCollapsed"]
