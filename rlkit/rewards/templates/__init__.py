"""Reasoning templates: markers for working and answer, and all that follows from them."""
