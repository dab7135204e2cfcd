"""The pod of a stage: memory, mounts, environment and hardening, as the API server will see them."""

from typing import Any

import pytest

from builders import CONFIGURATION, make_job, make_plan
from finetune_api import names
from finetune_api.contract import StageRequest
from finetune_api.sizing import estimate_exports_bytes
from finetune_api.spec import Export, FineTuneJobSpec
from finetune_api.status import Stage
from finetune_operator.core.manifests.job import stage_job
from finetune_operator.core.manifests.network import network_policies
from finetune_operator.core.quantities import mebibytes, number

STAGES = [*Stage]


def pod_of_stage(stage: Stage, **spec: Any) -> dict[str, Any]:
    job = make_job().with_spec(**spec).obj()
    manifest = stage_job(job, FineTuneJobSpec.model_validate(job["spec"]), stage, 2, make_plan(), CONFIGURATION)
    template: dict[str, Any] = manifest["spec"]["template"]
    return template


@pytest.mark.parametrize("stage", STAGES)
def test_every_pod_is_hardened_and_holds_no_kubernetes_credentials(stage: Stage) -> None:
    pod = pod_of_stage(stage)["spec"]
    (container,) = pod["containers"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["enableServiceLinks"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_the_request_is_an_annotation_that_the_trainer_can_read() -> None:
    template = pod_of_stage(Stage.TRAIN, training={"learningRate": "5e-4"})
    request = StageRequest.model_validate_json(template["metadata"]["annotations"][names.ANNOTATION_REQUEST])
    assert (request.stage, request.attempt, request.job.name) == (Stage.TRAIN, 2, "support-bot")
    assert request.spec.training.learning_rate == pytest.approx(5e-4)


@pytest.mark.parametrize(
    ("stage", "want"),
    [(Stage.PREPARE, "4Gi"), (Stage.TRAIN, "24Gi"), (Stage.EVALUATE, "24Gi")],
)
def test_memory_is_what_the_user_gave_where_the_model_runs(stage: Stage, want: str) -> None:
    (container,) = pod_of_stage(stage, resources={"memory": "24Gi"})["spec"]["containers"]
    assert container["resources"]["requests"]["memory"] == container["resources"]["limits"]["memory"] == want


def test_memory_of_an_export_follows_from_parameters_and_formats() -> None:
    job = make_job().obj()
    plan = make_plan().model_copy(update={"exports": [Export(name="a", format="onnx", precision="int4")]})
    manifest = stage_job(job, FineTuneJobSpec.model_validate(job["spec"]), Stage.EXPORT, 1, plan, CONFIGURATION)
    (container,) = manifest["spec"]["template"]["spec"]["containers"]
    want = estimate_exports_bytes(plan.model.parameters, [("onnx", "int4")])
    assert number(container["resources"]["limits"]["memory"]) == pytest.approx(want, abs=2**20)


@pytest.mark.parametrize(("stage", "want"), [(s, s in (Stage.TRAIN, Stage.EVALUATE)) for s in STAGES])
def test_only_stages_that_run_the_model_ask_for_an_accelerator(stage: Stage, want: bool) -> None:
    (container,) = pod_of_stage(stage, resources={"accelerator": {"count": 1}})["spec"]["containers"]
    assert ("nvidia.com/gpu" in container["resources"]["limits"]) is want


def test_credentials_reach_prepare_alone_and_only_by_reference() -> None:
    spec = {"model": {"source": "hf://a/b", "credentials": {"secretRef": "hf-token"}}}
    found = {stage: pod_of_stage(stage, **spec)["spec"]["containers"][0]["envFrom"] for stage in STAGES}
    assert found == {
        Stage.PREPARE: [{"secretRef": {"name": "hf-token"}}],
        Stage.TRAIN: [],
        Stage.EVALUATE: [],
        Stage.EXPORT: [],
    }


def test_the_rows_of_every_adapter_are_mounted_and_their_secrets_reach_prepare() -> None:
    rows = [{"source": f"pvc://rows-{i}/t.jsonl", "credentials": {"secretRef": f"key-{i % 2}"}} for i in range(3)]
    adapters = [{"name": "billing", "dataset": rows[0], "eval": rows[1]}, {"name": "returns", "dataset": rows[2]}]
    job = make_job().with_spec(method={"adapters": adapters}).obj()
    job["spec"]["dataset"] = {}
    spec = FineTuneJobSpec.model_validate(job["spec"])
    pod = stage_job(job, spec, Stage.PREPARE, 1, None, CONFIGURATION)["spec"]["template"]["spec"]
    mounts = {m["mountPath"] for m in pod["containers"][0]["volumeMounts"]}
    assert {f"{names.CLAIMS_PATH}/{claim}" for claim in ("models", "rows-0", "rows-1", "rows-2")} <= mounts
    assert pod["containers"][0]["envFrom"] == [{"secretRef": {"name": f"key-{i}"}} for i in range(2)]
    assert len(network_policies(job, spec, CONFIGURATION)) == 1
    adapters[1]["dataset"] = {"source": "hf://a/b"}
    reaching = FineTuneJobSpec.model_validate({**job["spec"], "method": {"adapters": adapters}})
    assert len(network_policies(job, reaching, CONFIGURATION)) == 2


@pytest.mark.parametrize("stage", STAGES)
def test_keys_of_the_destination_reach_prepare_and_export_under_names_of_their_own(stage: Stage) -> None:
    keys = {"secretRef": "s3-read"}
    pod = pod_of_stage(
        stage,
        model={"source": "s3://models/tiny", "credentials": keys},
        output={"destination": "s3://models/bot", "credentials": {"secretRef": "s3-write"}},
    )["spec"]
    source = {"secretRef": {"name": "s3-read"}}
    output = {"prefix": "OUTPUT_", "secretRef": {"name": "s3-write"}}
    want = {Stage.PREPARE: [source, output], Stage.EXPORT: [output]}.get(stage, [])
    assert pod["containers"][0]["envFrom"] == want


@pytest.mark.parametrize("stage", STAGES)
def test_prepare_may_look_at_the_destination_and_only_export_write_to_it(stage: Stage) -> None:
    pod = pod_of_stage(stage, output={"destination": "pvc://published/bot"})["spec"]
    mounts = {m["mountPath"]: m.get("readOnly", False) for m in pod["containers"][0]["volumeMounts"]}
    assert mounts[f"{names.CLAIMS_PATH}/models"] is True
    assert mounts.get(f"{names.CLAIMS_PATH}/datasets") == {Stage.PREPARE: True}.get(stage)
    assert mounts.get(f"{names.CLAIMS_PATH}/published") == {Stage.PREPARE: True, Stage.EXPORT: False}.get(stage)


@pytest.mark.parametrize(("stage", "read_only"), [(Stage.PREPARE, True), (Stage.EXPORT, False)])
def test_a_claim_that_is_source_and_destination_is_mounted_once(stage: Stage, read_only: bool) -> None:
    pod = pod_of_stage(stage, output={"destination": "pvc://models/tuned"})["spec"]
    mounts = {m["mountPath"]: m.get("readOnly", False) for m in pod["containers"][0]["volumeMounts"]}
    assert mounts[f"{names.CLAIMS_PATH}/models"] is read_only
    assert len(mounts) == len(pod["containers"][0]["volumeMounts"])


def test_a_job_that_downloads_nothing_has_no_way_out() -> None:
    job = make_job().obj()
    (policy,) = network_policies(job, FineTuneJobSpec.model_validate(job["spec"]), CONFIGURATION)
    assert policy["spec"]["egress"] == []
    assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]


def test_a_prepare_that_downloads_gets_out_and_no_other_stage() -> None:
    job = make_job().with_spec(model={"source": "hf://a/b"}).obj()
    _, download = network_policies(job, FineTuneJobSpec.model_validate(job["spec"]), CONFIGURATION)
    assert download["spec"]["podSelector"]["matchLabels"][names.LABEL_STAGE] == "prepare"
    assert download["spec"]["egress"] == [{}]


@pytest.mark.parametrize("scheme", ["s3", "gs", "az"])
def test_an_export_into_a_bucket_gets_out_and_so_does_the_prepare_that_tries_it(scheme: str) -> None:
    job = make_job().with_spec(output={"destination": f"{scheme}://models/bot"}).obj()
    policies = network_policies(job, FineTuneJobSpec.model_validate(job["spec"]), CONFIGURATION)
    open_to = {
        policy["spec"]["podSelector"]["matchLabels"].get(names.LABEL_STAGE): policy["spec"]["egress"]
        for policy in policies
    }
    assert open_to == {None: [], "prepare": [{}], "export": [{}]}
    assert len({policy["metadata"]["name"] for policy in policies}) == 3


REPORTING = {
    "mlflow": {"trackingUri": "http://mlflow.tracking:5000/base", "secretRef": "mlflow-token"},
    "wandb": {"project": "support", "secretRef": "wandb-key"},
}


def test_later_stages_get_out_to_the_ports_of_the_tracking_servers_that_the_job_names() -> None:
    job = make_job().with_spec(reporting=REPORTING).obj()
    _, reporting = network_policies(job, FineTuneJobSpec.model_validate(job["spec"]), CONFIGURATION)
    [rule] = reporting["spec"]["egress"]
    assert [(port["protocol"], port["port"]) for port in rule["ports"]] == [
        ("UDP", 53),
        ("TCP", 53),
        ("TCP", 443),
        ("TCP", 5000),
    ]
    [stages] = reporting["spec"]["podSelector"]["matchExpressions"]
    assert stages == {"key": names.LABEL_STAGE, "operator": "NotIn", "values": ["prepare"]}


@pytest.mark.parametrize(
    ("stage", "want"),
    [
        (Stage.PREPARE, ["hub-token"]),
        (Stage.TRAIN, ["mlflow-token", "wandb-key"]),
        (Stage.EVALUATE, ["mlflow-token", "wandb-key"]),
        (Stage.EXPORT, ["mlflow-token", "wandb-key"]),
    ],
)
def test_a_stage_gets_the_secrets_that_it_needs_and_no_others(stage: Stage, want: list[str]) -> None:
    model = {"source": "hf://a/b", "credentials": {"secretRef": "hub-token"}}
    pod = pod_of_stage(stage, reporting=REPORTING, model=model)["spec"]
    assert [source["secretRef"]["name"] for source in pod["containers"][0]["envFrom"]] == want


@pytest.mark.parametrize("name", ["a", "a" * 253, "with.dots.in-it", "x" * 44 + "-" + "y" * 10])
def test_child_names_are_labels_that_leave_room_for_a_pods_suffix(name: str) -> None:
    job = make_job(name).obj()
    manifest = stage_job(job, FineTuneJobSpec.model_validate(job["spec"]), Stage.EVALUATE, 1000, None, CONFIGURATION)
    child = manifest["metadata"]["name"]
    assert len(child) <= 57
    assert all(len(value) <= 63 for value in manifest["metadata"]["labels"].values())
    assert "." not in child


@pytest.mark.parametrize(
    ("quantity", "want"),
    [("4", 4.0), ("1500m", 1.5), ("2Gi", 2 * 2**30), ("0.5Gi", 2**29), ("3M", 3e6), ("1Pi", 2**50), ("7k", 7000.0)],
)
def test_quantities_are_read_as_kubernetes_reads_them(quantity: str, want: float) -> None:
    assert number(quantity) == want
    assert number(mebibytes(want)) >= want
