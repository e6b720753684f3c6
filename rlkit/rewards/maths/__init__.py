"""Maths rewards: whether two answers are equal, however either is written."""
