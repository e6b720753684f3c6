"""Memory: what each phase of a step takes, in bytes and seconds. Imports no torch."""

from rlkit.memory.ledger import MemoryLedger

__all__ = ["MemoryLedger"]
