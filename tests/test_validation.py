"""The figures of a validation, with and without weights, against loops."""

from __future__ import annotations

import math

import numpy as np
import pytest

from npconv.validation import figures


def by_hand(predictions: np.ndarray, values: np.ndarray, weights: np.ndarray) -> tuple[float, float, float]:
    """Element by element."""
    decibels, total, weight = [], 0.0, 0.0
    for image in range(len(predictions)):
        squares, counted = 0.0, 0.0
        for place in np.ndindex(predictions.shape[1:]):
            at = (image, *place)
            error = (float(predictions[at]) - float(values[at])) / 255
            squares, counted = squares + weights[at] * error**2, counted + weights[at]
        if counted:
            decibels.append(-10 * math.log10(squares / counted))
        total, weight = total + squares, weight + counted
    return total / weight, sum(decibels) / len(decibels), -10 * math.log10(total / weight + 1e-8)


@pytest.fixture
def images(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    predictions, values = rng.uniform(0, 255, (2, 3, 2, 5, 4)).astype("float32")
    return predictions, values


def test_every_element_counts_without_weights(images) -> None:
    assert figures(*images) == pytest.approx(by_hand(*images, np.ones(images[0].shape)), rel=1e-6)


def test_weighted_elements_count_by_their_weight(images, rng) -> None:
    predictions, values = images
    weights = rng.choice([0.0, 51.0, 255.0], values.shape)
    weights[1] = 0  # an image that does not count
    weights[2, :, 1:] = 0  # one of few elements
    targets = np.concatenate([values, weights], axis=1)
    assert figures(predictions, targets) == pytest.approx(by_hand(predictions, values, weights / 255), rel=1e-6)


def test_what_has_no_weight_changes_nothing(images) -> None:
    predictions, values = images
    weights = np.zeros(values.shape)
    weights[:, :, 2] = 255
    before = figures(predictions, np.concatenate([values, weights], axis=1))
    predictions[:, :, 3:] += 40
    assert figures(predictions, np.concatenate([values, weights], axis=1)) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p, t: (p, t[:, :1]), "must be equal"),
        (lambda p, t: (p, np.concatenate([t, t * 0], axis=1)), "some of the weights above 0"),
        (lambda p, t: (p * np.nan, np.concatenate([t, t], axis=1)), "must be finite"),
        (lambda p, t: (p * np.nan, t), "not finite"),
        (lambda p, t: (p, t[:2]), "must be equal"),
        (lambda p, t: (p, np.concatenate([t, t], axis=1)[:2]), "must be equal but for channels"),
        (lambda p, t: (p, np.concatenate([t, t], axis=1)[:, :, :1]), "must be equal but for channels"),
        (lambda p, t: (p[0], np.concatenate([t[0], t[0]], axis=1)), "must be equal"),
    ],
)
def test_what_cannot_be_compared(images, change, message) -> None:
    with pytest.raises(ValueError, match=message):
        figures(*change(*images))
