"""What every kernel module says about itself: each compiled form that it may launch.

A kernel module has `variants()`, which yields one `Variant` for every configuration that autotuning, or the
module's own choice by shape, can pick; the same list of configurations feeds both. `rlkit_kernels.inspect` compiles
them for each chip, without one.
"""

from __future__ import annotations

from typing import Any, NamedTuple


class Variant(NamedTuple):
    """One compiled form of a kernel, apart from the chip."""

    name: str  # unique, and short enough for a table: "epilogue bf16 entropy"
    kernel: Any  # triton.JITFunction, or an Autotuner or Heuristics around one
    # Triton's types of the arguments that are no constants: "*bf16", "i64", "fp32"; "i32:16" is one that the module
    # never gives this variant but as a multiple of 16 (it has another variant for the rest)
    signature: dict[str, str]
    constants: dict[str, Any]  # tl.constexpr arguments, and arguments whose value is 1
    num_warps: int
    num_stages: int
    min_capability: int = 75  # 80: bfloat16 in tl.dot; 89: float8 e4m3
    below: int | None = None  # chips from this capability on are given another variant instead


def interpreting() -> bool:
    """Does Triton run kernels in Python, on the CPU (TRITON_INTERPRET=1)? Must be decided before they are imported."""
    from triton import knobs

    return bool(knobs.runtime.interpret)
