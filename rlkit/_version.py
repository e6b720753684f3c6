"""The version, read from where it stands: pyproject.toml in a checkout, the installed metadata elsewhere."""

from __future__ import annotations

from pathlib import Path

DISTRIBUTION = "rlkit-notebooks"


def version() -> str:
    """Return rlkit's version, such as ``"0.1.0"``; ``"unknown"`` where neither source is there."""
    pyproject = Path(__file__).resolve().parent.parent / "pyproject.toml"
    if pyproject.is_file():
        import tomllib

        project = tomllib.loads(pyproject.read_text(encoding="utf-8")).get("project", {})
        if project.get("name") == DISTRIBUTION:
            return str(project["version"])
    from importlib import metadata

    try:
        return metadata.version(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return "unknown"
