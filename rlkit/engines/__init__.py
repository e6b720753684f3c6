"""Generation engines: one protocol, two implementations, and the synchronisation that keeps them honest."""

from rlkit.engines.base import Engine, Sampling
from rlkit.engines.hf import HFEngine
from rlkit.engines.make import make_engine
from rlkit.engines.sync import SyncReport
from rlkit.engines.vllm import VLLMEngine

__all__ = ["Engine", "HFEngine", "Sampling", "SyncReport", "VLLMEngine", "make_engine"]
