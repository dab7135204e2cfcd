"""Stage prepare on a tiny model and real files: what it leaves, what it refuses, that it can be killed."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from finetune_api.contract import StageResult
from finetune_api.status import Plan
from finetune_trainer.errors import (
    InsufficientMemoryError,
    InvalidDataError,
    InvalidModelError,
    InvalidSpecError,
    OutputUnwritableError,
    SourceNotFoundError,
    StageError,
)
from finetune_trainer.run import Run
from finetune_trainer.stages import prepare
from tiny_models import build_tiny_model
from trainer_requests import make_run

pytestmark = pytest.mark.trainer
LABELS = ("earnings", "crude", "acquisition")
Rows = list[dict[str, Any]]


def chat_rows(count: int) -> Rows:
    return [
        {
            "messages": [
                {"role": "user", "content": f"News {i}. Topic?"},
                {"role": "assistant", "content": LABELS[i % 3]},
            ]
        }
        for i in range(count)
    ]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Claims `models` with a tiny model and `data` with 30 good rows."""
    shutil.copytree(build_tiny_model("llama"), tmp_path / "claims" / "models" / "tiny")
    write_rows(tmp_path, chat_rows(30))
    return tmp_path


def write_rows(root: Path, rows: Rows, name: str = "train.jsonl") -> None:
    write_lines(root, [json.dumps(row) for row in rows], name)


def write_lines(root: Path, lines: list[str], name: str = "train.jsonl") -> None:
    path = root / "claims" / "data" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))


def dataset(**fields: Any) -> dict[str, Any]:
    return {"train": {"source": "pvc://data/train.jsonl"}, **fields}


def executed(root: Path, **spec: Any) -> tuple[Run, StageResult]:
    run = make_run(root, **spec)
    return run, prepare.execute(run)


def loaded(path: Path) -> Any:
    from datasets import load_from_disk

    return load_from_disk(str(path))


def refused(root: Path, error: type[StageError], **spec: Any) -> str:
    run = make_run(root, **spec)
    with pytest.raises(error) as caught:
        prepare.execute(run)
    assert not run.workspace.plan.exists()
    return str(caught.value)


def test_the_smallest_job_leaves_model_rows_and_plan(root: Path) -> None:
    run, result = executed(root)
    assert result.outcome == "Succeeded"
    assert result.plan == run.plan
    assert (run.workspace.model / "config.json").exists()
    train, held = loaded(run.workspace.train_rows), loaded(run.workspace.eval_rows)
    assert (len(train), len(held)) == (27, 3)
    assert train.column_names == ["input_ids", "completion_mask"]
    assert held.column_names == ["input_ids", "completion_mask", "prompt_ids", "reference"]
    assert {str(train.features[name].feature.dtype) for name in train.column_names} == {"int32", "int8"}
    assert sorted(held["reference"]) == sorted(LABELS)


def test_a_destination_of_another_job_is_refused_before_anything_is_read(root: Path) -> None:
    report = root / "claims" / "models" / "bot" / "report.json"
    report.parent.mkdir(parents=True)
    report.write_text(json.dumps({"job": {"uid": "somebody-else"}}))
    message = refused(root, OutputUnwritableError, output={"destination": "pvc://models/bot"})
    assert message.startswith(f"output.destination pvc://models/bot: {report} belongs to another job")
    assert not (root / "workspace" / "model").exists()


def test_the_report_counts_rows_and_tokens(root: Path) -> None:
    run, result = executed(root)
    train = loaded(run.workspace.train_rows)
    report = result.dataset
    assert report is not None
    assert (report.format, report.train_rows, report.eval_rows, report.bad_rows) == ("messages", 27, 3, 0)
    assert report.train_tokens == sum(map(len, train["input_ids"]))
    assert report.supervised_tokens == sum(map(sum, train["completion_mask"]))
    assert report.longest_row >= max(map(len, train["input_ids"]))
    assert report.digest.startswith("sha256:")


def test_on_a_cpu_time_and_cost_of_training_are_told(root: Path) -> None:
    _, result = executed(root, policy={"cost": {"perHour": "3600"}})
    assert result.plan is not None
    seconds = result.plan.estimated_seconds
    assert seconds is not None
    assert result.plan.estimated_cost == f"{seconds}.00 USD"
    assert f"of training ({seconds}.00 USD)" in result.message


def test_the_report_says_how_long_rows_are_and_where_the_longest_stand(root: Path) -> None:
    rows = chat_rows(30)
    for place, words in ((4, 20), (17, 40), (29, 20)):
        rows[place]["messages"][0]["content"] = "oil " * words
    write_rows(root, rows)
    run, result = executed(root, dataset=dataset(evalFraction=0))
    assert result.dataset is not None
    assert result.dataset.file_format == "JSON Lines"
    lengths = [len(ids) for ids in loaded(run.workspace.train_rows)["input_ids"]]
    ordered = sorted(lengths)
    found = result.dataset.row_tokens
    assert found is not None
    assert (found.min, found.median, found.p90, found.p99, found.max) == (
        *(ordered[i] for i in (0, 15, 27, 29)),
        max(lengths),
    )
    longest = [(row.row, row.tokens) for row in result.dataset.longest_rows]
    by_length = sorted(range(30), key=lambda row: -lengths[row])[:5]
    assert longest == [(f"line {row + 1}", lengths[row]) for row in by_length]
    assert {*by_length[:3]} == {4, 17, 29}


def test_the_plan_has_the_model_as_it_was_found(root: Path) -> None:
    _, result = executed(root)
    assert result.plan is not None
    model = result.plan.model
    assert (model.architecture, model.context_length, model.parameters) == ("LlamaForCausalLM", 512, 418432)
    assert model.digest.startswith("sha256:")
    assert result.plan.method.target_modules == [
        "down_proj",
        "gate_proj",
        "k_proj",
        "o_proj",
        "q_proj",
        "up_proj",
        "v_proj",
    ]


@pytest.mark.parametrize("family", ["phi3", "gemma2", "qwen3"])
def test_the_trainable_parameters_are_those_that_peft_makes(tmp_path: Path, family: str) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    shutil.copytree(build_tiny_model(family), tmp_path / "claims" / "models" / "tiny")
    write_rows(tmp_path, chat_rows(12))
    run, result = executed(tmp_path)
    assert result.plan is not None
    names = result.plan.method.target_modules
    model = AutoModelForCausalLM.from_pretrained(run.workspace.model)
    tuned = get_peft_model(model, LoraConfig(r=16, target_modules=names, task_type="CAUSAL_LM"))
    want = sum(p.numel() for p in tuned.parameters() if p.requires_grad)
    assert result.plan.model.trainable_parameters == want
    assert result.plan.model.parameters == model.num_parameters() - want
    assert result.plan.training.attention == ("eager" if family == "gemma2" else "sdpa")


def test_bad_rows_are_listed_by_line_with_the_way_out(root: Path) -> None:
    lines = [json.dumps(row) for row in chat_rows(500)]
    lines[11] = '{"messages": [1 2]}'
    lines[29] = json.dumps({"messages": [{"role": "user", "content": "a"}, {"role": "bot", "content": "b"}]})
    lines[99] = json.dumps({"prompt": "x"})
    write_lines(root, lines)
    assert refused(root, InvalidDataError) == (
        "train.jsonl: 3 of 500 rows cannot be used: line 12: not JSON: Expecting ',' delimiter at column 17; "
        "line 30: messages[1].role is 'bot', use system, user or assistant; line 100: messages is missing. "
        "Fix them, or allow them with dataset.maxBadRows: 3"
    )


def test_half_a_character_is_a_bad_row_with_its_line(root: Path) -> None:
    rows = chat_rows(20)
    rows[3]["messages"][0]["content"] = "cut in two: \ud83d"
    write_lines(root, [json.dumps(row) for row in rows])
    assert "line 4: messages holds \\ud83d, half of a character that was cut in two" in refused(root, InvalidDataError)


def test_allowed_bad_rows_are_left_out_and_counted(root: Path) -> None:
    write_lines(root, ["nonsense", *(json.dumps(row) for row in chat_rows(20))])
    _, result = executed(root, dataset=dataset(maxBadRows=1))
    assert result.dataset is not None
    assert (result.dataset.bad_rows, result.dataset.train_rows + result.dataset.eval_rows) == (1, 20)
    assert result.dataset.warnings[0].startswith("left out: train.jsonl: 1 of 21 rows cannot be used: line 1: not JSON")


def test_earlier_answers_that_a_server_renders_otherwise_are_a_warning_with_the_way_out(tmp_path: Path) -> None:
    shutil.copytree(build_tiny_model("qwen3"), tmp_path / "claims" / "models" / "tiny")
    talk = [turn for row in chat_rows(2) for turn in row["messages"]]
    longer = [{"messages": [{"role": "user", "content": f"Hello {i}"}, *talk[1:]]} for i in range(3)]
    write_rows(tmp_path, [*chat_rows(12), *longer])
    _, result = executed(tmp_path)
    assert result.dataset is not None
    assert result.dataset.warnings == [
        (
            "train.jsonl: in 3 rows earlier answers carry no loss: the model's chat template renders an answer that "
            "another turn follows otherwise than the model writes it; to learn it, give the conversation up to it as a "
            "row of its own"
        )
    ]


def test_a_row_whose_answers_are_all_context_names_the_way_out(tmp_path: Path) -> None:
    shutil.copytree(build_tiny_model("qwen3"), tmp_path / "claims" / "models" / "tiny")
    first, second = (row["messages"] for row in chat_rows(2))
    silent = [*first, second[0], {**second[1], "weight": 0}]
    write_rows(tmp_path, [*chat_rows(12), {"messages": silent}])
    message = refused(tmp_path, InvalidDataError)
    assert "line 13: no token of it would carry loss: the model's chat template renders" in message
    assert "as a row of its own" in message


def test_what_looks_wrong_is_a_warning(root: Path) -> None:
    rows = [{"prompt": f"p{i}", "completion": "c", "id": i} for i in range(10)]
    write_rows(root, [*rows, rows[3], rows[3]])
    _, result = executed(root, task="completion")
    assert result.dataset is not None
    assert result.dataset.warnings == [
        "train.jsonl: columns that nothing reads: id",
        "train.jsonl: 2 rows say the same as an earlier one: line 11 as line 4, line 12 as line 4",
        (
            "train.jsonl: in 12 rows prompt and completion meet without a space between them; "
            "begin the completion with one if the model should write it"
        ),
    ]


def test_no_row_left_is_refused(root: Path) -> None:
    write_lines(root, ["nonsense"] * 3)
    assert "no row is left" in refused(root, InvalidDataError, dataset=dataset(maxBadRows=3))


LONG = [
    *chat_rows(10),
    {"messages": [{"role": "user", "content": "x y " * 60}, {"role": "assistant", "content": "crude"}]},
]


def test_a_row_over_the_limit_fails_by_line_and_length(root: Path) -> None:
    write_rows(root, LONG)
    message = refused(root, InvalidDataError, dataset=dataset(maxLength=64))
    assert message.startswith("train.jsonl: 1 of 11 rows are longer than 64 tokens: line 11 (")
    assert message.endswith(
        "Set dataset.maxLength (up to the model's context), or dataset.overLength to drop or truncate"
    )


def test_rows_over_the_limit_can_be_dropped_and_are_counted(root: Path) -> None:
    write_rows(root, LONG)
    run, result = executed(root, dataset=dataset(maxLength=64, overLength="drop"))
    assert result.dataset is not None
    assert (result.dataset.over_length_rows, result.dataset.train_rows + result.dataset.eval_rows) == (1, 10)
    assert max(map(len, loaded(run.workspace.train_rows)["input_ids"])) <= 64


@pytest.mark.parametrize("limit", [16, 32, 64, 128])
def test_a_cut_that_leaves_no_answer_is_a_bad_row_and_never_a_loss_of_zero(root: Path, limit: int) -> None:
    write_rows(root, [LONG[-1]] * 4)
    message = refused(root, InvalidDataError, dataset=dataset(maxLength=limit, overLength="truncate"))
    assert f"line 1: no token of the answer is left after the cut at {limit} tokens" in message


def test_a_cut_keeps_the_start_of_the_answer(root: Path) -> None:
    answer = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "crude oil " * 40}]}
    write_rows(root, [*chat_rows(10), answer])
    run, result = executed(root, dataset=dataset(maxLength=48, overLength="truncate", evalFraction=0))
    assert result.dataset is not None
    assert result.dataset.over_length_rows == 1
    row = loaded(run.workspace.train_rows)[-1]
    assert (len(row["input_ids"]), row["completion_mask"][-1]) == (48, 1)
    assert not run.workspace.eval_rows.exists()


def test_the_longest_row_sets_the_length_and_nothing_is_cut(root: Path) -> None:
    write_rows(root, LONG)
    run, result = executed(root, dataset=dataset(evalFraction=0))
    assert result.plan is not None
    longest = max(map(len, loaded(run.workspace.train_rows)["input_ids"]))
    assert longest <= result.plan.training.max_length < longest + 8


def test_a_limit_above_the_context_is_refused(root: Path) -> None:
    message = refused(root, InvalidSpecError, dataset=dataset(maxLength=4096))
    assert message.startswith("dataset.maxLength: 4096 is more than the model's context of 512 tokens")


def test_slices_of_one_file_give_train_and_eval(root: Path) -> None:
    train = {"source": "pvc://data/train.jsonl", "split": "train[:90%]"}
    held = {"source": "pvc://data/train.jsonl", "split": "train[90%:]"}
    _, result = executed(root, dataset={"train": train, "eval": held})
    assert result.dataset is not None
    assert (result.dataset.train_rows, result.dataset.eval_rows) == (27, 3)
    assert result.dataset.warnings == []


def test_rows_that_are_in_both_sets_are_a_warning(root: Path) -> None:
    both = {
        "train": {"source": "pvc://data/train.jsonl"},
        "eval": {"source": "pvc://data/train.jsonl", "split": "train[:5]"},
    }
    _, result = executed(root, dataset=both)
    assert result.dataset is not None
    assert result.dataset.warnings == ["5 rows of dataset.eval are in dataset.train too: the evaluation is too good"]


def test_renames_and_template_build_the_prompt(root: Path) -> None:
    write_lines(root, ["body,topic", *(f"oil {i},crude" for i in range(12))], "train.csv")
    fields = {
        "train": {"source": "pvc://data/train.csv"},
        "columns": {"completion": "topic"},
        "template": "News: {body} Topic? ",
    }
    run, result = executed(root, task="completion", dataset=fields)
    assert result.dataset is not None
    assert result.dataset.warnings == []
    held = loaded(run.workspace.eval_rows)
    from finetune_trainer.models.load import load_tokenizer

    prompt = load_tokenizer(run.workspace.model).decode(held[0]["prompt_ids"], skip_special_tokens=True)
    assert prompt.startswith("News: oil ")
    assert prompt.endswith(" Topic? ")


@pytest.mark.usefixtures("known_speed")
def test_the_same_input_gives_the_same_result(root: Path) -> None:
    run, first = executed(root)
    rows = loaded(run.workspace.train_rows)[:]
    shutil.rmtree(run.workspace.root)
    again, second = executed(root)
    assert (second.plan, second.dataset) == (first.plan, first.dataset)
    assert loaded(again.workspace.train_rows)[:] == rows


def test_another_seed_holds_out_other_rows(root: Path) -> None:
    _, first = executed(root, dataset=dataset(shuffleSeed=1))
    _, second = executed(root, dataset=dataset(shuffleSeed=2))
    assert first.dataset is not None
    assert second.dataset is not None
    assert first.dataset.digest != second.dataset.digest


class Killed(BaseException):
    """As sudden as a kill: no handler of ours catches it."""


POINTS = (
    "finetune_trainer.stages.prepare.inspect_source",
    "finetune_trainer.stages.prepare.load_tokenizer",
    "finetune_trainer.data.preparation.open_rows",
    "finetune_trainer.data.preparation.digest_of",
    "finetune_trainer.stages.prepare.resolve",
    "finetune_trainer.stages.prepare.write_atomically",
)


@pytest.mark.usefixtures("known_speed")
@pytest.mark.parametrize("point", POINTS)
def test_a_kill_at_any_point_changes_nothing_about_the_result(
    root: Path, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    run, want = executed(root)
    rows = loaded(run.workspace.train_rows)[:]
    shutil.rmtree(run.workspace.root)

    def die(*_: object, **__: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(point, die)
        with pytest.raises(Killed):
            executed(root)
        assert not run.workspace.plan.exists()
    again, result = executed(root)
    assert (result.plan, result.dataset) == (want.plan, want.dataset)
    assert loaded(again.workspace.train_rows)[:] == rows
    assert not (again.workspace.root / ".prepare").exists()


def test_a_half_written_row_set_of_a_killed_call_is_replaced(root: Path) -> None:
    run = make_run(root)
    (run.workspace.train_rows).mkdir(parents=True)
    (run.workspace.train_rows / "data-00000-of-00001.arrow").write_bytes(b"half")
    (run.workspace.root / ".prepare").mkdir()
    (run.workspace.root / ".prepare" / "train.arrow").write_bytes(b"half")
    executed(root)
    assert len(loaded(run.workspace.train_rows)) == 27


@pytest.mark.parametrize(
    ("source", "want"),
    [
        ("pvc://models/tyni", "pvc://models/tyni does not exist; the claim holds tiny/; did you mean tiny?"),
        ("pvc://models/tiny/sub/deep", "pvc://models/tiny/sub/deep does not exist; folder tiny holds"),
        ("pvc://modles/tiny", "pvc://modles/tiny: the claim 'modles' is not mounted here"),
    ],
)
def test_a_wrong_path_names_what_is_there(root: Path, source: str, want: str) -> None:
    assert refused(root, SourceNotFoundError, model={"source": source}).startswith(want)


def config_change(**fields: Any) -> Callable[[Path], None]:
    def change(model: Path) -> None:
        config = json.loads((model / "config.json").read_text())
        (model / "config.json").write_text(json.dumps({**config, **fields}))

    return change


@pytest.mark.parametrize(
    ("change", "want"),
    [
        (config_change(model_type="lama"), "model_type 'lama' is not an architecture known here (did you mean"),
        (config_change(model_type="t5", is_encoder_decoder=True), "t5 is not a causal language model"),
        (
            config_change(quantization_config={"quant_method": "gptq"}),
            "is quantized (gptq); tune the unquantized model",
        ),
        (config_change(hidden_size=64), "configuration and weights do not belong together"),
        (config_change(num_hidden_layers=3), "weights are missing"),
        (config_change(vocab_size=100), "do not belong together"),
        (lambda model: (model / "tokenizer.json").write_text("{}"), "has no tokenizer that can be loaded"),
    ],
)
def test_a_model_that_cannot_be_used_says_why(root: Path, change: Callable[[Path], None], want: str) -> None:
    change(root / "claims" / "models" / "tiny")
    assert want in refused(root, InvalidModelError)


def test_what_the_spec_cannot_have_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    message = refused(tmp_path, InvalidSpecError, training={"extra": {"learning_rat": 1}})
    assert "training.extra.learning_rat is not a field" in message
    message = refused(tmp_path, InvalidSpecError, training={"extra": {"learning_rate": 1}})
    assert "training.extra.learning_rate: set training.learningRate" in message


def test_a_pod_that_is_too_small_is_refused_with_the_parts(root: Path) -> None:
    message = refused(root, InsufficientMemoryError, memory_limit_bytes=100 * 2**20)
    assert "the pod has 100 MiB: runtime" in message
    assert "raise resources.memory to 1Gi" in message


def test_a_template_of_the_job_overrides_the_models(root: Path) -> None:
    template = (
        "{% for m in messages %}{{ m.role }}> {{ m.content }}<|eot_id|>{% endfor %}"
        "{% if add_generation_prompt %}assistant> {% endif %}"
    )
    run, _ = executed(root, model={"source": "pvc://models/tiny", "chatTemplate": template})
    from finetune_trainer.models.load import load_tokenizer

    held = loaded(run.workspace.eval_rows)[0]
    text = load_tokenizer(run.workspace.model).decode(held["prompt_ids"])
    assert text.startswith("user> News ")
    assert text.endswith("assistant> ")


def test_the_plan_on_disk_is_the_plan_in_the_result(root: Path) -> None:
    run, result = executed(root)
    assert Plan.model_validate_json(run.workspace.plan.read_bytes()) == result.plan
