"""Every auto of the plan, as tables. Pure: no model, no file, no machine."""

from dataclasses import replace
from typing import Any

import pytest

from finetune_api.status import DatasetReport, Plan
from finetune_trainer.errors import InsufficientMemoryError, InvalidSpecError
from finetune_trainer.models.inspection import LinearLayer, ModelFacts
from finetune_trainer.planning.duration import START_SECONDS
from finetune_trainer.planning.facts import DataFacts, Machine, ModelOrigin
from finetune_trainer.planning.packing import packed_count
from finetune_trainer.planning.resolve import resolve
from trainer_requests import make_spec

GIB = 2**30
LAYERS = tuple(
    LinearLayer(f"model.layers.{i}.{name}", 576, 576)
    for i in range(2)
    for name in ("self_attn.q_proj", "self_attn.v_proj", "mlp.up_proj")
)
FACTS = ModelFacts(
    architecture="LlamaForCausalLM",
    parameters=135_000_000,
    context_length=2048,
    hidden_size=576,
    intermediate_size=1536,
    layers=30,
    vocabulary=49152,
    heads=9,
    query_width=576,
    key_value_width=192,
    caps_attention=False,
    linear_layers=LAYERS,
    module_elements={"lm_head": 1000, "model.norm": 576, **{layer.name: 100 for layer in LAYERS}},
    other_modules=("lm_head", "model.norm"),
)
CPU = Machine(accelerator=False, cpu_bf16=False, memory_limit=None)
GPU = Machine(accelerator=True, cpu_bf16=False, memory_limit=16 * GIB)


def data(
    rows: int = 1000, longest: int = 100, *, eval_rows: int = 50, fmt: str = "messages", distinct: int = 51
) -> DataFacts:
    report = DatasetReport.model_validate({"format": fmt, "train_rows": rows, "eval_rows": eval_rows})
    return DataFacts(report, [longest, *[10] * (rows - 1)], "assistant", distinct, 0.5)


def plan(facts: ModelFacts = FACTS, rows: DataFacts | None = None, machine: Machine = CPU, **spec: Any) -> Plan:
    return resolve(make_spec(**spec), ModelOrigin("pvc://m", "", "sha256:0"), facts, rows or data(), machine)


@pytest.mark.parametrize(
    ("method", "parameters", "want"),
    [
        ("lora", 135_000_000, 5e-4),
        ("lora", 1_700_000_000, 3e-4),
        ("lora", 8_000_000_000, 2e-4),
        ("full", 135_000_000, 5e-5),
        ("full", 1_700_000_000, 2e-5),
        ("full", 8_000_000_000, 1e-5),
        ("qlora", 8_000_000_000, 2e-4),
        ("dora", 135_000_000, 5e-4),
        ("adapter", 135_000_000, 1e-2),
    ],
)
def test_the_learning_rate_follows_from_method_and_size(method: str, parameters: int, want: float) -> None:
    facts = replace(FACTS, parameters=parameters)
    assert plan(facts, method={"type": method}).training.learning_rate == want


@pytest.mark.parametrize(
    ("objective", "method", "want"),
    [
        ("dpo", "lora", 5e-5),
        ("dpo", "full", 5e-6),
        ("kto", "qlora", 5e-5),
        ("kto", "adapter", 1e-3),
        ("orpo", "dora", 2e-4),
        ("orpo", "full", 2e-5),
        ("pretrain", "full", 5e-5),
        ("pretrain", "lora", 5e-4),
    ],
)
def test_the_learning_rate_follows_from_the_objective_too(objective: str, method: str, want: float) -> None:
    task = "completion" if objective == "pretrain" else "preference"
    assert plan(task=task, training={"objective": objective}, method={"type": method}).training.learning_rate == want


def test_kto_keeps_a_batch_that_its_divergence_can_be_estimated_on() -> None:
    small = data(rows=20)
    sizes = [plan(rows=small, task="preference", training={"objective": o}).training.batch_size for o in ("dpo", "kto")]
    assert sizes == [1, 8]
    asked = plan(rows=small, task="preference", training={"objective": "kto", "batchSize": 2})
    assert asked.training.batch_size == 2


def test_a_pair_is_two_sequences_in_memory_and_in_the_micro_batch() -> None:
    one, two = (plan(rows=data(longest=500), task="preference", training={"objective": o}) for o in ("kto", "dpo"))
    assert (one.training.micro_batch_size, two.training.micro_batch_size) == (2, 1)
    assert (one.memory.activations, one.memory.logits) == (two.memory.activations, two.memory.logits)
    assert two.metrics == ["eval_loss", "accuracy"]


@pytest.mark.parametrize(
    ("rows", "dataset", "want_length", "want_packing"),
    [
        (data(1000, fmt="text"), {}, 504, True),
        (data(100_000, fmt="text"), {}, 2048, True),
        (data(1000, longest=1500, fmt="text"), {}, 1536, True),
        (data(1000, fmt="text"), {"maxLength": 256}, 256, True),
        (data(1000, fmt="text"), {"packing": False}, 104, False),
    ],
)
def test_pretraining_puts_texts_into_the_longest_sequences_that_leave_enough_steps(
    rows: DataFacts, dataset: dict[str, Any], want_length: int, want_packing: bool
) -> None:
    source = {"train": {"source": "pvc://data/train.jsonl"}}
    got = plan(rows=rows, task="completion", training={"objective": "pretrain"}, dataset=source | dataset).training
    assert (got.max_length, got.packing) == (want_length, want_packing)


@pytest.mark.parametrize(
    ("rows", "want_batch", "want_micro"),
    [(10, 1, 1), (60, 2, 2), (100, 4, 4), (200, 8, 8), (1000, 16, 8), (100_000, 16, 8)],
)
def test_a_small_dataset_gets_a_small_batch_and_so_enough_steps(rows: int, want_batch: int, want_micro: int) -> None:
    training = plan(rows=data(rows)).training
    assert (training.batch_size, training.micro_batch_size) == (want_batch, want_micro)
    assert training.gradient_accumulation_steps * training.micro_batch_size == training.batch_size


@pytest.mark.parametrize(
    ("longest", "machine", "want"), [(100, CPU, 8), (250, CPU, 4), (500, CPU, 2), (1000, CPU, 1), (1000, GPU, 16)]
)
def test_long_rows_lower_the_micro_batch_and_not_the_batch(longest: int, machine: Machine, want: int) -> None:
    training = plan(rows=data(longest=longest), machine=machine).training
    assert (training.batch_size, training.micro_batch_size) == (16, want)


@pytest.mark.parametrize(
    ("training", "want"),
    [
        ({"batchSize": 6}, (6, 6, 1)),
        ({"batchSize": 12}, (12, 6, 2)),
        ({"microBatchSize": 3}, (18, 3, 6)),
        ({"microBatchSize": 32}, (32, 32, 1)),
        ({"batchSize": 8, "microBatchSize": 2}, (8, 2, 4)),
        ({"batchSize": 7}, (7, 7, 1)),
    ],
)
def test_given_batch_sizes_are_kept(training: dict[str, int], want: tuple[int, int, int]) -> None:
    got = plan(training=training).training
    assert (got.batch_size, got.micro_batch_size, got.gradient_accumulation_steps) == want


def test_ia3_sits_on_keys_values_and_the_end_of_the_mlp_and_has_no_rank() -> None:
    names = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.up_proj", "mlp.down_proj")
    layers = tuple(
        LinearLayer(f"model.layers.0.{name}", 1536 if "down" in name else 576, 1536 if "up" in name else 576)
        for name in names
    )
    got = plan(replace(FACTS, linear_layers=layers), method={"type": "adapter"})
    assert got.method.target_modules == ["down_proj", "k_proj", "v_proj"]
    assert (got.method.rank, got.method.alpha) == (None, None)
    assert got.model.trainable_parameters == 1536 + 576 + 576


@pytest.mark.parametrize("targets", ["auto", ".*c_attn", ["c_attn"]])
def test_a_model_without_linear_layers_has_nothing_to_adapt(targets: Any) -> None:
    facts = replace(FACTS, linear_layers=(), other_modules=("h.0.c_attn",))
    with pytest.raises(InvalidSpecError, match="finds no layer to adapt in LlamaForCausalLM; use full"):
        plan(facts, method={"targetModules": targets})


def test_ia3_without_such_layers_asks_for_their_names() -> None:
    facts = replace(FACTS, linear_layers=(LinearLayer("layers.0.attn.wq", 576, 576),))
    with pytest.raises(
        InvalidSpecError, match=r"finds no layer to adapt in LlamaForCausalLM; name method.targetModules"
    ):
        plan(facts, method={"type": "adapter"})


def test_a_quantized_base_must_fit_unquantized_where_it_is_evaluated() -> None:
    layers = tuple(LinearLayer(f"model.layers.{i}.self_attn.q_proj", 2**12, 2**12) for i in range(64))
    facts = replace(FACTS, parameters=2**30 + 2**20, linear_layers=layers)
    small = replace(CPU, memory_limit=3 * GIB)
    with pytest.raises(InsufficientMemoryError, match=r"evaluated on the unquantized base.* resources.memory to 6Gi"):
        plan(facts, machine=small, method={"type": "qlora"})
    assert plan(facts, data(eval_rows=0), small, method={"type": "qlora"}).memory.weights < GIB


def test_the_constant_scheduler_has_no_warm_up() -> None:
    training = {"maxSteps": 100, "warmupRatio": 0.1}
    assert plan(training={**training, "scheduler": "constant"}).training.warmup_steps == 0
    assert plan(training={**training, "scheduler": "constant_with_warmup"}).training.warmup_steps == 10


def test_batch_sizes_that_do_not_divide_name_the_nearest() -> None:
    with pytest.raises(InvalidSpecError, match=r"batchSize: 10 is not a multiple of .*: 4; set batchSize to 8 or 12"):
        plan(training={"batchSize": 10, "microBatchSize": 4})


@pytest.mark.parametrize(
    ("longest", "asked", "want"),
    [
        (7, "auto", 16),
        (100, "auto", 104),
        (513, "auto", 576),
        (2048, "auto", 2048),
        (2040, "auto", 2048),
        (9, 512, 512),
    ],
)
def test_the_length_is_that_of_the_longest_row_rounded_up(longest: int, asked: Any, want: int) -> None:
    dataset = {"train": {"source": "pvc://d/t.jsonl"}, "maxLength": asked}
    assert plan(rows=data(longest=longest), dataset=dataset).training.max_length == want


def test_rounding_up_stays_within_the_context() -> None:
    assert plan(replace(FACTS, context_length=2000), data(longest=1990)).training.max_length == 2000


@pytest.mark.parametrize(
    ("asked", "machine", "want"),
    [
        ("auto", CPU, "fp32"),
        ("auto", replace(CPU, cpu_bf16=True), "bf16"),
        ("auto", GPU, "bf16"),
        ("bf16", CPU, "bf16"),
        ("fp32", GPU, "fp32"),
        ("fp16", GPU, "fp16"),
    ],
)
def test_precision_follows_from_what_the_machine_is_fast_at(asked: str, machine: Machine, want: str) -> None:
    assert plan(machine=machine, training={"precision": asked}).training.precision == want


@pytest.mark.parametrize(
    ("spec", "want"),
    [
        ({"training": {"precision": "fp16"}}, "training.precision: fp16 needs an accelerator"),
        ({"model": {"source": "pvc://m", "attention": "flash"}}, "model.attention: flash needs an accelerator"),
        ({"method": {"targetModules": ["q_prj"]}}, r"no linear layer 'q_prj'; did you mean q_proj\?"),
        ({"method": {"targetModules": "nothing.*"}}, "matches no linear layer; full names look like model.layers.0"),
        ({"method": {"targetModules": "("}}, "is not a regular expression"),
        (
            {"method": {"targetModules": ".*(q_proj|lm_head)"}},
            r"matches lm_head too, .* \(1 such modules",
        ),
        (
            {"method": {"rank": 1024, "initialization": "pissa"}},
            r"method.rank: 1024 is more than the 576 channels of model.layers.0.self_attn.q_proj.*set rank to 576",
        ),
        (
            {"method": {"type": "full", "targetModules": ["q_proj"]}},
            "method.targetModules belongs to an adapter; with type: full remove it",
        ),
        (
            {"training": {"earlyStopping": {"metric": "accuracy"}}},
            "training.earlyStopping.metric must be one of eval_loss, perplexity, not accuracy",
        ),
        ({"rows": data(eval_rows=0), "training": {"earlyStopping": {}}}, "earlyStopping needs held-out rows"),
        ({"method": {"modulesToSave": ["head"]}}, r"has no module 'head'; it has .*lm_head"),
        ({"evaluation": {"metrics": ["bleurt"]}}, "evaluation.metrics: bleurt is not a metric of task chat"),
    ],
)
def test_what_cannot_be_resolved_names_the_field(spec: dict[str, Any], want: str) -> None:
    with pytest.raises(InvalidSpecError, match=want):
        plan(**spec)


@pytest.mark.parametrize(
    ("asked", "caps", "want"),
    [("auto", False, "sdpa"), ("auto", True, "eager"), ("sdpa", True, "sdpa"), ("eager", False, "eager")],
)
def test_attention_is_sdpa_unless_the_model_caps_its_scores(asked: str, caps: bool, want: str) -> None:
    facts = replace(FACTS, caps_attention=caps)
    assert plan(facts, model={"source": "pvc://m", "attention": asked}).training.attention == want


@pytest.mark.parametrize(
    ("targets", "want", "want_layers"),
    [
        ("auto", ["q_proj", "up_proj", "v_proj"], 6),
        (["v_proj", "q_proj"], ["v_proj", "q_proj"], 4),
        (["self_attn.q_proj"], ["self_attn.q_proj"], 2),
        (r".*\.0\.self_attn\.[qv]_proj", ["q_proj", "v_proj"], 2),
    ],
)
def test_target_modules_become_names(targets: Any, want: list[str], want_layers: int) -> None:
    got = plan(method={"rank": 8, "targetModules": targets})
    assert got.method.target_modules == want
    assert got.model.trainable_parameters == want_layers * 8 * (576 + 576)


def test_modules_saved_whole_count_as_trained() -> None:
    want = 6 * 16 * (576 + 576) + 1000
    assert plan(method={"modulesToSave": ["lm_head"]}).model.trainable_parameters == want


def test_full_tuning_trains_everything_and_has_no_adapter() -> None:
    got = plan(method={"type": "full"})
    assert got.model.trainable_parameters == FACTS.parameters
    assert (got.method.rank, got.method.target_modules) == (None, [])


@pytest.mark.parametrize(
    ("training", "rows", "want_steps", "want_epochs", "want_warmup"),
    [
        ({"batchSize": 16}, 1000, 189, 3, 6),
        ({"batchSize": 16, "epochs": 1}, 1000, 63, 1, 2),
        ({"batchSize": 16, "epochs": 0.5}, 1000, 32, 0.5, 1),
        ({"batchSize": 16, "epochs": 0.001}, 1000, 1, 0.001, 0),
        ({"batchSize": 16, "maxSteps": 7}, 1000, 7, 7 / 63, 0),
        ({"batchSize": 16, "maxSteps": 1, "warmupRatio": 0.9}, 1000, 1, 1 / 63, 0),
        ({"batchSize": 16, "warmupRatio": 0}, 10, 3, 3, 0),
    ],
)
def test_steps_follow_from_rows_and_batch(
    training: dict[str, Any], rows: int, want_steps: int, want_epochs: float, want_warmup: int
) -> None:
    got = plan(rows=data(rows), training=training).training
    assert (got.total_steps, got.epochs, got.warmup_steps) == (want_steps, want_epochs, want_warmup)


@pytest.mark.parametrize(
    ("eval_rows", "want_eval_every"),
    [(1, 10), (20, 10), (80, 20), (200, 50), (400, 100), (100_000, 100)],
)
def test_evaluations_take_at_most_a_tenth_of_the_training_time(eval_rows: int, want_eval_every: int) -> None:
    got = plan(rows=data(eval_rows=eval_rows), training={"maxSteps": 100, "batchSize": 16}).training
    assert got.eval_every == want_eval_every


@pytest.mark.parametrize(
    ("training", "eval_rows", "want"),
    [
        ({"maxSteps": 480}, 50, (10, 50, 50)),
        ({"maxSteps": 480}, 0, (10, 0, 50)),
        ({"maxSteps": 5}, 50, (5, 5, 5)),
        ({"maxSteps": 25}, 10, (10, 10, 10)),
        ({"maxSteps": 1}, 50, (1, 1, 1)),
        ({"maxSteps": 100, "evalEvery": 7}, 50, (10, 7, 10)),
        ({"maxSteps": 100, "checkpointEvery": 25}, 10, (5, 10, 25)),
        ({"maxSteps": 100, "checkpointEvery": 500}, 10, (10, 10, 100)),
    ],
)
def test_every_checkpoint_falls_on_a_logged_step(
    training: dict[str, Any], eval_rows: int, want: tuple[int, int, int]
) -> None:
    got = plan(rows=data(eval_rows=eval_rows), training=training).training
    assert (got.log_every, got.eval_every, got.checkpoint_every) == want
    assert got.checkpoint_every % got.log_every == 0


@pytest.mark.parametrize(
    ("task", "rows", "evaluation", "want"),
    [
        ("chat", data(), {}, ["eval_loss", "perplexity", "rougeL"]),
        ("chat", data(distinct=8), {}, ["eval_loss", "perplexity", "exact-match"]),
        ("completion", data(fmt="text"), {}, ["eval_loss", "perplexity"]),
        ("summarization", data(), {}, ["eval_loss", "perplexity", "rouge1", "rouge2", "rougeL"]),
        ("chat", data(), {"metrics": ["bleu"]}, ["bleu"]),
        ("chat", data(), {"metrics": ["bleu"], "gates": [{"metric": "rouge1", "atLeast": 1}]}, ["bleu", "rouge1"]),
        ("extraction", data(distinct=3), {}, ["eval_loss", "perplexity", "json-valid", "f1", "exact-match"]),
        ("chat", data(eval_rows=0), {}, []),
    ],
)
def test_metrics_follow_from_task_and_rows(
    task: str, rows: DataFacts, evaluation: dict[str, Any], want: list[str]
) -> None:
    assert plan(rows=rows, task=task, evaluation=evaluation).metrics == want


def test_a_metric_of_answers_is_refused_for_rows_without_answers() -> None:
    with pytest.raises(InvalidSpecError, match="rouge1 compares answers, and rows of format text have none"):
        plan(rows=data(fmt="text"), evaluation={"metrics": ["rouge1"]})


def test_gates_without_held_out_rows_are_refused() -> None:
    with pytest.raises(InvalidSpecError, match=r"evaluation\.gates needs held-out rows"):
        plan(rows=data(eval_rows=0), evaluation={"gates": [{"metric": "eval_loss", "atMost": 1}]})


def test_exports_default_to_what_the_method_makes() -> None:
    assert [(e.name, e.format) for e in plan().exports] == [("adapter", "peft"), ("merged", "safetensors")]
    assert [(e.name, e.format) for e in plan(method={"type": "full"}).exports] == [("model", "safetensors")]
    asked = [{"name": "only", "format": "onnx"}]
    assert [(e.name, e.format) for e in plan(exports=asked).exports] == [("only", "onnx")]


def test_the_same_facts_give_the_same_plan() -> None:
    assert plan() == plan()


@pytest.mark.parametrize(
    ("dataset", "same"), [({"maxLength": 1024}, True), ({"maxLength": 1024, "packing": True}, False)]
)
def test_rows_shorter_than_the_greatest_length_take_the_memory_of_their_own(
    dataset: dict[str, Any], same: bool
) -> None:
    rows = data(longest=250)
    train = {"train": {"source": "pvc://d/train.jsonl"}}
    roomy, exact = (plan(rows=rows, dataset={**train, **asked}) for asked in (dataset, {"maxLength": 250}))
    assert roomy.training.max_length == 1024
    assert (roomy.memory == exact.memory) is same
    assert (roomy.training.micro_batch_size == exact.training.micro_batch_size) is same


def test_less_memory_lowers_the_micro_batch_then_recomputes_activations() -> None:
    rows = data(longest=2000)
    ample = plan(rows=data(longest=125)).memory
    tight = replace(CPU, memory_limit=ample.estimated_bytes - 1)
    assert plan(rows=data(longest=125), machine=tight).training.micro_batch_size == 4
    alone = plan(rows=rows, training={"microBatchSize": 1}).memory
    tighter = replace(CPU, memory_limit=alone.estimated_bytes - 1)
    got = plan(rows=rows, machine=tighter).training
    assert (got.micro_batch_size, got.gradient_checkpointing) == (1, True)


def test_what_can_never_fit_names_the_parts_and_the_ways_out() -> None:
    with pytest.raises(InsufficientMemoryError) as caught:
        plan(method={"type": "full"}, machine=replace(CPU, memory_limit=1 * GIB))
    message = str(caught.value)
    assert "training needs about " in message
    assert "and the pod has 1.0 GiB: optimizer 1.0 GiB" in message
    assert "raise resources.memory to 3Gi, or use method.type: lora" in message


def test_an_accelerators_memory_is_not_the_pods() -> None:
    assert plan(machine=replace(GPU, memory_limit=1)).memory.limit_bytes is None


@pytest.mark.parametrize(
    ("lengths", "capacity", "want"),
    [([], 8, 0), ([8, 8], 8, 2), ([4, 4, 4], 8, 2), ([5, 4, 3, 2, 1], 8, 2), ([9], 8, 1)],
)
def test_packing_counts_sequences_best_fit_first(lengths: list[int], capacity: int, want: int) -> None:
    assert packed_count(lengths, capacity) == want


def test_a_head_of_classes_is_trained_whole_and_its_logits_are_few() -> None:
    facts = replace(FACTS, head="score", module_elements={**FACTS.module_elements, "score": 1152})
    rows = replace(data(fmt="labelled-text"), loss_on="label", classes=("a", "b"))
    bare = plan(rows=rows, task="classification")
    with_head = plan(facts, rows, task="classification", method={"modulesToSave": ["score"]})
    assert with_head.model.trainable_parameters == bare.model.trainable_parameters + 1152
    assert with_head.memory.logits < 2**16 < plan().memory.logits
    assert with_head.metrics == ["eval_loss", "accuracy", "f1", "precision", "recall"]
    assert with_head.training.loss_on == "label"


def test_time_and_cost_are_estimated_where_the_speed_is_known() -> None:
    price = {"policy": {"cost": {"perHour": "36", "currency": "EUR"}}}
    known = plan(machine=replace(CPU, speed={"fp32": 1e11, "bf16": 1e9}), **price)
    assert known.estimated_seconds is not None
    assert known.estimated_seconds > START_SECONDS
    assert known.estimated_cost == f"{known.estimated_seconds / 100:.2f} EUR"
    slower = plan(machine=replace(CPU, speed={"fp32": 1e11, "bf16": 1e9}), training={"precision": "bf16"})
    assert slower.estimated_seconds is not None
    assert slower.estimated_seconds > known.estimated_seconds
    assert slower.estimated_cost == ""
    unknown = plan(machine=GPU, **price)
    assert (unknown.estimated_seconds, unknown.estimated_cost) == (None, "")
