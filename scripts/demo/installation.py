"""Puts the operator into the chosen cluster: both images from their own Dockerfiles, then the Helm chart."""

from dataclasses import dataclass
from pathlib import Path

from demo.kubectl import Kubectl
from local_cluster import images
from local_cluster.progress import step

ROOT = Path(__file__).resolve().parents[2]
RELEASE = "finetune-operator"
NAMESPACE = "finetune-system"


@dataclass(frozen=True)
class Images:
    """References that pods use."""

    operator: str
    trainer: str


def make_images() -> Images:
    """Build and load both images; what has not changed is not built again."""
    built = [
        images.build(ROOT / folder / "Dockerfile", f"{name}:dev")
        for folder, name in (("operator", "finetune-operator"), ("trainer-image", "finetune-trainer"))
    ]
    operator, trainer = (images.load(image) for image in built)
    return Images(operator, trainer)


def install(kubectl: Kubectl, made: Images, *values: str) -> None:
    """Install or upgrade the chart and wait until the operator is ready."""
    settings = [
        f"--set={value}" for value in (*_image("image", made.operator), *_image("trainer.image", made.trainer), *values)
    ]
    with step("installing the chart"):
        kubectl.helm(
            "upgrade",
            "--install",
            RELEASE,
            str(ROOT / "charts" / RELEASE),
            f"--namespace={NAMESPACE}",
            "--create-namespace",
            "--wait",
            "--timeout=180s",
            *settings,
        )


def _image(key: str, reference: str) -> tuple[str, ...]:
    name, at, digest = reference.partition("@")
    if at:
        return (f"{key}.repository={name}", f"{key}.digest={digest}")
    repository, _, tag = name.rpartition(":")
    return (f"{key}.repository={repository}", f"{key}.tag={tag}")
