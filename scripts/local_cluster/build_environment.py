"""What a build on this machine needs and the image must not hold: the host's certificates, package indexes, Debian
mirror and uv's cache.

All of it is mounted while the build runs; nothing is written into a layer.
"""

from __future__ import annotations

import configparser
import io
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from local_cluster import base_image
from local_cluster.command import run
from local_cluster.errors import CommandFailedError

# Where distributions keep the bundle; in the build it lies where Debian's programs look.
_BUNDLES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem")
_BUNDLE_IN_BUILD = "/etc/ssl/certs/ca-certificates.crt"
_WHEELS_IN_BUILD = "/wheels"
_UV_CACHE_IN_BUILD = "/root/.cache/uv"
_APT_CONF_IN_BUILD = "/etc/apt/apt.conf.d/90host"
_APT_KEYS = ("auth.conf.d", "keyrings", "trusted.gpg.d")
_KEYRINGS = Path("/usr/share/keyrings")
_OS_RELEASE = Path("/etc/os-release")
_PIP_SETTINGS = ("index-url", "extra-index-url", "trusted-host", "proxy", "default-timeout", "timeout", "retries")
_UV_SETTINGS = {
    "UV_INDEX_URL": "index-url",
    "UV_DEFAULT_INDEX": "index-url",
    "UV_EXTRA_INDEX_URL": "extra-index-url",
    "UV_INDEX": "extra-index-url",
}
_UV_LISTS = ("extra-index-url",)


@dataclass(frozen=True)
class Mount:
    """A file or folder of the host that a build sees."""

    source: Path
    target: str
    writable: bool = False

    def option(self) -> str:
        """What follows `--volume`."""
        return f"{self.source}:{self.target}:{'rw' if self.writable else 'ro'}"


def pip_configuration(listing: str) -> str:
    """The pip.conf for a build, from the output of `pip config list`; the environment wins over files, as in pip."""
    values: dict[str, str] = {}
    for line in sorted(listing.splitlines(), key=lambda line: line.startswith(":env:")):
        name, _, value = line.partition("=")
        setting = name.rpartition(".")[2]
        if setting in _PIP_SETTINGS:
            values[setting] = value.strip("'\"")
    configuration = configparser.RawConfigParser()
    configuration["global"] = values | {"cert": _BUNDLE_IN_BUILD}
    text = io.StringIO()
    configuration.write(text)
    return text.getvalue()


def uv_configuration(environment: Mapping[str, str]) -> str:
    """The uv.toml for a build, from the UV_* settings of the host. Its certificates are those of the mounted bundle."""
    lines = ["system-certs = true"]
    settings = {target: environment[name] for name, target in _UV_SETTINGS.items() if environment.get(name)}
    for name, value in settings.items():
        rendered = json.dumps(value.split()) if name in _UV_LISTS else json.dumps(value)
        lines.append(f"{name} = {rendered}")
    return "\n".join(lines) + "\n"


def uv_cache(environment: Mapping[str, str]) -> Path:
    """The host's uv cache: what was downloaded for the host is not downloaded again."""
    home = Path(environment.get("HOME") or Path.home())
    default = Path(environment.get("XDG_CACHE_HOME") or home / ".cache") / "uv"
    return Path(environment.get("UV_CACHE_DIR") or default)


def mounts(folder: Path, environment: Mapping[str, str] = os.environ) -> list[Mount]:
    """Everything a build sees of this host; files made for it are written into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "pip.conf").write_text(pip_configuration(_pip_config_list()))
    (folder / "uv.toml").write_text(uv_configuration(environment))
    cache = uv_cache(environment)
    cache.mkdir(parents=True, exist_ok=True)
    found = [
        Mount(folder / "pip.conf", "/etc/pip.conf"),
        Mount(folder / "uv.toml", "/etc/uv/uv.toml"),
        Mount(cache, _UV_CACHE_IN_BUILD, writable=True),
    ]
    found += [Mount(bundle, _BUNDLE_IN_BUILD) for bundle in map(Path, _BUNDLES) if bundle.exists()][:1]
    wheels = _wheels(environment)
    return [*found, *_apt(folder), *([Mount(wheels, _WHEELS_IN_BUILD)] if wheels else [])]


def _apt(folder: Path) -> list[Mount]:
    """Where this host gets Debian's packages and how, if it runs the distribution of the base image.

    Other sources of the host are left out: an image must not depend on what a developer has added.
    """
    if f"VERSION_CODENAME={base_image.SUITE}\n" not in _text(_OS_RELEASE):
        return []
    made = folder / "apt"
    for name in base_image.HOST_SOURCES:
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        (made / name).write_text(_text(base_image.APT / name))
    (folder / "apt.conf").write_text(run(["apt-config", "dump", "Acquire"]))
    mounted = [Mount(made / name, f"/etc/apt/{name}") for name in ("sources.list", "sources.list.d")]
    keys = [path for path in (*(base_image.APT / name for name in _APT_KEYS), _KEYRINGS) if path.is_dir()]
    return [*mounted, Mount(folder / "apt.conf", _APT_CONF_IN_BUILD), *(Mount(path, str(path)) for path in keys)]


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def wheel_names(environment: Mapping[str, str] = os.environ) -> list[str]:
    """Files in the folder of wheels that TORCH_WHEELS names."""
    wheels = _wheels(environment)
    return sorted(path.name for path in wheels.iterdir()) if wheels else []


def _wheels(environment: Mapping[str, str]) -> Path | None:
    wheels = environment.get("TORCH_WHEELS")
    return Path(wheels).resolve() if wheels and Path(wheels).is_dir() else None


def _pip_config_list() -> str:
    try:
        return run([sys.executable, "-m", "pip", "config", "list"])
    except CommandFailedError:  # a Python without pip has no pip settings
        return ""
