"""Generation engines: one protocol, two implementations, and the synchronisation that keeps them honest."""

from rlkit.engines.base import Engine, Sampling
from rlkit.engines.sync import SyncReport

__all__ = ["Engine", "Sampling", "SyncReport", "make_engine"]


def make_engine(*args, **kwargs):  # type: ignore[no-untyped-def]
    """Build the engine that the settings ask for; see :func:`rlkit.engines.make.make_engine`."""
    from rlkit.engines.make import make_engine as build

    return build(*args, **kwargs)
