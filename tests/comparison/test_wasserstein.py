"""The sliced Wasserstein distance and its permutation test."""

import numpy as np

from numpyro_dsn.comparison import sliced_wasserstein

NUM_DRAWS = 1000


def normals(seed, shift=0.0, dim=3):
    return np.random.default_rng(seed).standard_normal((NUM_DRAWS, dim)) + shift


def test_distance_of_a_shift_in_one_dimension_is_the_shift():
    draws = normals(0, dim=1)
    found = sliced_wasserstein(draws, draws + 0.7, (NUM_DRAWS, NUM_DRAWS))
    assert abs(found.value - 0.7) < 1e-12
    assert found.p_value == 1 / 201


def test_distance_of_a_shift_is_its_mean_projection():
    """A shift s along an axis of R^3 is seen as |u_1| s, and E|u_1| = 1/2 on the sphere."""
    draws = normals(0)
    num_directions = 4000
    shifted = draws + np.array([[0.8, 0.0, 0.0]])
    found = sliced_wasserstein(
        draws, shifted, (NUM_DRAWS, NUM_DRAWS), num_directions, num_permutations=1
    )
    # |u_1| is uniform on [0, 1] in three dimensions.
    assert abs(found.value - 0.4) < 4 * 0.8 / np.sqrt(12 * num_directions)


def test_draws_of_one_distribution_are_within_chance():
    rejected = [
        sliced_wasserstein(
            normals(seed), normals(seed + 100), (NUM_DRAWS, NUM_DRAWS), num_permutations=99
        ).p_value
        <= 0.05
        for seed in range(20)
    ]
    # 5 or more of 20 at a level of 5 % has a probability of 0.3 %.
    assert sum(rejected) < 5


def test_dependent_draws_are_judged_by_their_effective_number():
    """Ten draws, each repeated a hundred times, differ by chance; as a thousand they would not."""
    first, second = (np.repeat(normals(seed)[:10], 100, axis=0) for seed in (0, 1))
    assert sliced_wasserstein(first, second, (10, 10)).p_value > 0.05
    assert sliced_wasserstein(first, second, (1000, 1000)).p_value < 0.01
