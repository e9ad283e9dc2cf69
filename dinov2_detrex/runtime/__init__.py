"""The ground floor: errors, files, devices, seeds, threads, processes. It knows no config and no model."""
