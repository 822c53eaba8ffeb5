"""Fuzzer of the readers: damaged inputs end in a correct result or in one clear error line."""
