"""Repairs that need group labels, or the spurious attribute: what CFKD is compared with."""
