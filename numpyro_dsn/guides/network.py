"""Networks of flows: their parameters, their inputs and what they compute."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
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
    *hidden, last = layers
    for layer in hidden:
        value, gate = jnp.split(_linear(layer, x), 2, axis=-1)
        x = value * jax.nn.sigmoid(gate)
    return _linear(last, x)


def _linear(layer: tuple[Array, Array], x: Array) -> Array:
    weight, bias = layer
    return jnp.matmul(x, weight) + jnp.expand_dims(bias, tuple(range(x.ndim - 1)))


def fourier_features(x: Array, first: float, num_octaves: int) -> Array:
    r"""Return sines and cosines of each input, each octave of twice the frequency of the last.

    .. math:: (\sin 2^k \omega x, \cos 2^k \omega x), \qquad k = 0, \dots, K - 1

    A network of x alone learns what changes fast in x late, or never.

    Parameters
    ----------
    x
        Inputs, shape ``(..., num_in)``.
    first
        Angular frequency :math:`\omega` of the first octave.
    num_octaves
        K.

    Returns
    -------
    Features, shape ``(..., 2 * K * num_in)``.

    References
    ----------
    Tancik et al. (2020), *Fourier features let networks learn high frequency functions in low
    dimensional domains*, section 2.
    """
    phases = [2.0**k * first * x for k in range(num_octaves)]
    return jnp.concatenate([x[..., :0], *map(jnp.sin, phases), *map(jnp.cos, phases)], axis=-1)
