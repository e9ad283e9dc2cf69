"""Make data sets and look at them."""
