"""The mathematics around a training step."""
