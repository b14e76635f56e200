"""Draws and their weights: the pool, the tilt and its dual, the search of the prior.

Functions of arrays alone; nothing here knows a flow or a circuit.
"""
