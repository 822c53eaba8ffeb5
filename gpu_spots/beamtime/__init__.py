"""Many runs: what a run is, which runs are done, their processing on Dask, tables and pages."""
