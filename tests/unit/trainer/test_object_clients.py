"""Keys and addresses of stores are judged before anything is asked for, and no key gets into a message."""

import json
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from finetune_trainer.errors import InvalidSpecError
from finetune_trainer.local_run import _environment
from finetune_trainer.object_clients import _authority, _azure_account, _first_line, open_store, output_environment

KEY = "a2V5"


@pytest.mark.parametrize(
    ("uri", "environment", "want"),
    [
        ("s3://b/k", {"AWS_ACCESS_KEY_ID": "a"}, "the Secret in credentials has no AWS_SECRET_ACCESS_KEY"),
        ("s3://b/k", {"AWS_SECRET_ACCESS_KEY": "a"}, "the Secret in credentials has no AWS_ACCESS_KEY_ID"),
        ("s3://b/k", {"AWS_ENDPOINT_URL": "minio"}, "AWS_ENDPOINT_URL is not an address, as in https://minio"),
        ("gs://b/k", {"STORAGE_EMULATOR_HOST": "gcs:4443"}, "STORAGE_EMULATOR_HOST is not an address"),
        ("gs://b/k", {"GOOGLE_CREDENTIALS": "{"}, "GOOGLE_CREDENTIALS is not the key of a service account"),
        ("gs://b/k", {"GOOGLE_CREDENTIALS": "[]"}, "GOOGLE_CREDENTIALS is not the key of a service account"),
        ("gs://b/k", {"GOOGLE_CREDENTIALS": '{"type": "external_account"}'}, "is not the key of a service account"),
        ("gs://b/k", {"GOOGLE_APPLICATION_CREDENTIALS": "/nowhere.json"}, "a Secret holds the content of that file as"),
        ("az://c/k", {}, "the account is not known: the Secret in credentials has neither AZURE_STORAGE_ACCOUNT nor"),
        ("az://c/k", {"AZURE_STORAGE_ACCOUNT": "a", "AZURE_STORAGE_KEY": "?"}, "AZURE_STORAGE_KEY is not the key of"),
        (
            "az://c/k",
            {"AZURE_STORAGE_ACCOUNT": "a", "AZURE_STORAGE_KEY": KEY, "AZURE_STORAGE_SAS_TOKEN": "sv=1"},
            "has both a key and a SAS token; keep one",
        ),
        (
            "az://c/k",
            {"AZURE_STORAGE_ACCOUNT": "a", "AZURE_STORAGE_SERVICE_ENDPOINT": "http://azurite:10000/b"},
            "the address http://azurite:10000/b does not end with the account a",
        ),
    ],
)
def test_keys_that_cannot_be_right_are_named(uri: str, environment: Mapping[str, str], want: str) -> None:
    with pytest.raises(InvalidSpecError) as caught:
        open_store(uri, environment)
    assert str(caught.value).startswith(f"{uri}: ")
    assert want in str(caught.value)


def test_a_token_beside_a_service_account_is_one_too_many(tmp_path: Path) -> None:
    account = json.dumps({"type": "service_account", "client_email": "a@b", "private_key": "k"})
    (tmp_path / "key.json").write_text(account)
    named = {"GOOGLE_APPLICATION_CREDENTIALS": str(tmp_path / "key.json"), "GOOGLE_OAUTH_ACCESS_TOKEN": "t"}
    with pytest.raises(InvalidSpecError, match="both GOOGLE_CREDENTIALS and GOOGLE_OAUTH_ACCESS_TOKEN; keep one"):
        open_store("gs://b/k", named)


STRING = f"DefaultEndpointsProtocol=https;AccountName=a;AccountKey={KEY}==;EndpointSuffix=core.example"


@pytest.mark.parametrize(
    ("environment", "want"),
    [
        ({"AZURE_STORAGE_ACCOUNT": "a"}, ("a", None, None, "https://a.blob.core.windows.net")),
        (
            {"AZURE_STORAGE_ACCOUNT_NAME": "a", "AZURE_STORAGE_ACCOUNT_KEY": KEY},
            ("a", KEY, None, "https://a.blob.core.windows.net"),
        ),
        (
            {"AZURE_STORAGE_ACCOUNT": "a", "AZURE_STORAGE_SAS_TOKEN": "sv=1"},
            ("a", None, "sv=1", "https://a.blob.core.windows.net"),
        ),
        ({"AZURE_STORAGE_CONNECTION_STRING": STRING}, ("a", f"{KEY}==", None, "https://a.blob.core.example")),
        (
            {
                "AZURE_STORAGE_CONNECTION_STRING": "BlobEndpoint=https://a.blob.core.windows.net;"
                "SharedAccessSignature=sv=1&sig=x%3D"
            },
            ("a", None, "sv=1&sig=x%3D", "https://a.blob.core.windows.net"),
        ),
    ],
)
def test_an_azure_account_is_known_by_the_variables_of_its_other_clients(
    environment: Mapping[str, str], want: tuple[str | None, ...]
) -> None:
    assert _azure_account(environment, "az://c/k") == want


@pytest.mark.parametrize(
    ("endpoint", "want"),
    [
        ("https://a.blob.core.windows.net", ".blob.core.windows.net"),
        ("https://a.blob.core.windows.net/", ".blob.core.windows.net"),
        ("http://127.0.0.1:10000/a", "127.0.0.1:10000"),
        ("http://azurite:10000/a/", "azurite:10000"),
    ],
)
def test_the_account_is_in_the_hosts_name_or_in_the_path(endpoint: str, want: str) -> None:
    assert _authority("a", urlsplit(endpoint), "az://c/k") == want


def test_a_token_in_an_address_gets_into_no_message() -> None:
    error = OSError(
        "GetProperties for 'https://a.blob.core.windows.net/c/k?sv=1&sig=secret' failed. 403 Forbidden\nmore"
    )
    assert _first_line(error) == "GetProperties for 'https://a.blob.core.windows.net/c/k' failed. 403 Forbidden"


def test_the_destination_has_keys_of_its_own() -> None:
    pod = {
        "AWS_ACCESS_KEY_ID": "of the data",
        "OUTPUT_AWS_ACCESS_KEY_ID": "of the output",
        "OUTPUT_AWS_REGION": "eu-west-1",
        "SSL_CERT_FILE": "/etc/authorities.pem",
        "HOME": "/tmp",
    }
    assert output_environment(pod) == {
        "AWS_ACCESS_KEY_ID": "of the output",
        "AWS_REGION": "eu-west-1",
        "SSL_CERT_FILE": "/etc/authorities.pem",
    }
    assert output_environment({"AWS_ACCESS_KEY_ID": "of the data"}) == {}


@pytest.mark.parametrize(
    ("own", "want"),
    [
        ({"AWS_REGION": "a", "HOME": "/h"}, {"OUTPUT_AWS_REGION": "a"}),
        ({"AWS_REGION": "a", "OUTPUT_DIR": "x"}, {"OUTPUT_AWS_REGION": "a"}),
        ({"AWS_REGION": "a", "OUTPUT_GOOGLE_OAUTH_ACCESS_TOKEN": "b"}, {}),
    ],
)
def test_without_kubernetes_the_same_keys_serve_sources_and_destination(
    own: dict[str, str], want: dict[str, str]
) -> None:
    assert _environment(own) == own | want
