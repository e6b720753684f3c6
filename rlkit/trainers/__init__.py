"""Trainers: steppable, and the same on CPU and GPU."""
