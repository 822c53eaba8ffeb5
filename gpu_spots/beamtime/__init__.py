"""Many runs: search, records, processing on Dask, tables and pages."""
