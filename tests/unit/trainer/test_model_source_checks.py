import json
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from finetune_trainer.errors import InvalidModelError, SourceNotFoundError, StageError
from finetune_trainer.models.config_filter import check_config
from finetune_trainer.models.folder_check import check_model_folder
from finetune_trainer.models.safetensors_check import HEADER_LIMIT, TENSOR_LIMIT, TensorHeader, check_safetensors

Header = dict[str, Any]
URI = "pvc://models/tiny"


def safetensors(header: Header | bytes, data: bytes, length: int | None = None) -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + data


def entry(start: int, end: int, shape: list[int], dtype: str = "F32") -> Header:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


SOUND = {"__metadata__": {"format": "pt"}, "a": entry(0, 16, [2, 2]), "b": entry(16, 20, [2], "BF16")}
SOUND_FILE = safetensors(SOUND, bytes(20))


def test_a_sound_file_gives_its_tensors(tmp_path: Path) -> None:
    (tmp_path / "m").write_bytes(SOUND_FILE)
    want = [TensorHeader("a", "F32", (2, 2)), TensorHeader("b", "BF16", (2,))]
    assert check_safetensors(tmp_path / "m", "m") == want
    assert [tensor.elements for tensor in want] == [4, 2]


@pytest.mark.parametrize(
    ("content", "want"),
    [
        (b"", "is not a whole safetensors file"),
        (b"\x10\x00", "is not a whole safetensors file"),
        (SOUND_FILE[:-1], "has 19 bytes of tensors where its header declares 20: copy the file again"),
        (SOUND_FILE + b"x", "has 21 bytes of tensors where its header declares 20"),
        (safetensors({}, b"", length=2**40), "is not a whole safetensors file"),
        (safetensors(b"[1]", b""), "its header is not an object"),
        (safetensors(b"{", b""), "its header is not JSON"),
        (safetensors(b"[" * 100_000, b""), "its header is not JSON"),
        (safetensors(b'{"a": 1, "a": 2}', b""), "a name occurs twice"),
        (safetensors({"a": 3}, b""), "the entry of tensor 'a' is not an object"),
        (safetensors({"a": entry(0, 4, [1], "F8_E4M3")}, bytes(4)), "'F8_E4M3'; use an unquantized model"),
        (safetensors({"a": entry(0, 8, [1])}, bytes(8)), "takes 8 bytes, which its shape does not"),
        (safetensors({"a": entry(4, 8, [1])}, bytes(8)), "starts at 4 where 0 was expected"),
        (
            safetensors({"a": entry(0, 4, [1]), "b": entry(0, 4, [1])}, bytes(4)),
            "starts at 0 where 4 was expected",
        ),
        (safetensors({"a": entry(0, 4, [-1])}, bytes(4)), "has no sound shape and data_offsets"),
        (safetensors({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0]}}, b""), "no sound shape"),
        (safetensors({"a": {"dtype": "F32", "shape": [1.5], "data_offsets": [0, 4]}}, b""), "no sound shape"),
        (safetensors({"a": entry(0, 4, [2**62, 2**62])}, bytes(4)), "takes 4 bytes, which its shape does not"),
        (b"PK\x03\x04 a zip file", "is a pickle under the name of safetensors and is refused: it can run code"),
        (pickle.dumps({"weight": [0.5] * 9}), "is a pickle under the name of safetensors and is refused"),
        (pickle.dumps({}, protocol=2) + bytes(8), "is a pickle under the name of safetensors and is refused"),
    ],
)
def test_a_malformed_header_is_refused_by_name(tmp_path: Path, content: bytes, want: str) -> None:
    (tmp_path / "m").write_bytes(content)
    with pytest.raises(InvalidModelError, match=r"^model\.safetensors") as caught:
        check_safetensors(tmp_path / "m", "model.safetensors")
    assert want in str(caught.value)


def test_a_header_of_many_megabytes_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "m").open("wb") as file:
        file.write(struct.pack("<Q", HEADER_LIMIT + 1))
        file.truncate(HEADER_LIMIT + 100)
    with pytest.raises(InvalidModelError, match="its header has"):
        check_safetensors(tmp_path / "m", "m")


def test_too_many_tensors_are_refused(tmp_path: Path) -> None:
    header = {f"t{i}": entry(0, 0, [0]) for i in range(TENSOR_LIMIT + 1)}
    (tmp_path / "m").write_bytes(safetensors(header, b""))
    with pytest.raises(InvalidModelError, match=f"more than {TENSOR_LIMIT}"):
        check_safetensors(tmp_path / "m", "m")


def test_every_single_cut_of_a_file_is_noticed(tmp_path: Path) -> None:
    for end in range(len(SOUND_FILE)):
        (tmp_path / "m").write_bytes(SOUND_FILE[:end])
        with pytest.raises(InvalidModelError):
            check_safetensors(tmp_path / "m", "m")


@pytest.mark.parametrize(
    ("config", "want"),
    [
        ({"auto_map": {"AutoModel": "code.Model"}}, "auto_map: code that comes with a model is never run"),
        ({"text_config": {"auto_map": {}}}, "text_config.auto_map"),
        ({"parts": [{"trust_remote_code": True}]}, "parts[0].trust_remote_code"),
        ({"_attn_implementation_internal": "x"}, "this key can load code from elsewhere"),
        ({"text_config": {"_experts_implementation_internal": "x"}}, "text_config._experts_implementation_internal"),
        ({"attn_implementation": "somebody/kernel"}, "this key can load code from elsewhere"),
    ],
)
def test_configuration_that_loads_code_is_refused_by_key(tmp_path: Path, config: Header, want: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", **config}))
    with pytest.raises(InvalidModelError, match=r"^pvc://m: config\.json: ") as caught:
        check_config(tmp_path / "config.json", "pvc://m: config.json")
    assert want in str(caught.value)


def test_harmless_configuration_passes(tmp_path: Path) -> None:
    config = {"model_type": "llama", "trust_remote_code": False, "attn_implementation": "sdpa"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert check_config(tmp_path / "config.json", "config.json") == config


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder with the files of a model; only names and headers matter here."""
    folder = tmp_path / "claim" / "tiny"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / "tokenizer.json").write_text("{}")
    (folder / "tokenizer_config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(SOUND_FILE)
    return folder


def check(folder: Path) -> list[TensorHeader]:
    return check_model_folder(folder, folder.parent, URI)


def test_a_sound_folder_gives_all_tensors(model: Path) -> None:
    assert [tensor.name for tensor in check(model)] == ["a", "b"]


def test_pickled_weights_beside_safetensors_are_left_alone(model: Path) -> None:
    (model / "pytorch_model.bin").write_bytes(b"x")
    check(model)


def _index(folder: Path, name: str) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))


def _only(suffix: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / "model.safetensors").rename(folder / f"weights{suffix}")

    return change


def _link_outside(folder: Path) -> None:
    outside = folder.parent.parent / "outside.safetensors"
    outside.write_bytes(SOUND_FILE)
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to(outside)


@pytest.mark.parametrize(
    ("change", "want_class", "want"),
    [
        *(
            (_only(suffix), InvalidModelError, f"weights{suffix} is refused: such files can run code when read")
            for suffix in (".bin", ".pt", ".pth", ".pkl", ".ckpt", ".distcp")
        ),
        (lambda m: (m / "config.json").unlink(), InvalidModelError, "has weights and no config.json"),
        (lambda m: (m / "tokenizer.json").unlink(), InvalidModelError, "has no tokenizer (tokenizer.json); it holds"),
        (lambda m: (m / "model.safetensors").unlink(), SourceNotFoundError, "holds no model (*.safetensors with"),
        (lambda m: (m / "adapter_config.json").write_text("{}"), InvalidModelError, "is a PEFT adapter, not a model"),
        (lambda m: (m / "config.json").write_text("{"), InvalidModelError, "config.json is not JSON"),
        (
            lambda m: (m / "tokenizer_config.json").write_text('{"auto_map": {"AutoTokenizer": "x"}}'),
            InvalidModelError,
            "tokenizer_config.json: auto_map",
        ),
        (_link_outside, InvalidModelError, "model.safetensors is a symbolic link that leaves its claim"),
        (lambda m: _index(m, "absent.safetensors"), InvalidModelError, "names 'absent.safetensors'"),
        (lambda m: _index(m, "../tiny/model.safetensors"), InvalidModelError, "names '../tiny/model.safetensors'"),
        (lambda m: (m / "model.safetensors").write_bytes(b"PK"), InvalidModelError, "model.safetensors is not a whole"),
    ],
)
def test_a_folder_that_cannot_be_used_names_the_file(
    model: Path, change: Callable[[Path], object], want_class: type[StageError], want: str
) -> None:
    change(model)
    with pytest.raises(want_class) as caught:
        check(model)
    assert str(caught.value).startswith(URI)
    assert want in str(caught.value)


def test_only_the_files_of_the_index_count(model: Path) -> None:
    (model / "other.safetensors").write_bytes(b"not one")
    _index(model, "model.safetensors")
    assert len(check(model)) == 2


def test_a_link_inside_the_claim_is_followed(model: Path) -> None:
    blobs = model.parent / "blobs"
    blobs.mkdir()
    (model / "model.safetensors").rename(blobs / "1")
    (model / "model.safetensors").symlink_to(blobs / "1")
    assert len(check(model)) == 2
