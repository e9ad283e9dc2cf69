"""Training: the command line, the loop, and what makes a run repeatable and resumable.

`cli.main` parses the command line, `run.run` is what each process of a run does; the rest are their parts.
"""
