"""Dashboards and explorers for notebooks: they show what is in a run, a reward, a formula, and change nothing in it.

Each is a model in plain Python, which can be used and tested without a notebook, and a thin view of core ipywidgets.
Where no widget runs (GitHub, nbviewer, PDF) a picture with its content in words stands in its place.

Names are looked up on first use: importing the package loads no ipywidgets.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOME = {  # exported name -> the module that defines it
    "AdvantageExplorer": "advantages",
    "ClipExplorer": "clip",
    "GridWorldPlayer": "grid_world",
    "KLExplorer": "kl",
    "LossWeights": "loss_weights",
    "MemoryCalculator": "memory",
    "PatienceSimulator": "patience",
    "PreferenceRater": "preferences",
    "RewardInspector": "reward",
    "SampleInspector": "samples",
    "TrainingDashboard": "training",
}

__all__ = [
    "AdvantageExplorer",
    "ClipExplorer",
    "GridWorldPlayer",
    "KLExplorer",
    "LossWeights",
    "MemoryCalculator",
    "PatienceSimulator",
    "PreferenceRater",
    "RewardInspector",
    "SampleInspector",
    "TrainingDashboard",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}. It has: {', '.join(__all__)}.")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
