"""check_module and check_gradients find what they promise to find: one deliberately broken module per promise."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import npconv as nc


class Scale(nc.Layer):
    """y = weight x: a right module, of which the others are broken versions."""

    def __init__(self) -> None:
        self.weight = nc.Parameter(np.array([0.7], "float32"))

    def _forward(self, x: Any) -> tuple[Any, Any]:
        return x * self.weight.read(x.dtype), x

    def _backward(self, grad: Any, saved: Any) -> Any:
        self.weight.accumulate((grad * saved).sum(keepdims=True).reshape(1))
        return grad * self.weight.read(grad.dtype)


class ChangesInput(Scale):
    def _forward(self, x: Any) -> tuple[Any, Any]:
        x *= 2
        return super()._forward(x)


class ChangesInputInBackward(Scale):
    def _backward(self, grad: Any, saved: Any) -> Any:
        x_grad = super()._backward(grad, saved)
        saved += 1
        return x_grad


class ChangesGradOutput(Scale):
    def _backward(self, grad: Any, saved: Any) -> Any:
        x_grad = super()._backward(grad, saved)
        grad *= 2
        return x_grad


class WrongOutputDtype(Scale):
    def _forward(self, x: Any) -> tuple[Any, Any]:
        return (x * self.weight.read(x.dtype)).astype("float64"), x


class WrongGradientDtype(Scale):
    def _backward(self, grad: Any, saved: Any) -> Any:
        return super()._backward(grad, saved).astype("float64")


class WrongGradientShape(Scale):
    def _backward(self, grad: Any, saved: Any) -> Any:
        return super()._backward(grad, saved)[:1]


class Overwrites(Scale):
    def _backward(self, grad: Any, saved: Any) -> Any:
        self.weight.grad[...] = 0
        return super()._backward(grad, saved)


class KeepsGradients(Scale):
    def zero_grad(self) -> None:
        pass


class NeedsNoForward(Scale):
    def backward(self, grad_output: Any) -> Any:
        return grad_output if self._kept is None else super().backward(grad_output)


class RaisesAnotherError(Scale):
    def backward(self, grad_output: Any) -> Any:
        if self._kept is None:
            raise TypeError("no forward yet")
        return super().backward(grad_output)


class KeepsUnderNoGrad(Scale):
    def forward(self, x: Any) -> Any:
        before = self._kept
        y = super().forward(x)
        if self._kept is None:
            self._kept = before
        return y


class TakesAnyGradOutput(Scale):
    def backward(self, grad_output: Any) -> Any:
        if self._kept is not None and grad_output.shape != self._kept.output_shape:
            return grad_output
        return super().backward(grad_output)


class SharesGradients(Scale):
    def _replica(self, made: dict[int, Any]) -> Any:
        twin = super()._replica(made)
        twin.weight = self.weight
        return twin


class CopiesParameters(Scale):
    def _replica(self, made: dict[int, Any]) -> Any:
        twin = super()._replica(made)
        vars(twin)["weight"] = nc.Parameter(self.weight.data.copy())
        return twin


class ForgetsAnArray(Scale):
    """An array that the output depends on, and that belongs to no state."""

    def __init__(self) -> None:
        super().__init__()
        self.weight.fill(1.0)
        self.calls = np.zeros(1)

    def load_state_dict(self, state: Any, strict: bool = True) -> Any:
        self.calls = self.calls + 1
        return super().load_state_dict(state, strict)

    def _forward(self, x: Any) -> tuple[Any, Any]:
        y, saved = super()._forward(x)
        return y + x.dtype.type(self.calls[0]), saved


class DiffersAfterReplica(Scale):
    """A replica knows that it is one."""

    generation = 0

    def _replica(self, made: dict[int, Any]) -> Any:
        twin = super()._replica(made)
        twin.generation = self.generation + 1
        return twin

    def _forward(self, x: Any) -> tuple[Any, Any]:
        y, saved = super()._forward(x)
        return y + x.dtype.type(self.generation), saved


class WrongInputGradient(Scale):
    def _backward(self, grad: Any, saved: Any) -> Any:
        return super()._backward(grad, saved) * 1.001


class PermutedInputGradient(Scale):
    """Right for an upstream gradient of ones, wrong for any other."""

    def _backward(self, grad: Any, saved: Any) -> Any:
        return super()._backward(grad[..., ::-1], saved[..., ::-1])


class WrongWeightGradient(Scale):
    def _backward(self, grad: Any, saved: Any) -> Any:
        x_grad = super()._backward(grad, saved)
        self.weight.grad *= 1.001
        return x_grad


class NoWeightGradient(Scale):
    def _backward(self, grad: Any, saved: Any) -> Any:
        return grad * self.weight.read(grad.dtype)


CONTRACT = [
    (ChangesInput, "forward and backward must not change the input"),
    (ChangesInputInBackward, "forward and backward must not change the input"),
    (ChangesGradOutput, "backward must not change grad_output"),
    (WrongOutputDtype, "the output must have the input's dtype float32, it has float64"),
    (WrongGradientDtype, r"backward must give the input's dtype .*float32.* it gives float64"),
    (WrongGradientShape, r"backward must give the input's .*shape.*\(2, 3, 4\), it gives .*\(1, 3, 4\)"),
    (Overwrites, "backward must add to the gradients: twice the same backward gives twice the gradient"),
    (KeepsGradients, "zero_grad must set all gradients to zero"),
    (NeedsNoForward, "backward before forward must raise BackwardError"),
    (KeepsUnderNoGrad, "a forward under no_grad must keep nothing: backward after it must raise BackwardError"),
    (TakesAnyGradOutput, "grad_output of a wrong shape must raise ValueError"),
    (SharesGradients, "a replica must have gradients of its own"),
    (CopiesParameters, "a replica must share the parameters"),
    (DiffersAfterReplica, "a replica must give the same output"),
    (ForgetsAnArray, "state_dict must restore the output bit for bit"),
]

GRADIENTS = [
    (WrongInputGradient, "the gradient of the input differs from finite differences by"),
    (PermutedInputGradient, "the gradient of the input differs from finite differences by"),
    (WrongWeightGradient, "the gradient of weight differs from finite differences by"),
    (NoWeightGradient, "the gradient of weight differs from finite differences by"),
]


@pytest.mark.parametrize(("broken", "message"), CONTRACT, ids=lambda value: getattr(value, "__name__", None))
def test_check_module_names_the_broken_promise(broken: type[nc.Module], message: str, rng: np.random.Generator) -> None:
    with pytest.raises(AssertionError, match=f"{broken.__name__}: .*{message}"):
        nc.check_module(broken(), rng.standard_normal((2, 3, 4)))


@pytest.mark.parametrize(("broken", "message"), GRADIENTS, ids=lambda value: getattr(value, "__name__", None))
def test_check_gradients_names_the_wrong_gradient(
    broken: type[nc.Module], message: str, rng: np.random.Generator
) -> None:
    with pytest.raises(AssertionError, match=f"{broken.__name__}: {message}"):
        nc.check_gradients(broken(), rng.standard_normal((2, 3, 4)))


def test_another_error_than_backward_error_is_not_hidden(rng: np.random.Generator) -> None:
    with pytest.raises(TypeError, match="no forward yet"):
        nc.check_module(RaisesAnotherError(), rng.standard_normal((2, 3, 4)))


def test_the_module_that_is_not_broken_passes(rng: np.random.Generator) -> None:
    """What the broken ones are made from is right, so each fails for the one thing that it changes."""
    module, x = Scale(), rng.standard_normal((2, 3, 4))
    assert nc.check_gradients(module, x) < 1e-8
    nc.check_module(module, x)
