"""Keys of objects become names of files, and no key may lead out of the folder that it is copied into."""

import pytest

from finetune_trainer.errors import SourceNotFoundError
from finetune_trainer.object_store import _relative, is_object_uri


@pytest.mark.parametrize(
    ("key", "want"),
    [("data/set/train.jsonl", "train.jsonl"), ("data/set/a/b.jsonl", "a/b.jsonl"), ("data/set", "")],
)
def test_a_key_is_named_below_its_prefix(key: str, want: str) -> None:
    assert _relative(key, "data/set", "s3://data/set") == want


@pytest.mark.parametrize("name", ["../x.jsonl", "a/../../x.jsonl", "a//b.jsonl", "./x", "..\\x.jsonl", "a\0b"])
def test_a_key_that_leads_out_of_its_folder_is_refused(name: str) -> None:
    with pytest.raises(SourceNotFoundError, match="would lie outside of its folder; rename it"):
        _relative(f"data/set/{name}", "data/set", "s3://data/set")


def test_only_known_schemes_are_buckets() -> None:
    uris = ("s3://a/b", "gs://a/b", "az://a/b", "hf://a/b", "pvc://a/b", "")
    assert [is_object_uri(uri) for uri in uris] == [True, True, True, False, False, False]
