"""Whether a folder is a Hugging Face model that can be used: its files, before a library opens any of them.

Decides by names, headers and JSON. Must not load weights or run anything that comes with a model.
"""

from collections.abc import Iterable
from pathlib import Path

from finetune_trainer.errors import InvalidModelError, SourceNotFoundError
from finetune_trainer.models.config_filter import check_config, read_json
from finetune_trainer.models.safetensors_check import TensorHeader, check_safetensors
from finetune_trainer.paths import is_inside, listing

PICKLED = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".distcp", ".h5", ".msgpack")
"""Weight formats that can run code when read, or that are not read here."""
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model", "vocab.txt")
CONFIG = "config.json"
INDEX = "model.safetensors.index.json"
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def check_model_folder(folder: Path, root: Path, uri: str) -> list[TensorHeader]:
    """The tensors of the model in `folder`, which lies in `root`. Raises InvalidModelError naming the file."""
    for file in folder.iterdir():
        if file.is_file() and not is_inside(file, root):
            raise InvalidModelError(f"{uri}: {file.name} is a symbolic link that leaves its claim; copy the file")
    _require_model(folder, uri)
    for file in sorted(folder.glob("*.json")):
        if file.name not in ("tokenizer.json", "vocab.json", INDEX):
            check_config(file, f"{uri}: {file.name}")
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise InvalidModelError(f"{uri} has no tokenizer (tokenizer.json); it holds {listing(folder)}")
    tensors: list[TensorHeader] = []
    for file in weight_files(folder, uri):
        tensors += check_safetensors(file, f"{uri}: {file.name}")
    return tensors


def refuse_pickled(names: Iterable[str], uri: str) -> None:
    """Raises InvalidModelError where files of these names are weights in a format that can run code."""
    pickled = sorted(name for name in names if Path(name).suffix.lower() in PICKLED)
    if pickled:
        raise InvalidModelError(
            f"{uri}: {pickled[0]} is refused: such files can run code when read. Save the weights as safetensors: "
            "model.save_pretrained(folder)"
        )


def weight_files(folder: Path, uri: str) -> list[Path]:
    """The safetensors files of the model, by its index where it has one. Raises InvalidModelError."""
    index = folder / INDEX
    if not index.is_file():
        return sorted(folder.glob("*.safetensors"))
    document = read_json(index, f"{uri}: {INDEX}")
    named = document.get("weight_map") if isinstance(document, dict) else None
    if not isinstance(named, dict) or not named:
        raise InvalidModelError(f"{uri}: {INDEX} has no weight_map")
    names = sorted({str(name) for name in named.values()})
    for name in names:
        if Path(name).name != name or not name.endswith(".safetensors") or not (folder / name).is_file():
            raise InvalidModelError(f"{uri}: {INDEX} names {name!r}, which is not a file of the folder; copy it again")
    return [folder / name for name in names]


def _require_model(folder: Path, uri: str) -> None:
    """Tell apart an empty place, an adapter, and weights in a format that is not read."""
    if (folder / ADAPTER_CONFIG).is_file():
        raise InvalidModelError(f"{uri} is a PEFT adapter, not a model; merge it into its base first")
    if not any(folder.glob("*.safetensors")):
        refuse_pickled([file.name for file in folder.iterdir()], uri)
        raise SourceNotFoundError(f"{uri} holds no model (*.safetensors with config.json); it holds {listing(folder)}")
    if not (folder / CONFIG).is_file():
        raise InvalidModelError(f"{uri} has weights and no {CONFIG}; it holds {listing(folder)}")
