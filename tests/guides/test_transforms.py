"""Layers of flows: each is a bijection with an exact density."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from numpyro_dsn.guides.couplings import order
from numpyro_dsn.guides.network import fourier_features
from numpyro_dsn.guides.tailed_spline import TailedSpline
from numpyro_dsn.guides.transforms import AffineCouplings, ElementwiseAffine

pytestmark = pytest.mark.usefixtures("quick_compilation")


def random_networks(rng, number, num_in, num_out, weight):
    # A hidden layer has a value and a gate for each of its seven units.
    sizes = (num_in, 14), (7, 14), (7, num_out)
    return [
        (
            jnp.asarray(rng.normal(0, weight / np.sqrt(num_in), (number, num_in, num_out))),
            jnp.asarray(rng.normal(0, weight, (number, num_out))),
        )
        for num_in, num_out in sizes
    ]


def coupling(rng, dim, number=1, weight=1.0, num_octaves=0):
    size = (dim + 1) // 2
    orders = tuple(order(index, dim, size) for index in range(number))
    sizes = (1 + 2 * num_octaves) * (dim - size), 2 * size
    return AffineCouplings(orders, size, random_networks(rng, number, *sizes, weight))


def spline(rng, dim, num_bins=8, weight=1.0):
    heights, slopes = (
        rng.normal(0, weight, (dim, num_bins)),
        rng.normal(0, weight, (dim, num_bins + 1)),
    )
    return TailedSpline(jnp.asarray(heights), jnp.asarray(slopes))


def affine(rng, dim):
    return ElementwiseAffine(
        jnp.asarray(rng.normal(size=dim)), jnp.asarray(rng.lognormal(size=dim))
    )


LAYERS = {
    "coupling-2": (coupling, 2),
    "coupling-5": (coupling, 5),
    "coupling with sines-2": (partial(coupling, num_octaves=3), 2),
    "coupling with sines-5": (partial(coupling, num_octaves=3), 5),
    "couplings-5": (partial(coupling, number=3), 5),
    "spline-1": (spline, 1),
    "spline-2": (spline, 2),
    "spline-5": (spline, 5),
    "affine-1": (affine, 1),
    "affine-2": (affine, 2),
    "affine-5": (affine, 5),
}

WIDEST = [name for name in LAYERS if name.endswith("5")]
SINGLE = [name for name in LAYERS if "couplings" not in name]
"""Rounding adds up over several."""


def epsilon():
    return float(jnp.finfo(jnp.zeros(()).dtype).eps)


@jax.jit
@jax.vmap
def apply(layer, x):
    """Everything a layer can do at each x, and the Jacobian by automatic differentiation."""
    y, log_det = layer.call_with_intermediates(x)
    return {
        "y": y,
        "call": layer(x),
        "inverse": layer.inv(y),
        "log_det": log_det,
        "log_det again": layer.log_abs_det_jacobian(x, y),
        "log_det given": layer.log_abs_det_jacobian(x, y, log_det),
        "jacobian": jax.jacobian(layer)(x),
    }


@jax.jit
def forward_and_back(layer, x):
    y, log_det = layer.call_with_intermediates(x)
    return y, log_det, layer.inv(y)


def check_law(layer, x, tolerance):
    layers = jax.tree.map(lambda leaf: jnp.stack([leaf] * len(x)), layer)
    result = apply(layers, x)
    sign, exact = np.linalg.slogdet(result["jacobian"])
    assert_array_equal(np.abs(sign), 1)
    assert_allclose(result["log_det"], exact, rtol=tolerance, atol=tolerance)
    assert_allclose(result["log_det again"], exact, rtol=tolerance, atol=tolerance)
    assert_array_equal(result["log_det given"], result["log_det"])
    assert_array_equal(result["call"], result["y"])
    assert_allclose(result["inverse"], x, rtol=tolerance, atol=tolerance)
    return result


@pytest.mark.parametrize("name", SINGLE)
def test_a_layer_has_an_inverse_and_the_log_det_of_its_jacobian(name, rng):
    constructor, dim = LAYERS[name]
    layer = constructor(rng, dim)
    points = jnp.asarray(rng.normal(0, 2, (6, dim)))
    tolerance = 500 * epsilon()
    result = check_law(layer, points, tolerance)
    # A batch has more axes than the parameters; in training, under `vmap`, it has not.
    with jax.numpy_rank_promotion("allow"):
        for batch_shape in [(), (3,), (2, 3)]:
            x = jax.ShapeDtypeStruct((*batch_shape, dim), points.dtype)
            shapes = [out.shape for out in jax.eval_shape(forward_and_back, layer, x)]
            assert shapes == [x.shape, batch_shape, x.shape]
        y, log_det, back = forward_and_back(layer, points.reshape(2, 3, dim))
    assert_allclose(y.reshape(6, dim), result["y"], rtol=tolerance, atol=tolerance)
    assert_allclose(log_det.ravel(), result["log_det"], rtol=tolerance, atol=tolerance)
    assert_allclose(back.reshape(6, dim), points, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", WIDEST)
def test_a_layer_is_exact_in_double_precision(name, rng, x64):
    constructor, dim = LAYERS[name]
    result = check_law(constructor(rng, dim), jnp.asarray(rng.normal(0, 2, (6, dim))), 1e-9)
    assert result["y"].dtype == jnp.float64


@pytest.mark.parametrize("name", [name for name in WIDEST if name in SINGLE])
def test_a_layer_is_finite_far_out(name, rng):
    constructor, dim = LAYERS[name]
    layer = constructor(rng, dim)
    corners = jnp.stack([jnp.full(dim, 1e3), jnp.full(dim, -1e3), jnp.linspace(-1e3, 1e3, dim)])

    @jax.jit
    @jax.vmap
    def evaluate(x):
        gradient = jax.grad(lambda layer: sum(map(jnp.sum, layer.call_with_intermediates(x))))
        y, log_det = layer.call_with_intermediates(x)
        return y, log_det, layer.inv(y), jax.tree.leaves(gradient(layer))

    y, log_det, back, gradients = evaluate(corners)
    assert jnp.all(jnp.isfinite(y))
    assert jnp.all(jnp.isfinite(log_det))
    assert all(jnp.all(jnp.isfinite(leaf)) for leaf in gradients)
    # The inverse divides by the slope, and with it the rounding of y: two operations each way.
    slopes = jnp.diagonal(jax.vmap(jax.jacobian(layer))(corners), axis1=1, axis2=2)
    rounding = epsilon() * (jnp.abs(y) / slopes + jnp.abs(corners))
    assert jnp.all(jnp.abs(back - corners) <= 4 * rounding)


def test_extreme_splines_have_a_gradient():
    """Where rounding brings the discriminant to zero, about 12 of these 2000 draws."""
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(20 * rng.standard_normal((2000, *shape)), jnp.float32)  # noqa: E731

    def evaluate(heights, slopes, y):
        layer = TailedSpline(heights, slopes)
        x = layer._inverse(y)
        return jnp.sum(x) + layer.log_abs_det_jacobian(x, y)

    gradients = jax.jit(jax.vmap(jax.grad(evaluate, (0, 1, 2))))(draw(1, 8), draw(1, 9), draw(1))
    for gradient in gradients:
        assert np.isfinite(gradient).all()


@pytest.mark.parametrize("num_bins", [1, 2, 3, 8, 16])
def test_zero_parameters_make_the_spline_the_identity(num_bins):
    layer = TailedSpline(jnp.zeros((1, num_bins)), jnp.zeros((1, num_bins + 1)))
    x = jnp.linspace(-10.0, 10.0, 57)[:, None]
    y, log_det = jax.jit(jax.vmap(layer.call_with_intermediates))(x)
    assert_allclose(y, x, atol=50 * epsilon())
    assert_allclose(log_det, 0.0, atol=50 * epsilon())


def test_zero_parameters_make_a_coupling_the_identity(rng):
    x = jnp.asarray(rng.normal(size=5))
    y, log_det = jax.jit(coupling(rng, 5, weight=0.0).call_with_intermediates)(x)
    assert_allclose(y, x, atol=50 * epsilon())
    assert_allclose(log_det, 0.0, atol=50 * epsilon())


@pytest.mark.parametrize("dim", [2, 5])
def test_a_coupling_moves_some_by_a_function_of_the_others(dim, rng):
    x = jnp.asarray(rng.normal(size=dim))
    layer = coupling(rng, dim)
    num_stay = dim - layer.num_transformed
    conditioner, transformed = map(list, np.split(layer.orders[0], [num_stay]))
    jacobian = np.asarray(jax.jit(jax.jacobian(layer))(x))
    assert sorted(conditioner + transformed) == list(range(dim))
    assert_array_equal(jacobian[conditioner], np.eye(dim)[conditioner])
    within = jacobian[np.ix_(transformed, transformed)]
    assert_array_equal(within, np.diag(np.diag(within)))
    assert np.all(jacobian[np.ix_(transformed, conditioner)] != 0)


def test_couplings_follow_each_other(rng):
    layers = coupling(rng, 5, number=3)
    x = jnp.asarray(rng.normal(size=(6, 5)))

    @jax.jit
    @jax.vmap
    def one_by_one(x):
        total = 0.0
        for index, indices in enumerate(layers.orders):
            networks = jax.tree.map(lambda leaf, k=index: leaf[k : k + 1], layers.networks)
            layer = type(layers)((indices,), layers.num_transformed, networks)
            x, log_det = layer.call_with_intermediates(x)
            total += log_det
        return x, total

    y, log_det = jax.jit(jax.vmap(layers.call_with_intermediates))(x)
    for found, expected in zip((y, log_det), one_by_one(x), strict=True):
        assert_allclose(found, expected, rtol=50 * epsilon(), atol=50 * epsilon())


def test_fourier_features_have_periods_of_16_8_and_4():
    x = jnp.array([0.5, -1.25])
    for index, period in enumerate((16, 8, 4)):
        one, later = (fourier_features(at, np.pi / 8, 3) for at in (x, x + period))
        assert one.shape == (2 * 2 * 3,)
        same = jnp.array([2 * index, 2 * index + 1, 6 + 2 * index, 7 + 2 * index])
        assert_allclose(later[same], one[same], atol=1e-5)
        assert_allclose(one[2 * index], np.sin(2 * np.pi * 0.5 / period), rtol=1e-5)
    assert fourier_features(x, np.pi / 8, 0).shape == (0,)


def test_the_coupling_limits_its_scale(rng):
    layer = coupling(rng, 5, weight=30.0)
    log_scale = layer.call_with_intermediates(jnp.full(5, 100.0))[1]
    assert abs(log_scale) <= AffineCouplings.max_log_scale * layer.num_transformed


@pytest.mark.parametrize(("dim", "size"), [(2, 1), (5, 3), (4, 1), (7, 3)])
def test_couplings_move_every_coordinate_in_turn(dim, size):
    number = -(-dim // size)
    for turn in range(3):
        orders = [order(index, dim, size) for index in range(turn * number, (turn + 1) * number)]
        assert all(sorted(indices) == list(range(dim)) for indices in orders)
        # Every coordinate moves; as few as possible of them twice.
        moves = np.bincount(np.concatenate([indices[-size:] for indices in orders]))
        assert moves.min() == 1
        assert moves.max() <= 2
    assert len({order(number * turn, dim, size)[-size:] for turn in range(9)}) > 1


@pytest.mark.parametrize("weight", [1.0, 3.0, 10.0])
def test_the_spline_increases_and_its_inverse_loses_no_digits(weight, rng):
    layer = spline(rng, 500, weight=weight)
    x = jnp.asarray(rng.normal(0, 2, (100, 500)))

    @jax.jit
    @jax.vmap
    def evaluate(x):
        y, back = layer(x), layer.inv(layer(x))
        return y, back, layer(back), jax.grad(lambda x: layer(x).sum())(x)

    y, back, again, slope = map(np.asarray, evaluate(x))
    # Knots are sums of heights; y and the return to it are rounded to their size.
    ulp = epsilon() * (np.abs(y) + 8 * np.abs(layer.heights).max(1))
    assert np.all(slope > 0)
    ordered = np.take_along_axis(y, np.argsort(x, axis=0), axis=0)
    assert np.all(np.diff(ordered, axis=0) >= -4 * ulp.max(0))
    assert np.all(np.abs(again - y) < 4 * ulp)
    # The error of x is that of y over the slope, where that is not below rounding itself.
    assert np.all(np.abs(back - x) < 4 * (ulp / slope + TailedSpline.limit * epsilon()))


def test_the_spline_is_linear_beyond_its_range_and_smooth_at_its_ends(rng):
    layer = spline(rng, 2)

    @jax.jit
    @jax.vmap
    def evaluate(x):
        return layer(jnp.full(2, x)), jnp.diag(jax.jacobian(layer)(jnp.full(2, x)))

    # The middle knot stays where it is.
    assert_allclose(evaluate(jnp.zeros(5))[0], 0.0, atol=50 * epsilon())
    distances = np.array([-1e-4, 0.0, 1.0, 2.0, 10.0])
    for side in (-1, 1):
        y, slope = map(np.asarray, evaluate(jnp.asarray(side * (TailedSpline.limit + distances))))
        # The slope is constant outside; inside it curves, but not over a distance of 1e-4.
        assert_allclose(slope[2:], slope[[1, 1, 1]], rtol=50 * epsilon())
        assert_allclose(slope[0], slope[1], rtol=1e-2)
        assert np.all(np.abs(slope[1] - 1) > 0.01)
        expected = y[1] + side * distances[2:, None] * slope[1]
        assert_allclose(y[2:], expected, rtol=100 * epsilon())
