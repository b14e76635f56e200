"""Arguments in two parts: arrays that may change, and a key of what may not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from numpyro_dsn.program.arguments import join, split

DATA = np.arange(6.0).reshape(2, 3)


def test_arguments_come_together_again():
    args = (DATA, 3, {"x": [jnp.ones(2), None, "text"]})
    kwargs = {"gain": 2.0, "key": jax.random.key(1)}
    arrays, static = split(args, kwargs)
    assert len(arrays) == 3
    joined, named = join(arrays, static)
    assert joined[0] is DATA
    assert joined[1] == 3
    assert joined[2]["x"][1:] == [None, "text"]
    assert_array_equal(joined[2]["x"][0], jnp.ones(2))
    assert named["gain"] == 2.0
    assert named["key"] is kwargs["key"]


@pytest.mark.parametrize("other", [DATA + 1, jnp.asarray(DATA)], ids=["values", "jax"])
def test_the_key_does_not_know_the_values_of_arrays(other):
    first, second = split((DATA, 2), {})[1], split((other, 2), {})[1]
    assert first == second
    assert hash(first) == hash(second)


@pytest.mark.parametrize(
    ("args", "others"),
    [
        ((1,), (1.0,)),
        ((1,), (True,)),
        ((1, 2), ((1, 2),)),
        ((DATA, 1), (1, DATA)),
        (("a",), ("b",)),
    ],
    ids=["type", "bool", "structure", "place", "text"],
)
def test_the_key_knows_all_else(args, others):
    assert split(args, {})[1] != split(others, {})[1]


def test_numbers_of_numpy_and_arrays_of_text_are_no_arrays():
    arrays, static = split((np.int64(3), np.array(["a", "b"])), {})
    assert arrays == []
    assert join(arrays, static)[0][0] == 3


def test_equal_shapes_compile_once():
    traced = []

    @jax.jit
    def total(arrays):
        traced.append(arrays)
        return join(arrays, static)[0][0].sum()

    static = split((DATA,), {})[1]
    sums = [float(total(split((DATA + shift,), {})[0])) for shift in (0.0, 1.0)]
    assert sums == [15.0, 21.0]
    assert len(traced) == 1
