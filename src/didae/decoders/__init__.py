"""Conditional decoders D_θ: invert an image to its stochastic code, decode an edited z_sem."""
