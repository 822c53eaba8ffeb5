"""Memory and threads: bytes, row bands, frame batches; no formulas."""
