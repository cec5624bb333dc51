"""The page on which a person judges directions and repairs a classifier."""
