"""The direction that marked tiles give: its parts against their definitions, and what it finds."""

import numpy as np
import pytest

from macl_tf.search.direction import beside_classifier, classifier, direction, rocchio, unit

RNG = np.random.default_rng(0)


def unit_rows(count, dim, about=0.0):
    rows = RNG.normal(size=(count, dim)) + about
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize(("right", "others", "dim"), [(1, 300, 40), (5, 7, 4), (30, 200, 1400)])
@pytest.mark.parametrize("strength", [0.3, 10.0])
def test_the_classifier_is_where_the_gradient_vanishes(right, others, dim, strength):
    positive, rest = unit_rows(right, dim, 0.3), unit_rows(others, dim)
    found = classifier(positive, rest, strength)
    assert np.linalg.norm(found) == pytest.approx(1)
    # w = t found for some t > 0 and some b: with them, w is the weighted sum of what the rows still get wrong.
    rows, wanted = np.concatenate([positive, rest]), np.repeat([1.0, 0.0], [right, others])
    along, weight = rows @ found, strength * len(rows) / 2 / np.repeat([right, others], [right, others])

    def missed(t):
        low, high = -1e3, 1e3
        for _ in range(60):  # the b at which what is wrong adds up to nothing
            b = (low + high) / 2
            wrong = weight * (wanted - 1 / (1 + np.exp(-np.clip(along * t + b, -500, 500))))
            low, high = (b, high) if wrong.sum() > 0 else (low, b)
        return rows.T @ wrong - t * found

    low, high = 0.0, 1e3
    for _ in range(60):
        t = (low + high) / 2
        low, high = (t, high) if missed(t) @ found > 0 else (low, t)
    assert t > 1e-3
    np.testing.assert_allclose(missed(t), 0, atol=1e-3 * t)


def test_mean_and_difference_and_the_classifier_are_half_each():
    positive, negative, usual = unit_rows(4, 20, 0.3), unit_rows(3, 20), unit_rows(50, 20)
    near = rocchio(positive, negative)
    np.testing.assert_allclose(near, unit(positive.mean(axis=0) - 0.5 * negative.mean(axis=0)))
    others = np.concatenate([negative, usual])
    expected = unit(near + classifier(positive, others))
    np.testing.assert_allclose(direction(positive, negative, usual), expected)
    np.testing.assert_allclose(beside_classifier(near, positive, others), expected)
    np.testing.assert_allclose(direction(positive, negative[:0], usual[:0]), unit(positive.mean(axis=0)))


def test_it_finds_what_differs_in_a_direction_that_all_else_hides():
    """Tiles differ by a little in one direction and by much in others: marks tell which one is meant."""
    rows = RNG.normal(size=(400, 30)) * np.r_[0.6, np.full(29, 1.0)]
    held = np.arange(400) < 40
    rows[held, 0] += 3.0
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    found = direction(rows[:10], rows[100:110], rows[200:])
    left = rows[10:100]
    assert (
        held[10:100][np.argsort(-(left @ found))][:30].mean()
        > held[10:100][np.argsort(-(left @ rows[:10].mean(0)))][:30].mean()
    )


def test_examples_that_are_the_background_too_do_no_harm():
    positive = unit_rows(3, 10, 0.5)
    found = direction(positive, positive[:0], positive)
    np.testing.assert_allclose(found, unit(positive.mean(axis=0)), atol=1e-9)
