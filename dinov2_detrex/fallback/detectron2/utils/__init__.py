"""What everything else leans on: processes, metrics, logs, files, names."""
