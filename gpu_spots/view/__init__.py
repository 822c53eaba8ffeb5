"""Local page that shows the frames, masks and spots of a run, and tunes the finder."""
