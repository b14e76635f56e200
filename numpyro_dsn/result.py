"""What a run returns: draws, densities, predictions and a summary of the fit."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from numpyro_dsn.certificate import (
    Certificate,
    Tolerances,
    certify,
    draw_corrected,
    format_summary,
)
from numpyro_dsn.fit import Fit
from numpyro_dsn.inference_data import save_arrays
from numpyro_dsn.program import Simulation, require_latents
from numpyro_dsn.programs import (
    FitDraws,
    Sites,
    as_draws,
    constrain_program,
    density_program,
    draw_flat,
    draw_until,
    log_kept,
    replicate_program,
    simulation_program,
)
from numpyro_dsn.solver.history import Epoch, History
from numpyro_dsn.solver.inputs import Inputs
from numpyro_dsn.solver.state import held_fit
from numpyro_dsn.status import Status
from numpyro_dsn.weighted.draws import Draws

if TYPE_CHECKING:
    import arviz


@dataclass(frozen=True, eq=False)
class DSNResult:
    """A fitted distribution over circuits.

    Parameters
    ----------
    fit
        Program, flow and arguments of the model.
    params
        Parameters of the guide; arrays have a leading axis ``num_chains``.
    state
        State to continue from.
    status
        How the run ended.
    epochs
        The epoch that each chain's parameters come from, shape ``(num_chains,)``.
    chain
        The chain that the result holds: the highest-entropy converged one or, when none has
        converged, the one that is closest to what was asked.
    fingerprint
        What a saved file belongs to.
    """

    fit: Fit
    params: dict[str, Array]
    state: Any
    status: Status
    epochs: np.ndarray
    chain: int
    fingerprint: dict[str, Any]

    @property
    def history(self) -> History:
        """Measurements after every epoch and records of the steps between, for all chains."""
        return self.state.history

    @property
    def measured(self) -> Epoch:
        """Measurements of the fit that the result holds."""
        index = (int(self.epochs[self.chain]), self.chain)
        return Epoch(*(leaf[index] for leaf in self.history.epochs))

    @property
    def entropy(self) -> float:
        """Entropy of the fit on the constrained space, in nats."""
        return float(self.measured.entropy)

    @property
    def kl_to_prior(self) -> float:
        """KL divergence of the fit to the prior, in nats; minus the objective."""
        return float(self.measured.kl_to_prior)

    @property
    def multipliers(self) -> dict[str, float]:
        r"""Lagrange multipliers :math:`\lambda` by label, in nats per unit of T.

        At the optimum the density is the prior times :math:`\exp(-\lambda^\top T)`.
        """
        values = self.measured.multipliers.tolist()
        return dict(zip(self.fit.program.labels, values, strict=True))

    @cached_property
    def inputs(self) -> Inputs:
        """What the certificate rests on: the draws that were kept, and fresh ones of the fit.

        The penalty method keeps none: circuits of the prior are simulated at the first call.
        """
        state = self.state.chains[self.chain]
        return self.fit.method.inputs(self.fit.problem, state, held_fit(state))

    @cached_property
    def certificate(self) -> Certificate:
        """How far the fit is from maximum entropy, and what cannot be told."""
        method, labels = self.fit.method, self.fit.program.labels
        tolerances = Tolerances(method.tolerance, method.gap_tolerance)
        return certify(self.inputs, labels, self.measured, tolerances)

    @property
    def flow_params(self) -> dict[str, Array]:
        """Unconstrained parameters of the flow that the result holds, for ``fit.flow``."""
        return self.flow_params_of(self.chain)

    def flow_params_of(self, chain: int) -> dict[str, Array]:
        """Return the unconstrained parameters of one chain's flow."""
        return held_fit(self.state.chains[chain]).params

    def sample(self, rng_key: Array, num_samples: int = 1000, corrected: bool = False) -> Sites:
        """Draw circuits from the fit and simulate each once, with fresh noise.

        Parameters
        ----------
        rng_key
            Key of the draws and the noise.
        num_samples
            Number of draws.
        corrected
            Whether to choose draws of the fit and of the prior by their weights under the
            exponential family, which meets the constraints where the fit is only close to it.

        Returns
        -------
        Value of every sample and deterministic site, with a leading axis ``num_samples``.
        """
        if corrected:
            return self.draw_corrected(rng_key, num_samples)[0]
        return self.draw_chain(rng_key, self.chain, num_samples).sites

    def get_samples(self, group_by_chain: bool = False) -> Sites:
        """Return 1000 draws: the same at every call, and those of :meth:`to_inference_data`.

        Parameters
        ----------
        group_by_chain
            Whether to draw from every chain, with leading axes ``(num_chains, 1000)``. Otherwise
            draws are from the fit that the result holds, with one leading axis.

        Returns
        -------
        Value of every sample and deterministic site.
        """
        chains = range(len(self.epochs)) if group_by_chain else [self.chain]
        # A key for each chain, as in `to_inference_data`: a common one would correlate chains.
        keys = [jax.random.fold_in(jax.random.key(0), chain) for chain in chains]
        draws = [self.draw_chain(*pair, 1000).sites for pair in zip(keys, chains, strict=True)]
        if not group_by_chain:
            return draws[0]
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *draws)

    def draw_chain(self, rng_key: Array, chain: int, num_samples: int) -> FitDraws:
        """Draw from one chain, and simulate each draw once.

        Parameters
        ----------
        rng_key
            Key of the draws and the noise.
        chain
            Number of the chain.
        num_samples
            Number of draws.
        """

        def draw(key: Array) -> tuple[FitDraws, Array]:
            draw_key, noise_key = jax.random.split(key)
            params = self.flow_params_of(chain)
            flat, log_q = draw_flat(self.fit.flow, draw_key, params, num_samples)
            latents, log_det = self._constrain(flat)
            run = self._simulate_as_fitted(noise_key, latents)
            known = self._replicated(chain, noise_key, latents, run)
            log_q, log_probability = self._of_fit(chain, log_q - log_det, known)
            return FitDraws(run.sites, log_q, run.log_prior), log_probability

        if not self._rejects:
            return draw(rng_key)[0]
        return draw_until(rng_key, draw, num_samples)

    @property
    def _rejects(self) -> bool:
        return self.fit.method.rejects(self.fit.problem)

    def _replicated(self, chain: int, rng_key: Array, latents: Sites, run: Simulation) -> Draws:
        """Return what tells which draws are kept: the run, or means over runs that differ."""
        keeps_all = np.isneginf(held_fit(self.state.chains[chain]).acceptance.log_level)
        if keeps_all or not self.fit.problem.is_stochastic:
            return as_draws(run)
        draws = self._replicate(jax.random.fold_in(rng_key, 1), latents)
        return draws._replace(log_prior=run.log_prior)

    def _of_fit(self, chain: int, log_q: Array, draws: Draws) -> tuple[Array, Array]:
        """Return log densities of the fit given those of its flow, and what it keeps of them."""
        if not self._rejects:
            return log_q, jnp.zeros_like(log_q)
        state = self.state.chains[chain]
        log_probability = log_kept(held_fit(state).acceptance, state.targets, log_q, draws)
        rate = self.history.epochs.acceptance[self.epochs[chain], chain]
        return log_q + log_probability - jnp.log(rate), log_probability

    def draw_prior(self, rng_key: Array, num_samples: int) -> Sites:
        """Draw circuits from the prior and simulate each once.

        Returns
        -------
        Value of every sample and deterministic site, with a leading axis ``num_samples``.

        Raises
        ------
        ValueError
            If the prior is improper.
        """
        prior = self.fit.problem.circuit.prior
        if prior is None:
            raise ValueError("The prior is improper and has no draws; bound it to sample it.")
        draw_key, noise_key = jax.random.split(rng_key)
        flat = prior(draw_key, num_samples)
        return self._simulate_as_fitted(noise_key, self._constrain(flat)[0]).sites

    def log_prob(self, values: Sites) -> Array:
        """Return the log density of the fit on the constrained space.

        Parameters
        ----------
        values
            Value of every latent site, with any leading axes; other sites are ignored.

        Returns
        -------
        log q(z) in nats, of the shape of the leading axes; minus infinity off the support. Where
        the circuit rejects draws of the flow, each value is simulated as often as in the fit.

        Raises
        ------
        ValueError
            If a latent site is missing, or leading axes differ.
        NotImplementedError
            If the guide's flow has no inverse.
        """
        latents, batch_shape = require_latents(self.fit.program, values)
        log_q = self._log_prob(self.flow_params, latents)
        if self._rejects:
            key = jax.random.key(0)
            run = self._simulate_as_fitted(key, latents)
            known = self._replicated(self.chain, key, latents, run)
            log_q, _ = self._of_fit(self.chain, log_q, known)
        return log_q.reshape(batch_shape)

    def predictive(
        self,
        rng_key: Array,
        *args: Any,
        num_samples: int = 1000,
        values: Sites | None = None,
        **kwargs: Any,
    ) -> Sites:
        """Simulate circuits of the fit, under the fit's or under other conditions.

        Parameters
        ----------
        rng_key
            Key of the draws and the noise.
        args, kwargs
            Arguments of the model; those of the fit when none are given.
        num_samples
            Number of draws, without ``values``.
        values
            Circuits to simulate: value of every latent site, with any leading axes.

        Returns
        -------
        Value of every sample and deterministic site.
        """
        draw_key, noise_key = jax.random.split(rng_key)
        as_fitted = not args and not kwargs
        other = None if as_fitted else simulation_program(self.fit.program, args, kwargs)
        run = other or self._simulate_as_fitted
        latents, shape = require_latents(
            self.fit.program, self.sample(draw_key, num_samples) if values is None else values
        )
        sites = run(noise_key, latents).sites
        return jax.tree.map(lambda leaf: leaf.reshape(shape + leaf.shape[1:]), sites)

    def print_summary(self) -> None:
        """Print what was asked, what was achieved, multipliers, entropy and status."""
        print(format_summary(self))  # noqa: T201 - as MCMC.print_summary does

    def to_inference_data(
        self,
        rng_key: Array | None = None,
        num_samples: int = 1000,
        coords: dict[str, Any] | None = None,
        dims: dict[str, list[str]] | None = None,
    ) -> "arviz.InferenceData":
        """Return draws, measurements and targets as ArviZ data.

        Parameters
        ----------
        rng_key
            Key of the draws; ``jax.random.key(0)`` by default.
        num_samples
            Number of draws from every chain.
        coords
            Coordinate values by dimension.
        dims
            Dimension names by site, beside those of the model's plates.

        Returns
        -------
        ``InferenceData`` (ArviZ 0.x) or ``xarray.DataTree`` (ArviZ 1.x).
        """
        from numpyro_dsn.inference_data import from_result

        key = jax.random.key(0) if rng_key is None else rng_key
        return from_result(self, key, num_samples, coords or {}, dims or {})

    def save(self, path: str | Path) -> None:
        """Write the fit to an ``.npz`` file; ``DSN(...).load(path)`` reads it."""
        code = np.asarray(list(Status).index(self.status))
        save_arrays(path, (self.state, code), self.fingerprint)

    def __reduce__(self) -> NoReturn:
        # Models are often local functions, and compiled ones never travel.
        raise TypeError(
            "A DSNResult holds its model and compiled functions, which cannot be pickled; write it "
            "with `result.save(path)` and read it with `DSN(model, behavior, ...).load(path)`."
        )

    def __copy__(self) -> "DSNResult":  # frozen
        return self

    def __deepcopy__(self, memo: dict) -> "DSNResult":
        return self

    def draw_corrected(self, rng_key: Array, num_samples: int) -> tuple[Sites, Array]:
        """Draw circuits from the certified exponential family, and simulate each once.

        They are chosen by their weights among all circuits that were simulated.

        Parameters
        ----------
        rng_key
            Key of the choice and the noise.
        num_samples
            Number of draws.

        Returns
        -------
        Value of every sample and deterministic site, with a leading axis ``num_samples``; and the
        effective sample size of the draws that they were chosen from.
        """
        draw_key, noise_key = jax.random.split(rng_key)
        flat, ess = draw_corrected(draw_key, self.inputs, num_samples)
        return self._simulate_as_fitted(noise_key, self._constrain(flat)[0]).sites, ess

    @cached_property
    def _constrain(self) -> Any:
        return constrain_program(self.fit.program)

    @cached_property
    def _log_prob(self) -> Any:
        return density_program(self.fit)

    @cached_property
    def _replicate(self) -> Any:
        return replicate_program(self.fit)

    @cached_property
    def _simulate_as_fitted(self) -> Any:
        return simulation_program(self.fit.program, self.fit.args, self.fit.kwargs)
