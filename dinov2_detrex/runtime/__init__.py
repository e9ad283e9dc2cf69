"""What every other package stands on; knows no config and no model."""
