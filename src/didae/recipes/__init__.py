"""How the shipped components were made, and how to load or make them again."""
