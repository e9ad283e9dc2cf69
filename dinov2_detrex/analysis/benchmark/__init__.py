"""Which measurements are there? One module each, run by `dinov2-detrex benchmark NAME`, kept in benchmarks/RESULTS.md.

Each answers one question with rows of a table. Rows of one run are compared, not times of two runs.
"""
