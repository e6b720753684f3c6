"""Compiles kernels for chips that are not there, and reads what the machine code needs.

Registers and local memory are those that `cuobjdump` reads from the machine code, shared and tensor memory those that
Triton asks for at launch. Needs no GPU and no CUDA: `ptxas` and `cuobjdump` are in Triton's wheel.
"""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import re
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, NamedTuple

from rlkit_kernels.variants import Variant

FORMS = ("aligned", "odd")
REGISTERS = 65536  # of 32 bits in a multiprocessor, on every chip below


class Chip(NamedTuple):
    """What one multiprocessor has (CUDA C++ Programming Guide, "Technical Specifications per Compute Capability")."""

    block_shared: int  # bytes that one block may ask for
    shared: int  # bytes in all
    reserved: int  # bytes that every block takes besides what it asks for
    warps: int
    blocks: int


KIB = 1024
CHIPS = {
    75: Chip(64 * KIB, 64 * KIB, 0, 32, 16),  # T4, RTX 20
    80: Chip(163 * KIB, 164 * KIB, KIB, 64, 32),  # A100
    89: Chip(99 * KIB, 100 * KIB, KIB, 48, 24),  # L4, RTX 40
    90: Chip(227 * KIB, 228 * KIB, KIB, 64, 32),  # H100, H200
    100: Chip(227 * KIB, 228 * KIB, KIB, 64, 32),  # B200
}


class Measured(NamedTuple):
    """One variant, for one chip, in one form; `error` says why there is nothing else."""

    name: str
    arch: int
    form: str
    registers: int = 0  # per thread
    local: int = 0  # bytes of local memory per thread: spilled registers
    shared: int = 0  # bytes per block
    columns: int = 0  # of tensor memory
    warps: int = 0  # per block, with those that warp specialisation adds
    resident: int = 0  # warps that a multiprocessor holds at a time
    unit: str = ""  # of matrix instructions: mma (tensor cores of a warp), wgmma, tcgen05; "" if none is used
    error: str = ""


def jit_function(kernel: Any) -> Any:
    """The JITFunction inside an Autotuner or Heuristics."""
    from triton.runtime.jit import JITFunction

    while not isinstance(kernel, JITFunction):
        kernel = kernel.fn
    return kernel


def compile_variant(variant: Variant, arch: int, form: str) -> Measured:
    """Compile, and read what the machine code needs. Everything that goes wrong is in `error`."""
    from triton import compile as compile_source
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    said = io.StringIO()  # a failing ptxas makes Triton print the whole program
    try:
        kernel = jit_function(variant.kernel)
        constants = dict(variant.constants)
        told = {
            name: "constexpr" if name in constants else variant.signature[name] for name in kernel.arg_names
        }
        attrs = {
            (i,): [["tt.divisibility", 16]]
            for i, (name, param) in enumerate(zip(kernel.arg_names, kernel.params, strict=True))
            if _is_aligned(told[name], form)
            and not (param.do_not_specialize or param.do_not_specialize_on_alignment)
        }
        types = {name: kind.removesuffix(":16") for name, kind in told.items()}
        source = ASTSource(kernel, types, constexprs=constants, attrs=attrs)
        options = {"num_warps": variant.num_warps, "num_stages": variant.num_stages}
        with contextlib.redirect_stdout(said):
            compiled = compile_source(source, target=GPUTarget("cuda", arch, 32), options=options)
        registers, local = _resources(compiled.asm["cubin"])
    except Exception as error:  # whatever the compiler raises is a finding
        return Measured(variant.name, arch, form, error=_reason(error))
    meta, ptx = compiled.metadata, compiled.asm["ptx"]
    units = {"tcgen05": "tcgen05.mma", "wgmma": "wgmma.mma_async", "mma": "mma.sync"}
    return Measured(
        variant.name,
        arch,
        form,
        registers,
        local,
        meta.shared,
        meta.tmem_size or 0,
        meta.num_warps,
        _resident(CHIPS[arch], registers, meta.shared, meta.num_warps),
        next((unit for unit, instruction in units.items() if instruction in ptx), ""),
    )


def _is_aligned(kind: str, form: str) -> bool:
    """Is an argument of this type a multiple of 16 in this form?"""
    if kind.startswith("*") or kind.endswith(":16"):
        return True
    return form == "aligned" and kind[:1] in "iu" and kind != "i1"


def _reason(error: BaseException) -> str:
    """The line of a compiler's message that says most."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if re.search(r"(?i)error|must|not supported|expected", line)]
    return f"{type(error).__name__}: {(telling or lines or ['no message'])[-1]}"


def _resources(cubin: bytes) -> tuple[int, int]:
    """(registers, bytes of local memory) of a thread. `cuobjdump` counts spilled registers as stack."""
    import triton

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [str(tool), "--dump-resource-usage", file.name]
        said = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    sizes = {key: int(size) for key, size in re.findall(r"\b(REG|STACK|LOCAL):(\d+)", said)}
    return sizes["REG"], sizes["STACK"] + sizes["LOCAL"]


def _resident(chip: Chip, registers: int, shared: int, warps: int) -> int:
    """Warps that fit into one multiprocessor: by registers (handed out by 256 a warp), shared memory and count."""
    per_warp = -(-registers * 32 // 256) * 256
    by_registers = (REGISTERS // 4 // per_warp) * 4 // warps if per_warp else chip.blocks
    by_shared = chip.shared // (shared + chip.reserved) if shared + chip.reserved else chip.blocks
    return min(by_registers, by_shared, chip.warps // warps, chip.blocks) * warps


_variants: list[Variant] = []  # what forked workers find: kernels cannot be pickled


def _work(job: tuple[int, int, str]) -> Measured:
    index, arch, form = job
    return compile_variant(_variants[index], arch, form)


def measure(variants: list[Variant], archs: list[int], jobs: int) -> Iterator[Measured]:
    """All variants × chips × forms; a compiler that crashes takes no more than its own variant along."""
    _variants[:] = variants
    work = [
        (i, arch, form)
        for i, variant in enumerate(variants)
        for arch in archs
        if variant.min_capability <= arch < (variant.below or arch + 1)
        for form in FORMS
    ]
    fork = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(jobs, mp_context=fork) as pool:
        futures = [pool.submit(_work, job) for job in work]
        for job, future in zip(work, futures, strict=True):
            try:
                yield future.result()
            except BrokenProcessPool:
                yield _alone(job, fork)


def _alone(job: tuple[int, int, str], fork: Any) -> Measured:
    """Once more in a process of its own, to find out which of several crashed."""
    try:
        with ProcessPoolExecutor(1, mp_context=fork) as pool:
            return pool.submit(_work, job).result()
    except BrokenProcessPool:
        return Measured(_variants[job[0]].name, *job[1:], error="the compiler crashed")
