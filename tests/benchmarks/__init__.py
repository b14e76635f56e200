"""Every number of the project's targets by one command: ``make benchmark``."""
