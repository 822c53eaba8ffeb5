"""Masks: which frames share one, and how they are made."""
