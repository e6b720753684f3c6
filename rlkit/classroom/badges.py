"""Write the address of one's own copy of the course into its notebooks: badges for Colab and Binder, the set-up cell.

    python -m rlkit.classroom badges https://github.com/you/rlkit notebooks

Without it the badges lead to the section of notebooks/README.md that says how to open a notebook there by hand.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from rlkit.errors import bad_value

ADDRESS = re.compile(r"https://github\.com/([\w.-]+)/([\w.-]+?)(?:\.git)?/?")
COLAB = re.compile(r"(\[!\[Open in Colab\]\([^)]*\)\])\([^)]*\)")
BINDER = re.compile(r"(\[!\[Launch on Binder\]\([^)]*\)\])\([^)]*\)")
SOURCE = re.compile(r'^SOURCE = "[^"]*"', re.M)


def with_address(notebook: Any, address: str, name: str, branch: str = "main") -> Any:
    """``notebook``, changed in place, with badges and set-up cell that lead to ``address``; "" takes them out again."""
    match = ADDRESS.fullmatch(address) if address else None
    if address and not match:
        raise bad_value(
            "address", address, '"https://github.com/owner/repository"', "Colab and Binder open those."
        )
    colab, binder = "README.md#on-colab", "README.md#on-binder"
    if match:
        owner, repository = match.groups()
        colab = (
            f"https://colab.research.google.com/github/{owner}/{repository}/blob/{branch}/notebooks/{name}"
        )
        binder = f"https://mybinder.org/v2/gh/{owner}/{repository}/{branch}?labpath=notebooks/{name}"
    first, setup = notebook.cells[0], notebook.cells[1]
    first.source = COLAB.sub(rf"\1({colab})", BINDER.sub(rf"\1({binder})", first.source))
    setup.source = SOURCE.sub(f'SOURCE = "{address}"', setup.source)
    return notebook


def write_address(paths: list[Path], address: str, branch: str = "main") -> None:
    """Do that to notebook files, whose outputs stay as they are."""
    import nbformat

    for path in paths:
        notebook = nbformat.read(path, as_version=4)
        nbformat.write(with_address(notebook, address, path.name, branch), path)  # as JupyterLab writes it
