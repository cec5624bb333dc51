"""How the decoders of two benchmarks are made."""
