"""All circuits of a grid of the stomatogastric ganglion's two conductances."""

import jax
import numpy as np
from grid_oracle import midpoints

from models.stg import MEAN, STD
from models.stg_circuit import frequency, simulate


@jax.jit
def _frequencies(g):
    return jax.lax.map(lambda g: frequency(simulate(g)), g, batch_size=2000)


def frequencies_on_grid(box, size):
    """Circuits at the midpoints of a grid, and the frequency of every neuron in Hz."""
    grid = midpoints(box, size)
    return grid, np.asarray(_frequencies(grid.astype(np.float32)), float)


def standardized(frequencies):
    """Statistics whose mean is to be zero, in standard deviations of the target."""
    deviations = (frequencies - MEAN) / STD
    return np.concatenate([deviations, deviations**2 - 1], axis=1)
