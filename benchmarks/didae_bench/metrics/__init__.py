"""Metrics as functions of tensors, with the controls that tell which of them can be believed."""
