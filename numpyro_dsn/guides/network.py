"""Networks of flows: their parameters, their inputs and what they compute."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
from jax import Array


def network_params(
    name: str, num_networks: int, widths: tuple[int, ...]
) -> list[tuple[Array, Array]]:
    """Return weights and biases of several networks as param sites; their output starts at zero.

    A hidden layer has two outputs for each unit: its value and its gate.
    """
    last = len(widths) - 2
    layers = []
    for index, (num_in, width) in enumerate(zip(widths[:-1], widths[1:], strict=True)):
        num_out = width if index == last else 2 * width
        he_normal = jax.nn.initializers.he_normal(batch_axis=0)
        initial = jax.nn.initializers.zeros if index == last else he_normal

        def weight(
            key: Array,
            initial: Callable = initial,
            shape: tuple = (num_networks, num_in, num_out),
        ) -> Array:
            return initial(key, shape, jnp.zeros(()).dtype)

        bias = jnp.zeros((num_networks, num_out))
        layers.append(
            (
                numpyro.param(f"{name}_weight{index}", weight),
                numpyro.param(f"{name}_bias{index}", bias),
            )
        )
    return layers


def network(layers: Sequence[tuple[Array, Array]], x: Array) -> Array:
    r"""Apply a network of gated linear units with a linear last layer.

    .. math:: h = (V x + c) \odot \frac{1}{1 + \exp(-(W x + b))}

    Products of inputs, as in a curved sheet, then need one layer and no approximation by kinks;
    and units are smooth, so that the log density of a flow has second derivatives.

    Parameters
    ----------
    layers
        Weights and biases, of shapes ``(num_in, num_out)`` and ``(num_out,)``.
    x
        Inputs, shape ``(..., num_in)``.

    Returns
    -------
    Outputs, shape ``(..., num_out)``.

    References
    ----------
    Dauphin et al. (2017), *Language modeling with gated convolutional networks*, eq. 1.
    """
    *hidden, (weight, bias) = layers
    for hidden_weight, hidden_bias in hidden:
        value, gate = jnp.split(jnp.matmul(x, hidden_weight) + hidden_bias, 2, axis=-1)
        x = value * jax.nn.sigmoid(gate)
    return jnp.matmul(x, weight) + bias


def waves(x: Array, num_frequencies: int) -> Array:
    r"""Append sines and cosines of each input, with periods of 16, 8, 4, ... standard deviations.

    .. math:: (x, \sin(2^k \pi x / 8), \cos(2^k \pi x / 8)), \qquad k = 0, \dots, K - 1

    A network of x alone learns what changes fast in x late, or never.

    Parameters
    ----------
    x
        Inputs, shape ``(..., num_in)``.
    num_frequencies
        K.

    Returns
    -------
    Features, shape ``(..., (2 * K + 1) * num_in)``.

    References
    ----------
    Tancik et al. (2020), *Fourier features let networks learn high frequency functions in low
    dimensional domains*, section 2.
    """
    phases = [2.0**k * np.pi / 8 * x for k in range(num_frequencies)]
    return jnp.concatenate([x, *map(jnp.sin, phases), *map(jnp.cos, phases)], axis=-1)


def plane_waves(x: Array, num_waves: int) -> Array:
    r"""Append sines and cosines of waves in all directions, for places in few dimensions.

    .. math:: (x, \sin k_j^\top x, \cos k_j^\top x), \qquad |k_j| = 1, \dots, 32

    Lengths are evenly spaced in their logarithm; directions are random, the same in every run.
    What is thin and oblique needs fewer of these than of :func:`waves`.

    Parameters
    ----------
    x
        Places, shape ``(..., D)``, in standard deviations of the prior.
    num_waves
        Number of waves.

    Returns
    -------
    Features, shape ``(..., D + 2 * num_waves)``.

    References
    ----------
    Tancik et al. (2020), *Fourier features let networks learn high frequency functions in low
    dimensional domains*, section 5.
    """
    vectors = np.random.default_rng(0).normal(size=(x.shape[-1], num_waves))
    vectors *= np.geomspace(1.0, 32.0, num_waves) / np.linalg.norm(vectors, axis=0)
    phase = jnp.matmul(x, jnp.asarray(vectors, x.dtype))
    return jnp.concatenate([x, jnp.sin(phase), jnp.cos(phase)], axis=-1)
