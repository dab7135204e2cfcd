"""What sections of a spec cannot go together: rules over a whole FineTuneJobSpec, as `s` and as CEL's `self`."""

from finetune_api.heads import HEAD_RULES
from finetune_api.rules import Rule
from finetune_api.tasks import PREFERENCE_OBJECTIVES, TASK_METRICS


def _gate_rule(task: str, metrics: tuple[str, ...]) -> Rule:
    return Rule(
        f"self.task != '{task}' || self.evaluation.gates.all(g, g.metric in {[*metrics]})",
        f"evaluation.gates names a metric that task: {task} does not have; choose from {', '.join(metrics)}",
        lambda s: s.task != task or all(gate.metric in metrics for gate in s.evaluation.gates),
    )


SPEC_RULES = (
    Rule(
        "(self.training.objective in ['dpo', 'orpo', 'kto']) == (self.task == 'preference')",
        "training.objective: dpo, orpo and kto belong to task: preference, and task: preference needs one of them",
        lambda s: (s.training.objective in PREFERENCE_OBJECTIVES) == (s.task == "preference"),
    ),
    Rule(
        "(self.task == 'preference') ? (self.dataset.format in ['auto', 'preference']) : "
        "(self.dataset.format != 'preference')",
        "dataset.format: preference belongs to task: preference, which takes it or auto; change one of the two",
        lambda s: (
            s.dataset.format in ("auto", "preference") if s.task == "preference" else s.dataset.format != "preference"
        ),
    ),
    Rule(
        "!(self.training.objective in ['dpo', 'orpo', 'kto']) || self.training.loss.type == 'default'",
        "training.loss is a loss of single tokens; with training.objective: dpo, orpo or kto remove it",
        lambda s: s.training.objective not in PREFERENCE_OBJECTIVES or s.training.loss.type == "default",
    ),
    Rule(
        "self.training.objective != 'pretrain' || "
        "(self.task == 'completion' && self.dataset.format in ['auto', 'text'])",
        "training.objective: pretrain learns plain text: set task: completion, and dataset.format: text or auto",
        lambda s: (
            s.training.objective != "pretrain" or (s.task == "completion" and s.dataset.format in ("auto", "text"))
        ),
    ),
    *(_gate_rule(task, metrics) for task, metrics in TASK_METRICS.items()),
    *HEAD_RULES,
    Rule(
        "!has(self.dataset.schema) || self.task == 'extraction'",
        "dataset.schema judges the JSON answers of task: extraction; remove it or choose that task",
        lambda s: s.dataset.answer_schema is None or s.task == "extraction",
    ),
    Rule(
        "self.task != 'extraction' || self.dataset.format in ['auto', 'messages', 'prompt-completion']",
        "task: extraction needs answers: set dataset.format: messages, prompt-completion or auto",
        lambda s: s.task != "extraction" or s.dataset.format in ("auto", "messages", "prompt-completion"),
    ),
    Rule(
        "self.task != 'extraction' || self.dataset.overLength != 'truncate'",
        "dataset.overLength: truncate would leave half a JSON value to learn; with task: extraction use fail or drop",
        lambda s: s.task != "extraction" or s.dataset.over_length != "truncate",
    ),
    Rule(
        "has(self.dataset.train) || self.method.adapters.size() > 0",
        "dataset.train is missing: name the rows to train on there, or those of each adapter in method.adapters",
        lambda s: s.dataset.train is not None or bool(s.method.adapters),
    ),
    Rule(
        "self.method.adapters.size() == 0 || (!has(self.dataset.train) && !has(self.dataset.eval))",
        "dataset.train and dataset.eval are the rows of one adapter; with method.adapters move them to the adapters' "
        "own dataset and eval",
        lambda s: not s.method.adapters or (s.dataset.train is None and s.dataset.eval is None),
    ),
    Rule(
        "self.method.adapters.size() * self.exports.size() <= 16",
        "exports are made of each of method.adapters, and there may be 16 artefacts in all; leave some out, or make "
        "two jobs of it",
        lambda s: len(s.method.adapters) * len(s.exports) <= 16,
    ),
    Rule(
        "self.evaluation.gates.size() == 0 || has(self.dataset.eval) || self.dataset.evalFraction > 0.0 || "
        "(self.method.adapters.size() > 0 && self.method.adapters.all(a, has(a.eval)))",
        "evaluation.gates needs rows to judge on: set dataset.eval or dataset.evalFraction above 0",
        lambda s: (
            not s.evaluation.gates
            or s.dataset.eval is not None
            or s.dataset.eval_fraction > 0
            or (bool(s.method.adapters) and all(a.eval is not None for a in s.method.adapters))
        ),
    ),
    Rule(
        "self.method.type != 'full' || self.exports.all(e, !(e.format in ['peft', 'onnx-adapter']))",
        "exports: format peft and onnx-adapter need an adapter; with method.type: full use safetensors or onnx",
        lambda s: s.method.type != "full" or all(e.format not in ("peft", "onnx-adapter") for e in s.exports),
    ),
    Rule(
        "!has(self.method.continueFrom) || !self.method.continueFrom.source.startsWith('job://') || "
        "!self.model.source.startsWith('job://')",
        "model.source and method.continueFrom.source both name a job, and the base must be the one that the adapter "
        "was trained on: name its folder in model.source",
        lambda s: (
            s.method.continue_from is None
            or not s.method.continue_from.source.startswith("job://")
            or not s.model.source.startswith("job://")
        ),
    ),
    Rule(
        "self.exports.all(a, self.exports.exists_one(b, b.name == a.name))",
        "exports must have different names",
        lambda s: len({e.name for e in s.exports}) == len(s.exports),
    ),
    Rule(
        "!(self.method.type == 'qlora' && self.distributed.strategy == 'deepspeed' && self.distributed.zeroStage == 3)",
        "distributed.zeroStage: 3 cannot shard the quantized base of method.type: qlora; use 2, or strategy: fsdp",
        lambda s: (
            not (s.method.type == "qlora" and s.distributed.strategy == "deepspeed" and s.distributed.zero_stage == 3)
        ),
    ),
)
