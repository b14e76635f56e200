"""The paper's circuits; each module runs as ``python -m models.<name>``."""
