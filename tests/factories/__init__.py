"""Frames, files and backends that tests are made with; one module per subject."""
