"""The detector out of PyTorch: files for other runtimes, each of which was run and compared before it got its name."""
