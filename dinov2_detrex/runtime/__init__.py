"""The ground floor: errors, files, devices, seeds and processes. It knows no config and no model; all may import it."""
