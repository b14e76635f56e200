"""A fit on disk: what is written comes back, from whole files of the right fit alone."""

import json
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from numpyro_dsn.inference_data import load_arrays, save_arrays
from numpyro_dsn.version import __version__

FINGERPRINT = {
    "guide": "AutoRealNVP",
    "latents": {"z": [2, 3]},
    "bounds": [[0.0, float("-inf")], [0.0, 1.5]],
    "num_chains": 2,
}


class Inner(NamedTuple):
    weights: jax.Array
    key: jax.Array


class Outer(NamedTuple):
    inner: Inner
    params: dict
    count: int
    history: np.ndarray


def tree(fill=1.0, num_epochs=4, impl="threefry2x32"):
    return Outer(
        inner=Inner(
            weights=fill * jnp.arange(6.0).reshape(2, 3),
            key=jax.random.split(jax.random.key(int(fill), impl=impl), 2),
        ),
        params={"auto/loc": jnp.full(3, fill), "auto scale'": (jnp.zeros((), int), jnp.ones(0))},
        count=int(3 * fill),
        history=fill * np.arange(num_epochs, dtype=float),
    )


def zeros():
    return tree(fill=0.0, num_epochs=1)


def numbers(leaf):
    is_key = jnp.issubdtype(jnp.result_type(leaf), jax.dtypes.prng_key)
    return jax.random.key_data(leaf) if is_key else leaf


@pytest.fixture
def path(tmp_path):
    return tmp_path / "fit.dsn"


def test_a_tree_comes_back_as_it_was(path):
    saved = tree()
    save_arrays(path, saved, FINGERPRINT)
    loaded = load_arrays(path, zeros(), FINGERPRINT)
    assert jax.tree.structure(loaded) == jax.tree.structure(saved)
    assert isinstance(loaded.inner, Inner)
    for one, other in zip(jax.tree.leaves(loaded), jax.tree.leaves(saved), strict=True):
        assert one is loaded.history or one.dtype == jnp.result_type(other)
        assert_array_equal(numbers(one), numbers(other))
    # NumPy arrays stay such, in their own precision.
    assert isinstance(loaded.history, np.ndarray)
    assert loaded.history.dtype == np.float64


def test_a_fit_is_read_in_the_precision_of_the_session(path):
    saved = {"loc": jnp.full(2, 0.1, jnp.float16)}
    save_arrays(path, saved, FINGERPRINT)
    loaded = load_arrays(path, {"loc": jnp.zeros(2)}, FINGERPRINT)
    assert loaded["loc"].dtype == jnp.zeros(2).dtype
    assert_array_equal(loaded["loc"], saved["loc"])


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
def test_a_key_goes_on_where_it_was(path, impl):
    saved = tree(impl=impl)
    save_arrays(path, saved, FINGERPRINT)
    loaded = load_arrays(path, tree(0.0, 1, impl), FINGERPRINT)
    assert jax.random.key_impl(loaded.inner.key) == jax.random.key_impl(saved.inner.key)
    draws = [jax.random.normal(key) for key in (loaded.inner.key[1], saved.inner.key[1])]
    assert draws[0] == draws[1]


@pytest.mark.parametrize("num_epochs", [0, 1, 7])
def test_the_history_may_have_any_length(path, num_epochs):
    save_arrays(path, tree(num_epochs=num_epochs), FINGERPRINT)
    loaded = load_arrays(path, zeros(), FINGERPRINT)
    assert_array_equal(loaded.history, np.arange(float(num_epochs)))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("guide", "AutoIAFNormal"),
        ("latents", {"z": [2]}),
        ("bounds", [[0.0, 0.0], [0.0, 1.5]]),
        ("num_chains", 1),
        ("statistics", ["mean[f]"]),
    ],
)
def test_a_file_of_another_fit_is_refused(path, field, value):
    save_arrays(path, tree(), FINGERPRINT)
    with pytest.raises(ValueError, match="was saved from a fit with") as caught:
        load_arrays(path, zeros(), FINGERPRINT | {field: value})
    message = str(caught.value)
    assert str(path) in message
    assert f"{field} = {FINGERPRINT.get(field)}, but this DSN has {field} = {value}" in message
    assert "load it with the DSN it came from" in message


def test_an_array_of_another_shape_is_refused(path):
    save_arrays(path, tree(), FINGERPRINT)
    template = zeros()._replace(inner=zeros().inner._replace(weights=jnp.zeros(5)))
    with pytest.raises(ValueError, match=r"does not hold `.*weights` as this DSN needs it"):
        load_arrays(path, template, FINGERPRINT)


def test_an_array_that_is_not_there_is_refused(path):
    save_arrays(path, tree(), FINGERPRINT)
    template = zeros()._replace(params=zeros().params | {"more": jnp.zeros(1)})
    with pytest.raises(ValueError, match=r"does not hold `.*more.*` as this DSN needs it"):
        load_arrays(path, template, FINGERPRINT)


def test_an_array_too_many_is_refused(path):
    save_arrays(path, tree(), FINGERPRINT)
    template = zeros()._replace(params={"auto/loc": jnp.zeros(3)})
    with pytest.raises(ValueError, match=r"holds `.*auto scale.*`, which this DSN does not have"):
        load_arrays(path, template, FINGERPRINT)


def test_a_key_of_another_kind_is_refused(path):
    save_arrays(path, tree(impl="rbg"), FINGERPRINT)
    with pytest.raises(ValueError, match=r"does not hold `.*key` as this DSN needs it"):
        load_arrays(path, zeros(), FINGERPRINT)


@pytest.mark.parametrize("failure", ["while packing", "while writing"])
def test_a_failing_write_leaves_the_old_file(path, failure, monkeypatch):
    save_arrays(path, tree(), FINGERPRINT)
    broken = tree(fill=2.0)
    if failure == "while packing":
        broken = broken._replace(history=np.array([object()]))
    else:

        def break_off(file, **arrays):
            file.write(b"PK")
            raise OSError("No space left on device")

        monkeypatch.setattr(np, "savez", break_off)
    with pytest.raises((ValueError, OSError)):
        save_arrays(path, broken, FINGERPRINT)
    loaded = load_arrays(path, zeros(), FINGERPRINT)
    assert_array_equal(loaded.inner.weights, tree().inner.weights)


def test_a_second_write_replaces_the_file_and_leaves_no_other(path):
    save_arrays(path, tree(), FINGERPRINT)
    save_arrays(path, tree(fill=2.0), FINGERPRINT)
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    loaded = load_arrays(path, zeros(), FINGERPRINT)
    assert_array_equal(loaded.inner.weights, tree(fill=2.0).inner.weights)


def test_the_file_is_plain_arrays_and_json(path):
    save_arrays(path, tree(), FINGERPRINT)
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file}
    assert len(arrays) == 1 + len(jax.tree.leaves(tree()))
    assert all(array.dtype != object for array in arrays.values())
    assert json.loads(str(arrays["fingerprint"])) == {"version": __version__, **FINGERPRINT}


def test_a_pickled_object_is_neither_written_nor_read(path):
    with pytest.raises(ValueError, match="[Oo]bject arrays"):
        save_arrays(path, {"history": np.array([{}])}, {})
    assert not path.exists()
    with path.open("wb") as file:
        np.savez(file, **{"fingerprint": np.array("{}"), "['a']": np.array([{}])})
    with pytest.raises(ValueError, match="[Oo]bject arrays"):
        load_arrays(path, {"a": np.zeros(1)}, {})


def test_a_path_may_be_a_string(path):
    save_arrays(str(path), tree(), FINGERPRINT)
    assert load_arrays(str(path), zeros(), FINGERPRINT).count == 3
