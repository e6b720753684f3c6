"""Every kernel compiles for every chip, fits and spills nothing; and the inspection catches one that does not.

Compiling needs no GPU. It happens in processes of its own: kernels that were imported under Triton's interpreter
cannot be compiled.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(
    not importlib.util.find_spec("triton"), reason="Triton has wheels for Linux only"
)

ROOT = Path(__file__).resolve().parent.parent
KERNELS = ROOT / "kernels"

TOYS = """
import triton
import triton.language as tl
from rlkit_kernels.variants import Variant


@triton.jit
def row_sum(x, out, n, WIDTH: tl.constexpr):
    columns = tl.arange(0, WIDTH)
    row = tl.program_id(0).to(tl.int64)
    tl.store(out + row, tl.sum(tl.load(x + row * n + columns, mask=columns < n, other=0.0).to(tl.float32)))


@triton.jit
def product(a, b, out, width, BLOCK: tl.constexpr, DEPTH: tl.constexpr):
    rows, columns = tl.arange(0, BLOCK), tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK, BLOCK), tl.float32)
    for start in range(0, width, DEPTH):
        k = start + tl.arange(0, DEPTH)
        x = tl.load(a + rows[:, None] * width + k[None, :])
        y = tl.load(b + columns[:, None] * width + k[None, :])
        total = tl.dot(x, tl.trans(y), total)
    tl.store(out + rows[:, None] * BLOCK + columns[None, :], total)


@triton.jit
def refused(out, SIZE: tl.constexpr):
    tl.store(out + tl.arange(0, SIZE), 1.0)  # tl.arange wants a power of two


@triton.autotune([triton.Config({"WIDTH": 256}, num_warps=4), triton.Config({"WIDTH": 512}, num_warps=8)], key=["n"])
@triton.jit
def tuned(x, out, n, WIDTH: tl.constexpr):
    columns = tl.arange(0, WIDTH)
    tl.store(out, tl.sum(tl.load(x + columns, mask=columns < n, other=0.0)))


SUM = {"x": "*bf16", "out": "*fp32", "n": "i32"}
PRODUCT = {"a": "*bf16", "b": "*bf16", "out": "*fp32", "width": "i32"}
TOYS = {
    "sum": Variant("sum", row_sum, SUM, {"WIDTH": 1024}, 4, 1),
    "product": Variant("product", product, PRODUCT, {"BLOCK": 64, "DEPTH": 64}, 4, 3, 80, 100),
    "held": Variant("held", product, PRODUCT | {"width": "i32:16"}, {"BLOCK": 64, "DEPTH": 64}, 4, 3, 80),
    "spills": Variant("spills", product, PRODUCT, {"BLOCK": 256, "DEPTH": 32}, 4, 2, 80),
    "too much": Variant("too much", product, PRODUCT, {"BLOCK": 128, "DEPTH": 128}, 8, 4, 80),
    "refused": Variant("refused", refused, {"out": "*fp32"}, {"SIZE": 100}, 4, 1),
    "tuned": Variant("tuned", tuned, SUM | {"x": "*fp32"}, {"WIDTH": 256}, 4, 3),
}
"""


def inspect(folder: Path, toys: str, *options: str) -> tuple[int, str, list[dict]]:
    """Status, text and figures of an inspection of these toys; its records are in `folder`."""
    chosen = [name.strip() for name in toys.split(",")]
    code = TOYS if "tuned" in chosen else TOYS.replace("@triton.autotune", "# ")
    code += f"\n\ndef variants():\n    return [TOYS[name] for name in {chosen}]\n"
    (folder / "toys.py").write_text(code)
    out, limits = folder / "out.json", folder / "limits.json"
    files = ["--module", "toys", "--limits", str(limits), "--json", str(out), "--jobs", "1"]
    status, said = run([*files, *options], folder)
    return status, said, json.loads(out.read_text()) if out.exists() else []


def run(options: list[str], *paths: Path) -> tuple[int, str]:
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join(str(path) for path in (KERNELS, *paths))
    command = [sys.executable, "-m", "rlkit_kernels.inspect", *options]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["75", "80", "89", "90", "100"])
def test_every_variant_compiles_within_its_limits(arch: str) -> None:
    status, said = run(["--arch", arch, "--jobs", "1"])
    assert status == 0, said


def test_figures_are_those_of_the_machine_code(tmp_path: Path) -> None:
    status, said, found = inspect(tmp_path, "sum, product", "--record", "--arch", "75", "90", "100")
    assert status == 0, said
    by = {(m["name"], m["arch"], m["form"]): m for m in found}
    chips = {name: {arch for n, arch, _ in by if n == name} for name in ("sum", "product")}
    assert chips == {"sum": {75, 90, 100}, "product": {90}}  # from sm_80 on, below sm_100
    assert len(found) == 2 * 4  # aligned and odd
    assert all(8 <= m["registers"] <= 255 and m["local"] == 0 and not m["error"] for m in found)
    product = by["product", 90, "aligned"]
    assert product["unit"] == "wgmma" and by["sum", 90, "odd"]["unit"] == ""
    # Two operands of 64 × 64 bfloat16, in as many buffers as stages; without alignment no copies run ahead.
    assert product["shared"] == 3 * 2 * 64 * 64 * 2 > by["product", 90, "odd"]["shared"]
    assert product["warps"] == 4 and product["resident"] % 4 == 0 and 4 <= product["resident"] <= 64


@pytest.mark.parametrize(
    "toy, arch, fault",
    [
        ("spills", "80", "spills: "),
        ("too much", "89", "bytes of shared memory, a block of this chip has 101376"),
        ("refused", "90", "arange"),
    ],
)
def test_a_variant_with_a_fault_is_caught_and_not_recorded(
    tmp_path: Path, toy: str, arch: str, fault: str
) -> None:
    status, said, _ = inspect(tmp_path, toy, "--record", "--arch", arch)
    assert status == 1
    assert f"FAULT: {toy}, sm_{arch}" in said and fault in said, said
    assert json.loads((tmp_path / "limits.json").read_text())["limits"] == {}


def test_an_argument_that_is_always_a_multiple_of_16_is_so_in_both_forms(tmp_path: Path) -> None:
    status, said, found = inspect(tmp_path, "product, held", "--record", "--arch", "90")
    assert status == 0, said
    shared = {(m["name"], m["form"]): m["shared"] for m in found}
    assert shared["held", "odd"] == shared["held", "aligned"] == shared["product", "aligned"]
    assert shared["product", "odd"] < shared["held", "odd"]


def test_records_are_limits(tmp_path: Path) -> None:
    arch = ("--arch", "80")
    status, said, _ = inspect(tmp_path, "sum", *arch)
    assert status == 1 and "sum, sm_80: not recorded" in said
    assert inspect(tmp_path, "sum", *arch, "--record")[0] == 0
    status, said, found = inspect(tmp_path, "sum", *arch)
    assert status == 0, said

    limits = tmp_path / "limits.json"
    recorded = json.loads(limits.read_text())
    registers = max(m["registers"] for m in found)
    assert recorded["limits"]["sum"]["80"][0] == registers
    recorded["limits"]["sum"]["80"][0] -= 1
    recorded["limits"]["gone"] = {"80": [1, 1]}
    limits.write_text(json.dumps(recorded))
    status, said, _ = inspect(tmp_path, "sum", *arch)
    assert status == 1
    assert f"sum, sm_80: {registers} registers, {registers - 1} are recorded" in said
    assert "gone: recorded, but there is no such variant" in said

    limits.write_text(json.dumps(recorded | {"triton": "0.1"}))  # another compiler's figures bind nobody
    status, said, _ = inspect(tmp_path, "sum", *arch)
    assert status == 0 and "Triton 0.1's" in said


def test_what_autotuning_may_choose_must_be_a_variant(tmp_path: Path) -> None:
    status, said, _ = inspect(tmp_path, "tuned", "--arch", "90", "--record")
    assert status == 1
    assert "tuned may choose WIDTH: 512" in said and "WIDTH: 256" not in said, said


def test_the_interpreter_is_refused() -> None:
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": str(KERNELS)}
    command = [sys.executable, "-m", "rlkit_kernels.inspect"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 2 and "TRITON_INTERPRET" in done.stderr
