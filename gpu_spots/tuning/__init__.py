"""Other options of the finder, tried on some frames of a run with its background."""
