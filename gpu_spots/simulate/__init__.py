"""Runs with known truth: `run` draws them, `score` compares what was found with what is there."""
