"""The matrix between two spaces: exact where one was planted, the nearest where there is none, refused where it is not decided."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import ortho_group

from alure_spark.alignment import FITS, fit_alignment
from alure_spark.config.transfer import ALIGNMENT_KINDS
from alure_spark.errors import DataError


def planted(seed, rows=200, numbers=8, noise=0.0, reflected=False):
    """(vectors of one model, of the other, the rotation between them, the shift)."""
    random = np.random.default_rng(seed)
    mine = random.normal(size=(rows, numbers)) * np.linspace(1, 3, numbers) + random.normal(0, 5, numbers)
    rotation, shift = ortho_group.rvs(numbers, random_state=seed), random.normal(0, 4, numbers)
    if (np.linalg.det(rotation) < 0) != reflected:
        rotation[:, 0] *= -1
    theirs = mine @ rotation + shift
    return mine, theirs + noise * random.normal(size=mine.shape), rotation, shift


@pytest.mark.parametrize("reflected", [False, True])
def test_a_planted_rotation_is_recovered_with_its_sign_and_shift(reflected):
    mine, theirs, rotation, shift = planted(1, reflected=reflected)
    fitted = fit_alignment(mine, theirs)
    np.testing.assert_allclose(fitted.matrix, rotation, atol=1e-10)
    np.testing.assert_allclose(fitted.shift, shift, atol=1e-9)
    assert np.sign(np.linalg.det(fitted.matrix)) == (-1 if reflected else 1)
    assert fitted.residual == pytest.approx(0, abs=1e-12)
    assert fitted.rows == 200
    np.testing.assert_allclose(fitted.turned(mine), theirs, rtol=1e-5, atol=1e-5)


def test_flipped_and_exchanged_numbers_are_a_rotation():
    """As when a factorization turns a direction round, or neurons change places."""
    mine = np.random.default_rng(2).normal(size=(50, 5))
    theirs = mine[:, [3, 0, 4, 1, 2]] * [1, -1, 1, -1, 1]
    np.testing.assert_allclose(fit_alignment(mine, theirs).turned(mine), theirs, atol=1e-6)


def test_no_rotation_tried_is_nearer():
    """Against random motions and small turns of the fitted one, on vectors that no rotation relates."""
    random = np.random.default_rng(3)
    mine = random.normal(size=(60, 4))
    theirs = np.maximum(mine @ random.normal(size=(4, 4)), 0)
    fitted = fit_alignment(mine, theirs)
    np.testing.assert_allclose(fitted.matrix @ fitted.matrix.T, np.eye(4), atol=1e-12)

    def missed(rotation, shift):
        return ((mine @ rotation + shift - theirs) ** 2).sum()

    best = missed(fitted.matrix, fitted.shift)
    for seed in range(200):
        other = ortho_group.rvs(4, random_state=seed)
        skew = random.normal(size=(4, 4)) * 0.05
        near = fitted.matrix @ np.linalg.qr(np.eye(4) + skew - skew.T)[0]
        for rotation in (other, near):
            assert best <= missed(rotation, (theirs - mine @ rotation).mean(axis=0)) + 1e-9


def test_the_residual_is_the_share_that_a_rotation_does_not_explain():
    for noise in (0.1, 0.5):
        mine, theirs, _, _ = planted(4, rows=4000, noise=noise)
        spread = np.sqrt(((theirs - theirs.mean(axis=0)) ** 2).sum(axis=1).mean())
        assert fit_alignment(mine, theirs).residual == pytest.approx(noise * np.sqrt(8) / spread, rel=0.03)


def test_unrelated_vectors_have_a_residual_above_1_however_few_they_are():
    """Measured on the rows of the fit, 12 rows of 8 numbers would look related."""
    random = np.random.default_rng(5)
    assert fit_alignment(random.normal(size=(12, 8)), random.normal(size=(12, 8))).residual > 1


def test_a_conf_may_name_every_kind():
    assert tuple(FITS) == ALIGNMENT_KINDS


def test_any_matrix_is_recovered_from_many_rows_and_bends_no_few():
    random = np.random.default_rng(6)
    mine, matrix = random.normal(size=(20_000, 4)), random.normal(size=(4, 4))
    fitted = fit_alignment(mine, mine @ matrix + 2, kind="linear")
    np.testing.assert_allclose(fitted.matrix, matrix, atol=1e-3)
    assert fitted.residual < 1e-3 < 0.1 < fit_alignment(mine, mine @ matrix + 2).residual
    noise = fit_alignment(random.normal(size=(12, 8)), random.normal(size=(12, 8)), kind="linear")
    assert np.square(noise.matrix).sum() < 0.5 * 8, "what cannot be foretold becomes smaller"
    np.testing.assert_array_equal(fit_alignment(np.zeros((9, 3)), np.ones((9, 3)), kind="linear").turned(np.ones((1, 3))), [[2, 2, 2]])


@pytest.mark.parametrize(
    ("mine", "theirs", "said"),
    [
        (np.zeros((7, 8)), np.zeros((7, 8)), "users: 7 are common to both models; to turn 8 numbers takes at least 8"),
        (np.zeros((9, 8)), np.zeros((9, 4)), r"users: vectors \(9, 8\) of one model cannot be turned into the space of \(9, 4\)"),
        (np.zeros((9, 8)), np.zeros((8, 8)), r"users: vectors \(9, 8\) .* of \(8, 8\)"),
        (np.full((9, 8), np.nan), np.zeros((9, 8)), "users: a number of the vectors to be aligned is not finite"),
    ],
)
def test_what_cannot_be_aligned_is_refused(mine, theirs, said):
    with pytest.raises(DataError, match=said):
        fit_alignment(mine, theirs, "users")
