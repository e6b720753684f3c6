"""Reward functions that a language model drafts: read, tried in the sandbox, audited, and then accepted or not."""
