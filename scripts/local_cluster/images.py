"""Builds images from our Dockerfiles and brings them to a registry: with Docker where it answers, else with buildah.

`build` and `load` are the interface for other Python programs.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from local_cluster import base_image, build_environment, image_sources, images_store, layer_upload, locations, packages
from local_cluster.command import logged, run, succeeds
from local_cluster.errors import LocalClusterError
from local_cluster.image_reference import Builder, ImageRef
from local_cluster.lock import shared
from local_cluster.progress import step

REPOSITORY_ROOT = Path(__file__).resolve().parents[2]
STEPS_KEPT = timedelta(days=3)
"""How long steps of builds are kept to be found again: a change of the trainer's dependencies leaves 4 GB of them."""


def build(
    dockerfile: Path,
    tag: str,
    build_args: Mapping[str, str] | None = None,
    context: Path = REPOSITORY_ROOT,
) -> ImageRef:
    """Builds an image and keeps it in its builder's store."""
    if not dockerfile.is_file():
        raise LocalClusterError(f"there is no Dockerfile {dockerfile}")
    arguments = dict(build_args or {})
    if docker_answers():
        with step(f"building image {tag} from {dockerfile}"):
            logged(docker_command(dockerfile, tag, arguments, context), build_log(tag))
        return ImageRef(tag, Builder.DOCKER)
    with shared(locations.from_environment().images_lock):
        _build_unless_current(dockerfile, tag, arguments, context)
    return ImageRef(qualified(tag), Builder.BUILDAH)


def load(image: ImageRef | str) -> str:
    """Makes an image available to the pods of the chosen cluster; returns the reference that they use."""
    from local_cluster import clusters  # the clusters need this module, too

    return clusters.chosen().load(image if isinstance(image, ImageRef) else reference(image))


def reference(tag: str) -> ImageRef:
    """An image that was built earlier, by whichever builder is used here."""
    return ImageRef(tag, Builder.DOCKER) if docker_answers() else ImageRef(qualified(tag), Builder.BUILDAH)


def qualified(tag: str) -> str:
    """The tag with a registry: buildah calls an image without one localhost/..., Docker does not."""
    first, slash, _ = tag.partition("/")
    has_registry = slash and ("." in first or ":" in first or first == "localhost")
    return tag if has_registry else f"localhost/{tag}"


def build_log(tag: str) -> Path:
    """Where the output of an image's last build lies."""
    return locations.from_environment().cache / "logs" / f"build-{tag.replace('/', '-').replace(':', '-')}.log"


def docker_answers() -> bool:
    """Whether a Docker engine can be used here."""
    return succeeds(["docker", "info"])


def docker_command(dockerfile: Path, tag: str, build_args: Mapping[str, str], context: Path) -> list[str]:
    """The `docker build` call."""
    return ["docker", "build", "--tag", tag, "--file", str(dockerfile), *_arguments(build_args), str(context)]


def buildah_arguments(
    dockerfile: Path,
    tag: str,
    build_args: Mapping[str, str],
    context: Path,
    mounts: Sequence[build_environment.Mount],
) -> list[str]:
    """The `buildah build` call: in a chroot, which needs no container runtime; layers are kept for the next one."""
    volumes = [word for mount in mounts for word in ("--volume", mount.option())]
    return [
        "build",
        "--isolation=chroot",
        "--network=host",
        "--layers",
        "--format=oci",
        f"--tag={tag}",
        f"--file={dockerfile}",
        *volumes,
        *_arguments(build_args),
        str(context),
    ]


def push(image: ImageRef, registry: str, *, plain_http: bool = False) -> str:
    """Pushes an image and returns its reference by digest."""
    target = f"{registry}/{image.repository}"
    with step(f"pushing {image.tag} to {registry}"):
        if image.builder is Builder.DOCKER:
            return _push_with_docker(image, f"{target}:{image.version}")
        with shared(locations.from_environment().images_lock):
            return f"{target}@{_push_with_buildah(image, f'{target}:{image.version}', plain_http)}"


def _build_unless_current(dockerfile: Path, tag: str, build_args: dict[str, str], context: Path) -> None:
    packages.ensure(packages.IMAGES)
    store = images_store.of(locations.from_environment())
    settings = {**build_args, "wheels": ",".join(build_environment.wheel_names())}
    sources = image_sources.digest(dockerfile, context, settings)
    if not image_sources.is_current(store, qualified(tag), sources):
        with step(f"building image {tag} from {dockerfile}"):
            _build_with_buildah(store, dockerfile, tag, build_args, context)
            store.prune(datetime.now(UTC) - STEPS_KEPT)
        image_sources.remember(store, qualified(tag), sources)


def _build_with_buildah(
    store: images_store.Store, dockerfile: Path, tag: str, build_args: dict[str, str], context: Path
) -> None:
    choosable = base_image.wanted_by(dockerfile.read_text()) and base_image.ARGUMENT not in build_args
    if choosable and not base_image.hub_answers():
        build_args[base_image.ARGUMENT] = base_image.ensure(store)
    with tempfile.TemporaryDirectory(prefix="image-build-") as folder:
        mounts = build_environment.mounts(Path(folder))
        store.logged(build_log(tag), *buildah_arguments(dockerfile, qualified(tag), build_args, context, mounts))


def _push_with_buildah(image: ImageRef, target: str, plain_http: bool) -> str:
    store = images_store.of(locations.from_environment())
    if not store.has(image.tag):
        raise LocalClusterError(
            f"there is no image {image.tag}; build it first: local_cluster build --file ... {image.tag}"
        )
    if plain_http:
        registry, _, repository = target.partition("/")
        layer_upload.seed(store, image.tag, registry, repository.partition(":")[0])
    with tempfile.NamedTemporaryFile(prefix="digest-") as digest:
        security = [f"--tls-verify={str(not plain_http).lower()}"]
        store.buildah("push", *security, f"--digestfile={digest.name}", image.tag, f"docker://{target}")
        return Path(digest.name).read_text().strip()


def _push_with_docker(image: ImageRef, target: str) -> str:
    run(["docker", "tag", image.tag, target])
    run(["docker", "push", "--quiet", target])
    return run(["docker", "inspect", "--format", "{{index .RepoDigests 0}}", target]).strip()


def _arguments(build_args: Mapping[str, str]) -> list[str]:
    return [word for name, value in build_args.items() for word in ("--build-arg", f"{name}={value}")]
