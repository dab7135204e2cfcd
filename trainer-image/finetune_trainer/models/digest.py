"""One digest for a folder of files: the same files give the same digest, wherever they lie."""

import hashlib
from pathlib import Path

_SUFFIXES = (".safetensors", ".json", ".jinja", ".model", ".txt")


def model_digest(folder: Path) -> str:
    """sha256:<hex> over the sorted (name, sha256 of the content) of weights, configuration and tokenizer files."""
    total = hashlib.sha256()
    for file in sorted(file for file in folder.iterdir() if file.is_file() and file.suffix in _SUFFIXES):
        with file.open("rb") as content:
            total.update(f"{file.name}\0{hashlib.file_digest(content, 'sha256').hexdigest()}\n".encode())
    return f"sha256:{total.hexdigest()}"
