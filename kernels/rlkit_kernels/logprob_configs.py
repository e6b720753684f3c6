"""How the kernels of `linear_logprob` are cut up: chosen by chip, type and options.

Not by timing: the same inputs give the same bits in every process, and no first call waits for measurements.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from rlkit_kernels.logprob_fused import combine_partials, linear_partials
from rlkit_kernels.logprob_kernels import finish_rows, logit_gradient, scale_directions, weigh_tile


class Fused(NamedTuple):
    """How `linear_partials` is cut up."""

    rows: int
    columns: int
    depth: int
    group: int  # blocks of rows side by side
    num_warps: int
    num_stages: int


# By bytes of an element, then by the compute capability from which on it is used. Larger ones spill registers.
FUSED = {
    2: {
        75: Fused(64, 64, 16, 16, 4, 2),
        80: Fused(128, 128, 32, 16, 8, 3),
        90: Fused(128, 128, 64, 16, 8, 4),
    },
    4: {75: Fused(64, 128, 16, 16, 8, 2)},
}
# 16 bits, Hopper, without bias and soft-cap, which would make it spill; so would Triton 3.7's code for sm_100
WIDE = Fused(128, 256, 64, 16, 8, 3)
WIDE_CHIPS = 90, 100  # from, below
# 16 bits with a head of 32, whose tiles take twice the shared memory
MIXED = Fused(64, 128, 32, 16, 8, 2)
# Rows that are not aligned to 16 elements, or that DEPTH does not divide
RAGGED = Fused(32, 64, 16, 16, 4, 2)
# In the interpreter: many blocks even of small inputs
TINY = Fused(16, 32, 16, 2, 1, 1)
MAX_SPLITS = 32
VOCAB_BLOCK, VOCAB_WARPS = 4096, 8  # columns that one program of `weigh_tile` holds in registers
WIDTH_BLOCK, WIDTH_WARPS = 1024, 4
GRADIENT = (8, 256, 4)  # rows, columns and warps of `logit_gradient`
# LIFT and HIGH of `weigh_tile`, by Triton's name of the type. float16 has no room above e^11 and none below e^-17.
REFERENCE = {"fp32": (0.0, 8.0), "bf16": (0.0, 8.0), "fp16": (3.0, 6.0)}


def fused_config(itemsize: int, weight_itemsize: int, capability: int, aligned: bool, shaped: bool) -> Fused:
    """The configuration of `linear_partials`.

    `itemsize` bytes of an element of hidden states, `weight_itemsize` of the head; `aligned`: may UNIT be 16 and EVEN
    be true; `shaped`: is there a bias or a soft-cap?
    """
    if not aligned:
        return RAGGED
    table = FUSED[itemsize]
    config = table[max(at for at in table if at <= max(capability, 75))]
    if weight_itemsize > itemsize:
        return MIXED if capability >= 80 else RAGGED
    wide = itemsize == 2 and WIDE_CHIPS[0] <= capability < WIDE_CHIPS[1] and not shaped
    return WIDE if wide else config


# Rows × vocabulary of one tile of paths 2 and 3: logits (fp32) and weights (16 bits) are 48 MiB, about an H100's L2.
ROW_TILE, VOCAB_TILE = 2048, VOCAB_BLOCK
TINY_ROW_TILE, TINY_VOCAB_TILE = 16, 32  # in the interpreter: several tiles even of small inputs


def splits_of(n: int, vocab: int, config: Fused) -> tuple[int, int]:
    """(splits of the vocabulary, tiles in each), from shapes alone: about 128 programs side by side, at most 32 splits.

    A group of 16 blocks of rows makes 128 programs with 8 splits, which is what an H100 holds at a time; fewer blocks
    than that get more splits.
    """
    blocks, tiles = -(-n // config.rows), -(-vocab // config.columns)
    splits = min(max(128 // max(min(blocks, config.group), 1), 1), MAX_SPLITS, tiles)
    each = -(-tiles // splits)
    return -(-tiles // each), each


POINTERS = {
    "*fp32": "inverse_ptr partial_ptr out_ptr state_ptr z_ptr o_ptr u_ptr sums_ptr saved_ptr scale_ptr g_ptr"
    " g_entropy_ptr",
    "*i64": "target_ptr",
    "i32": "n n_rows vocab width splits tiles_per_split start columns x_row w_row",
    "fp32": "softcap",
}
OPTIONS = ("HAS_BIAS", "HAS_SOFTCAP", "WANT_ENTROPY", "ENTROPY_GRAD", "BIAS_GRAD")


def variants() -> Iterator[Any]:
    """Every configuration that `linear_logprob` may launch, with all the options on that it is used for."""
    from rlkit_kernels.variants import Variant

    def variant(
        kernel: Any,
        name: str,
        kind: str,
        on: bool,
        blocks: dict[str, Any],
        warps: int,
        stages: int = 3,
        floor: int = 75,
    ) -> Variant:
        """`kind`: the type of hidden states, and of every pointer of which `blocks` and POINTERS say nothing."""
        names = list(kernel.arg_names)
        constants = dict.fromkeys(("x_col", "w_col", "g_step", "g_entropy_step"), 1) | {"INTERPRET": False}
        constants |= dict.fromkeys(OPTIONS, on) | {
            key: value for key, value in blocks.items() if key.isupper()
        }
        known = {key: kind for kind, keys in POINTERS.items() for key in keys.split()}
        known |= {key: value for key, value in blocks.items() if not key.isupper()}
        return Variant(
            f"{name} {kind}",
            kernel,
            {key: known.get(key, f"*{kind}") for key in names if key not in constants},
            {key: value for key, value in constants.items() if key in names},
            warps,
            stages,
            max(floor, 80 if kind == "bf16" else 75),
        )

    def fused(name: str, kind: str, on: bool, config: Fused, floor: int, **more: Any) -> Variant:
        cut = {"ROWS": config.rows, "COLUMNS": config.columns, "DEPTH": config.depth, "GROUP": config.group}
        cut |= {"EVEN": True, "UNIT": 16} | more
        name = f"linear_partials {name}"
        return variant(linear_partials, name, kind, on, cut, config.num_warps, config.num_stages, floor)

    for kind, itemsize in {"bf16": 2, "fp16": 2, "fp32": 4}.items():
        for floor, config in FUSED[itemsize].items():
            if kind != "bf16" or floor >= 80:
                yield fused(str(floor), kind, True, config, floor)
        yield fused("ragged", kind, True, RAGGED, 75, EVEN=False, UNIT=1)
        if itemsize == 2:
            yield fused("fp32 head", kind, True, MIXED, 80, w_ptr="*fp32")
            yield fused("ragged fp32 head", kind, True, RAGGED, 75, EVEN=False, UNIT=1, w_ptr="*fp32")
            wide = fused("wide", kind, False, WIDE, WIDE_CHIPS[0], WANT_ENTROPY=True)
            yield wide._replace(below=WIDE_CHIPS[1])
        width = {"ROWS": 1, "BLOCK_WIDTH": WIDTH_BLOCK}
        lift, high = REFERENCE[kind]
        tile = width | {"LIFT": lift, "HIGH": high, "BLOCK": VOCAB_BLOCK}
        rows, columns, warps = GRADIENT
        splits = {"ROWS": 1, "SPLITS": MAX_SPLITS, "DEPTH": WIDTH_BLOCK}
        yield variant(combine_partials, "combine_partials", kind, True, splits, WIDTH_WARPS)
        yield variant(weigh_tile, "weigh_tile", kind, True, tile, VOCAB_WARPS)
        yield variant(finish_rows, "finish_rows", kind, True, width, WIDTH_WARPS)
        back = width | {"out_ptr": f"*{kind}"}
        yield variant(scale_directions, "scale_directions", kind, True, back, WIDTH_WARPS)
        block = {"ROWS": rows, "COLUMNS": columns}
        yield variant(logit_gradient, "logit_gradient", kind, True, block, warps)
