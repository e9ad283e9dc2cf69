"""Training: the command line, the loop, and what makes a run repeatable and resumable.

`cli.train` starts the processes of the command `train`, `run.run` is what each of them does; the rest are their parts.
"""
