"""Learning-rate schedules, with PyTorch's formulas and defaults where PyTorch has them."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable

from . import checks
from .optim import Optimizer


class Schedule(ABC):
    """Sets the learning rate of an optimizer: at construction for step 0, then at each call of `step`.

    One step is an epoch or a batch, as the caller likes; see `Model.train`. A training that lasts for some time, and so
    does not know its number of steps, calls `follow` instead. `total_steps` is how many steps a schedule is made for,
    or None if it has no end.
    """

    total_steps: int | None = None

    def __init__(self, optimizer: Optimizer) -> None:
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"optimizer (={optimizer!r}) must be an Optimizer")
        self.optimizer = optimizer
        self.count = 0
        for group in optimizer.groups:
            group.setdefault("initial_lr", group["lr"])
        self._apply()

    @abstractmethod
    def rate(self, initial: float, step: int) -> float:
        """The learning rate after `step` steps, for a group that began with `initial`."""

    def step(self) -> None:
        """One step further."""
        self.count += 1
        self._apply()

    def follow(self, share: float) -> None:
        """As many steps as make up this share of all: 0 is the beginning, 1 the end.

        Raises ValueError for a share outside [0, 1], or a schedule without `total_steps`.
        """
        share = checks.probability(share, "share")
        if self.total_steps is None:
            raise ValueError(f"{type(self).__name__} needs total_steps to follow a share of the training")
        self.count = round(share * self.total_steps)
        self._apply()

    def _apply(self) -> None:
        for group in self.optimizer.groups:
            group["lr"] = self.rate(group["initial_lr"], self.count)

    @property
    def lr(self) -> float:
        """The learning rate in force for the first group."""
        return self.optimizer.lr


class StepLR(Schedule):
    """initial gamma^floor(step / step_size)."""

    def __init__(
        self, optimizer: Optimizer, step_size: int, gamma: float = 0.1, *, total_steps: int | None = None
    ) -> None:
        self.step_size = checks.integer(step_size, "step_size", 1)
        self.gamma = checks.number(gamma, "gamma", 0)
        self.total_steps = _steps_or_none(total_steps)
        super().__init__(optimizer)

    def rate(self, initial: float, step: int) -> float:
        return initial * self.gamma ** (step // self.step_size)


class MultiStepLR(Schedule):
    """initial gamma^k after k of the `milestones`, numbers of steps from 0 on.

    Zhang, Zuo, Chen, Meng and Zhang's PyTorch code of "Beyond a Gaussian denoiser" (2017) trains DnCNN with it.
    """

    def __init__(
        self, optimizer: Optimizer, milestones: Iterable[int], gamma: float = 0.1, *, total_steps: int | None = None
    ) -> None:
        self.milestones = sorted(checks.integer(milestone, "milestones", 0) for milestone in milestones)
        self.gamma = checks.number(gamma, "gamma", 0)
        self.total_steps = _steps_or_none(total_steps)
        super().__init__(optimizer)

    def rate(self, initial: float, step: int) -> float:
        return initial * self.gamma ** sum(step >= milestone for milestone in self.milestones)


class ExponentialLR(Schedule):
    """initial gamma^step: falls by the same factor at every step."""

    def __init__(self, optimizer: Optimizer, gamma: float, *, total_steps: int | None = None) -> None:
        self.gamma = checks.number(gamma, "gamma", 0)
        self.total_steps = _steps_or_none(total_steps)
        super().__init__(optimizer)

    def rate(self, initial: float, step: int) -> float:
        return initial * self.gamma**step


class CosineAnnealingLR(Schedule):
    """eta_min + (initial - eta_min) (1 + cos(pi step / T_max)) / 2: Loshchilov and Hutter (2017), equation 5."""

    def __init__(self, optimizer: Optimizer, T_max: int, eta_min: float = 0.0) -> None:
        self.T_max = self.total_steps = checks.integer(T_max, "T_max", 1)
        self.eta_min = checks.number(eta_min, "eta_min", 0)
        super().__init__(optimizer)

    def rate(self, initial: float, step: int) -> float:
        return self.eta_min + (initial - self.eta_min) * (1 + math.cos(math.pi * step / self.T_max)) / 2


class RampDownLR(Schedule):
    """Constant, then over the last `rampdown` of total_steps smoothly down to zero, as a squared cosine wave.

    initial ((1 + cos(pi t)) / 2)^2, where t goes from 0 to 1 over the ramp. Lehtinen et al., "Noise2Noise" (2018),
    appendix A.1; the exact form is that of their published code. Raises ValueError for a share outside [0, 1].
    """

    def __init__(self, optimizer: Optimizer, total_steps: int, rampdown: float = 0.3) -> None:
        self.total_steps: int = checks.integer(total_steps, "total_steps", 1)
        self.rampdown = checks.probability(rampdown, "rampdown")
        super().__init__(optimizer)

    def rate(self, initial: float, step: int) -> float:
        left = max(0, self.total_steps - step)
        ramp = self.rampdown * self.total_steps
        if left >= ramp:
            return initial
        return initial * ((1 + math.cos(math.pi * (1 - left / ramp))) / 2) ** 2


class TrapezoidLR(Schedule):
    """Up to the initial rate over `warmup` of total_steps, constant, then down to zero over the last `cooldown`.

    Both slopes are straight. The warmup keeps the first large steps from leaving units dead for good; the cooldown
    settles what a large rate keeps moving. Zhai, Kolesnikov, Houlsby and Beyer, "Scaling vision transformers"
    (2022), section 3.5. Raises ValueError if the two shares are not in [0, 1], or are more than 1 together.
    """

    def __init__(self, optimizer: Optimizer, total_steps: int, warmup: float = 0.05, cooldown: float = 0.3) -> None:
        self.total_steps: int = checks.integer(total_steps, "total_steps", 1)
        self.warmup = checks.probability(warmup, "warmup")
        self.cooldown = checks.probability(cooldown, "cooldown")
        if self.warmup + self.cooldown > 1:
            raise ValueError(f"warmup (={warmup}) and cooldown (={cooldown}) must be at most 1 together")
        super().__init__(optimizer)

    def rate(self, initial: float, step: int) -> float:
        rise = (step + 1) / (self.warmup * self.total_steps + 1)  # never 0: a first step that does nothing is lost
        left = max(0, self.total_steps - step)
        fall = left / (self.cooldown * self.total_steps) if self.cooldown else 1.0
        return initial * min(1.0, rise, fall)


class OneCycleLR(Schedule):
    """Up from max_lr / div_factor to max_lr over pct_start of all steps, then down to the first / final_div_factor.

    Smith and Topin, "Super-convergence" (2018), as PyTorch has it. `anneal_strategy`: "cos" or "linear". With
    `cycle_momentum`, momentum (or Adam's first beta) goes the other way, from max_momentum down to base_momentum and
    back. Raises ValueError if `step` is called more often than total_steps allows.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        max_lr: float,
        total_steps: int,
        pct_start: float = 0.3,
        anneal_strategy: str = "cos",
        cycle_momentum: bool = True,
        base_momentum: float = 0.85,
        max_momentum: float = 0.95,
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
    ) -> None:
        self.max_lr = checks.number(max_lr, "max_lr", above=0)
        self.total_steps: int = checks.integer(total_steps, "total_steps", 1)
        self.pct_start = checks.probability(pct_start, "pct_start")
        if anneal_strategy not in ("cos", "linear"):
            raise ValueError(f"anneal_strategy (={anneal_strategy!r}) must be 'cos' or 'linear'")
        self.anneal_strategy = anneal_strategy
        self.first_lr = self.max_lr / checks.number(div_factor, "div_factor", above=0)
        self.last_lr = self.first_lr / checks.number(final_div_factor, "final_div_factor", above=0)
        self.base_momentum = checks.probability(base_momentum, "base_momentum")
        self.max_momentum = checks.probability(max_momentum, "max_momentum")
        self.cycle_momentum = checks.flag(cycle_momentum, "cycle_momentum")
        if self.cycle_momentum and isinstance(optimizer, Optimizer):
            for group in optimizer.groups:
                if "betas" not in group and not group.get("momentum"):
                    raise ValueError("cycle_momentum needs an optimizer with momentum above 0, or Adam")
                name = "betas" if "betas" in group else "momentum"
                group.setdefault(f"initial_{name}", group[name])
        super().__init__(optimizer)

    def rate(self, initial: float, step: int) -> float:
        return self._cycle(step, self.first_lr, self.max_lr, self.last_lr)

    def step(self) -> None:
        if self.count + 1 > self.total_steps:
            raise ValueError(f"step (={self.count + 1}) must be at most total_steps (={self.total_steps})")
        super().step()

    def follow(self, share: float) -> None:
        # As in PyTorch, the last rate is that of the last step; there is none after it.
        super().follow(checks.probability(share, "share") * (self.total_steps - 1) / self.total_steps)

    def _cycle(self, step: int, first: float, middle: float, last: float) -> float:
        """From `first` to `middle` to `last`; the phases meet at a step that need not be whole, as in PyTorch."""
        turn = self.pct_start * self.total_steps - 1
        if step <= turn:
            return self._between(first, middle, step / turn if turn else 1.0)
        rest = self.total_steps - 1 - turn
        return self._between(middle, last, (step - turn) / rest if rest else 1.0)

    def _between(self, start: float, end: float, share: float) -> float:
        if self.anneal_strategy == "linear":
            return (end - start) * share + start
        return end + (start - end) / 2 * (math.cos(math.pi * share) + 1)

    def _apply(self) -> None:
        super()._apply()
        if not self.cycle_momentum:
            return
        momentum = self._cycle(self.count, self.max_momentum, self.base_momentum, self.max_momentum)
        for group in self.optimizer.groups:
            if "betas" in group:
                group["betas"] = (momentum, group["betas"][1])
            else:
                group["momentum"] = momentum


def _steps_or_none(total_steps: int | None) -> int | None:
    return None if total_steps is None else checks.integer(total_steps, "total_steps", 1)
