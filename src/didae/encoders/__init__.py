"""Frozen encoders Φ: images in, semantic codes z_sem out, preprocessing included."""
