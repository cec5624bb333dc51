"""Metrics as functions of tensors: distances of images, and distance to the truth on Square."""
