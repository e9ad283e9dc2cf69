"""The formats that data sets are read from: each file here is one, and defines `FORMAT`, a `DataFormat`.

A new file needs no entry anywhere: training, the check, the figures and the resolvers of the recipes know the format
by what `FORMAT.read` returns.
"""
