"""The guest's side: the ways in which commands reach it, and the built-in Linux guest ``tiny``."""
