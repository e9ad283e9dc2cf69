"""Published weights, known by name: show, download and check them."""
