"""Which guide is fitted."""

from numpyro_dsn.guides import AutoRealNVP
from numpyro_dsn.program import Program


def default_guide(program: Program, needs_paths: bool) -> AutoRealNVP:
    """Return a real NVP; one that mixes normal distributions and rejects draws where it may.

    Parameters
    ----------
    program
        The program, which knows the latents.
    needs_paths
        Whether draws must have gradients, which those of the second kind have not.
    """
    if needs_paths:
        return AutoRealNVP(program.guide_model)
    return AutoRealNVP(
        program.guide_model, num_components=8, acceptance_dims=(64, 64), truncated=True
    )
