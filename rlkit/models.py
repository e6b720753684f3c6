"""Load a causal language model and its tokenizer, ready for RL: the embedded one, a local folder or a Hub id.

Whatever can be wrong is found before a weight is read, and what is merely missing (a pad token, a chat template) is
supplied with a `ModelWarning` that says so. Full fine-tuning: every parameter is trainable.
"""

from __future__ import annotations

import os
import re
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from rlkit.errors import ConfigError, bad_value, unknown_name

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

EMBEDDED: dict[str, Path] = {"rlkit/tiny-arithmetic": Path(__file__).parent / "assets" / "tiny-arithmetic"}
"""The models that come with the package."""

DTYPES = ("auto", "float32", "bfloat16", "float16")

# For models without a chat template (base models). ChatML's turns, but what the assistant says ends in the tokenizer's
# own end token, because that is the token at which every engine stops. A base model has never seen these marks: it
# learns them in training. Used only where prompts are lists of messages.
DEFAULT_CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% else %}{{ '<|im_end|>' }}{% endif %}{{ '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

_WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "pytorch_model*.bin", "pytorch_model.bin.index.json")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_HUB_KEYWORDS = ("revision", "token", "trust_remote_code", "cache_dir", "local_files_only", "subfolder")
_NOT_HERE = (
    "load_in_4bit",
    "load_in_8bit",
    "load_in_fp8",
    "max_lora_rank",
    "peft_config",
    "quantization_config",
)


class ModelWarning(UserWarning):
    """A model came without something that training needs, and rlkit supplied it."""


def load_model(
    model_name: str | os.PathLike[str],
    *,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device | None = None,
    max_seq_length: int | None = None,
    chat_template: str | None = None,
    fast_inference: bool | None = None,
    **model_kwargs: Any,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a causal LM and its tokenizer for full fine-tuning; returns ``(model, tokenizer)``.

    Args:
        model_name: "rlkit/tiny-arithmetic" (comes with the package), a folder that `save_pretrained` wrote, or
            the id of a model on the Hugging Face Hub such as "HuggingFaceTB/SmolLM2-135M-Instruct".
        dtype: "float32", "bfloat16", "float16" or a torch dtype. "auto" is float32 on a CPU, where bfloat16 is
            several times slower, and the checkpoint's own elsewhere.
        device: where the model goes; by default the first CUDA device if there is one, else the CPU.
        max_seq_length: tokens of prompt and completion together, at most what the model has positions for;
            by default just that. Kept as ``tokenizer.model_max_length``.
        chat_template: a Jinja template that replaces the tokenizer's.
        fast_inference: True for vLLM, False for Hugging Face generation, None to leave the choice to the
            trainer. Kept as ``model.rlkit_fast_inference``.
        model_kwargs: passed on to ``from_pretrained``, e.g. ``revision``, ``attn_implementation``.

    The model comes in eval mode with `use_cache` on; the tokenizer pads on the left. Where the tokenizer has no pad
    token, its end token (or the unknown token) serves; where it has no chat template (base models),
    `DEFAULT_CHAT_TEMPLATE` does; each with a `ModelWarning`.

    Raises `ConfigError`, before any weight is read, for a folder without configuration or weights, a path or
    embedded model that does not exist, a Hub id that cannot be reached, an argument out of range; and afterwards for a
    checkpoint that lacks some of the model's weights.
    """
    _check_arguments(dtype, max_seq_length, chat_template, fast_inference, model_kwargs)
    source = find_model(model_name)

    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    place = _device(device)
    if dtype == "auto" and place.type == "cpu":
        dtype = "float32"
    if not Path(source).is_dir():
        model_kwargs.update(_offline_keywords(str(model_name), model_kwargs))
    hub = {key: model_kwargs[key] for key in _HUB_KEYWORDS if key in model_kwargs}
    with quiet_transformers():
        try:
            config = AutoConfig.from_pretrained(source, **hub)
        except Exception as error:
            raise _cannot_read(model_name, source, "configuration", error) from error
        positions = getattr(config.get_text_config(), "max_position_embeddings", None)
        if max_seq_length is not None and positions is not None and max_seq_length > positions:
            cause = "The model has no positions beyond that."
            raise bad_value("max_seq_length", max_seq_length, f"at most {positions} for {model_name}", cause)
        try:
            tokenizer = AutoTokenizer.from_pretrained(source, **hub)
        except Exception as error:
            raise _cannot_read(model_name, source, "tokenizer", error) from error
        _complete_tokenizer(tokenizer, str(model_name), chat_template)
        try:
            model, loaded = AutoModelForCausalLM.from_pretrained(
                source, dtype=dtype, output_loading_info=True, **model_kwargs
            )
        except Exception as error:
            raise _cannot_read(model_name, source, "weights", error) from error
    if loaded["missing_keys"]:
        # transformers would fill them with random numbers and only log it
        missing = sorted(loaded["missing_keys"])
        raise ConfigError(
            f"model_name={str(model_name)!r} lacks {len(missing)} of the weights that {type(model).__name__} needs "
            f"({', '.join(missing[:3])}, …). Is it the checkpoint of an adapter or of another kind of model?"
        )
    model = model.to(place).eval()
    model.config.use_cache = True  # for generation; a training forward passes use_cache=False itself
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    if positions is not None or max_seq_length is not None:
        tokenizer.model_max_length = max_seq_length if max_seq_length is not None else positions
    model.rlkit_fast_inference = fast_inference
    model.name_or_path = str(model_name)  # what the caller said, not where the package keeps it
    return model, tokenizer


def _check_arguments(
    dtype: Any, max_seq_length: Any, chat_template: Any, fast_inference: Any, model_kwargs: dict[str, Any]
) -> None:
    """Refuse arguments that cannot be meant, before anything is imported or read."""
    if str(dtype).removeprefix("torch.") not in DTYPES:
        raise bad_value("dtype", dtype, ", ".join(DTYPES))
    whole = isinstance(max_seq_length, int) and not isinstance(max_seq_length, bool)
    if max_seq_length is not None and not (whole and max_seq_length > 1):
        raise bad_value("max_seq_length", max_seq_length, "a whole number of tokens above 1, or None")
    if chat_template is not None and not (isinstance(chat_template, str) and chat_template.strip()):
        raise bad_value("chat_template", chat_template, "a Jinja template as text, or None")
    if fast_inference not in (None, True, False):
        raise bad_value(
            "fast_inference", fast_inference, "True (vLLM), False (Hugging Face generation) or None"
        )
    for key in _NOT_HERE:
        if model_kwargs.get(key):
            cause = "load_model does full fine-tuning: quantised models and adapters are not supported yet."
            raise bad_value(key, model_kwargs[key], "leave it out", cause)
        model_kwargs.pop(key, None)


def find_model(model_name: str | os.PathLike[str]) -> str:
    """Return where `model_name` is loaded from: a folder's path, or the Hub id itself. Looks at names only.

    Raises `ConfigError` for an unknown embedded model, a path that does not exist, a folder without
    ``config.json`` or weights, and text that can be neither path nor Hub id.
    """
    name = os.fspath(model_name) if isinstance(model_name, str | os.PathLike) else model_name
    if not isinstance(name, str) or not name.strip():
        raise bad_value("model_name", model_name, "an embedded model, a folder or a Hub id", _EXAMPLES)
    if name in EMBEDDED:
        return str(_checked_folder(EMBEDDED[name], name))
    path = Path(name).expanduser()
    if path.is_dir():
        return str(_checked_folder(path, name))
    if path.is_file():
        raise bad_value("model_name", name, "the folder that holds the model", "This is a single file.")
    if name.startswith("rlkit/"):
        raise unknown_name(
            "embedded model", name, EMBEDDED, "Names that begin with rlkit/ come with the package."
        )
    looks_like_path = (
        name.startswith((".", "/", "~")) or "\\" in name or name.endswith("/") or name.count("/") > 1
    )
    if looks_like_path or (path.parent != Path(".") and path.parent.is_dir()):
        parent = path.parent
        if not parent.is_dir():
            cause = f"There is no folder {str(parent)!r} either. Python was started in {str(Path.cwd())!r}."
        else:
            near = get_close_matches(path.name, [p.name for p in parent.iterdir() if p.is_dir()], n=3)
            cause = (
                f"Did you mean {', '.join(near)}?" if near else f"{str(parent)!r} has no folder of that name."
            )
        raise bad_value("model_name", name, "a folder that exists, or a Hub id", cause)
    if not _HUB_ID.fullmatch(name):
        raise bad_value("model_name", name, "an embedded model, a folder or a Hub id", _EXAMPLES)
    return name


_EXAMPLES = "For example rlkit/tiny-arithmetic, ./my-model or HuggingFaceTB/SmolLM2-135M-Instruct."


def _checked_folder(folder: Path, name: str) -> Path:
    """Return `folder` if it holds a configuration and weights, else say what it holds instead."""
    names = sorted(path.name for path in folder.iterdir())
    listed = ", ".join(names[:12]) + (", …" if len(names) > 12 else "") if names else "nothing"
    if "config.json" not in names:
        cause = "Is it an adapter? Those need their base model." if "adapter_config.json" in names else ""
        checkpoints = [n for n in names if n.startswith("checkpoint-")]
        if checkpoints:
            cause = f"Did you mean {folder / checkpoints[-1]}?"
        raise bad_value(
            "model_name", name, "a folder with config.json and weights", f"It holds {listed}. {cause}".strip()
        )
    if not any(path for pattern in _WEIGHTS for path in folder.glob(pattern)):
        cause = f"It holds config.json but no *.safetensors and no pytorch_model*.bin, only {listed}."
        raise bad_value("model_name", name, "a folder with config.json and weights", cause)
    return folder


def _device(device: str | torch.device | None) -> torch.device:
    """Return the device asked for, or the best there is; refuse one that is absent."""
    import torch

    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        place = torch.device(device)
    except (RuntimeError, TypeError):
        raise bad_value("device", device, "'cpu', 'cuda', 'cuda:1', …") from None
    if place.type == "cuda" and not torch.cuda.is_available():
        raise bad_value("device", str(device), "'cpu' on this machine", "torch sees no CUDA device.")
    return place


def _complete_tokenizer(tokenizer: PreTrainedTokenizerBase, name: str, chat_template: str | None) -> None:
    """Pad on the left, and supply what the tokenizer lacks: a pad token, a chat template. In place."""
    tokenizer.padding_side = "left"
    if tokenizer.pad_token_id is None:
        spare = tokenizer.eos_token or tokenizer.unk_token
        if spare is None:
            raise ConfigError(
                f"the tokenizer of {name} has no pad token, and neither an end nor an unknown token to take its place. "
                "Add one (tokenizer.pad_token = '…') and save the tokenizer into the model's folder."
            )
        tokenizer.pad_token = spare
        warnings.warn(
            f"{name} has no pad token: {spare!r} fills up shorter sequences. Padding is masked, nothing is learned "
            "from it.",
            ModelWarning,
            stacklevel=3,
        )
    if chat_template is not None:
        tokenizer.chat_template = chat_template
    elif tokenizer.chat_template is None:
        tokenizer.chat_template = DEFAULT_CHAT_TEMPLATE
        warnings.warn(
            f"{name} has no chat template, so it is probably a base model, which continues text and does not answer. "
            "A plain ChatML-like template was supplied (rlkit.models.DEFAULT_CHAT_TEMPLATE); it is used only where "
            "prompts are lists of messages. Pass chat_template=… for another, or prompts that are plain strings.",
            ModelWarning,
            stacklevel=3,
        )


def _offline_keywords(model_id: str, keywords: dict[str, Any]) -> dict[str, Any]:
    """Return what to add to a Hub model's keywords: nothing, or ``local_files_only`` where only the cache can serve.

    Without a network the Hub's client tries again for half a minute; one look at the address tells the same at once.
    Raises `ConfigError` where the Hub cannot be reached and the model is not in the cache.
    """
    from huggingface_hub import constants, try_to_load_from_cache

    if constants.HF_HUB_OFFLINE or keywords.get("local_files_only") or getproxies():
        return {}  # settled already, or only the client knows the way
    address = urlsplit(constants.ENDPOINT)
    port = address.port or (80 if address.scheme == "http" else 443)
    try:
        socket.create_connection((address.hostname or "", port), timeout=5).close()
        return {}
    except OSError as error:
        where = {key: keywords[key] for key in ("cache_dir", "revision") if key in keywords}
        if isinstance(try_to_load_from_cache(model_id, "config.json", **where), str):
            return {"local_files_only": True}
        raise _cannot_read(model_id, model_id, "configuration", ConnectionError(str(error))) from error


def _cannot_read(model_name: Any, source: str, part: str, error: Exception) -> ConfigError:
    """Turn whatever transformers raised while reading `part` into an error that names the likely cause."""
    chain: list[BaseException] = [error]
    while (link := chain[-1].__cause__ or chain[-1].__context__) is not None and link not in chain:
        chain.append(link)
    kinds = {cls.__name__ for link in chain for cls in type(link).__mro__}
    said = (
        f"{type(error).__name__}: {str(error).strip().splitlines()[0]:.200}"
        if str(error)
        else type(error).__name__
    )
    if Path(source).is_dir():
        cause = f"Reading {source} failed ({said})."
    elif "GatedRepoError" in kinds:
        cause = "The model is gated: accept its licence on its page, then log in with `hf auth login`."
    elif kinds & {"RepositoryNotFoundError", "RevisionNotFoundError"}:
        cause = (
            "The Hub has no such model: a typo, or it is private and you are not logged in (`hf auth login`)."
        )
    elif kinds & {
        "OfflineModeIsEnabled",
        "LocalEntryNotFoundError",
        "ConnectError",
        "ConnectionError",
        "TimeoutException",
    }:
        offline = [v for v in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE") if os.environ.get(v)]
        why = f"{offline[0]} is set" if offline else "is there a network connection, or a proxy in between?"
        cause = (
            f"It is not on this machine and the Hugging Face Hub cannot be reached ({why}). Without a network, load "
            "'rlkit/tiny-arithmetic' or a local folder; a folder's path may also be misspelt."
        )
    else:
        cause = f"Reading it failed ({said})."
    return ConfigError(f"model_name={str(model_name)!r}: the {part} cannot be loaded. {cause}")


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silence transformers' and the Hub's log lines and progress bars inside the block; what matters, we raise."""
    from huggingface_hub import utils as hub
    from transformers.utils import logging

    verbosity, hub_verbosity = logging.get_verbosity(), hub.logging.get_verbosity()
    bars, hub_bars = logging.is_progress_bar_enabled(), not hub.are_progress_bars_disabled()
    logging.set_verbosity_error()
    hub.logging.set_verbosity_error()
    logging.disable_progress_bar()
    if hub_bars:
        hub.disable_progress_bars()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        hub.logging.set_verbosity(hub_verbosity)
        if bars:
            logging.enable_progress_bar()
        if hub_bars:
            hub.enable_progress_bars()
