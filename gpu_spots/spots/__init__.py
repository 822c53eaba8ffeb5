"""Spots: the table made from the sums over components."""
