"""What tasks and objectives are judged by."""

PREFERENCE_OBJECTIVES = ("dpo", "orpo", "kto")
"""Values of training.objective that learn from preferences."""

LOSS_METRICS = ("eval_loss", "perplexity")
TASK_METRICS: dict[str, tuple[str, ...]] = {
    "chat": (*LOSS_METRICS, "exact-match", "rouge1", "rouge2", "rougeL", "bleu"),
    "completion": (*LOSS_METRICS, "exact-match", "rouge1", "rouge2", "rougeL", "bleu"),
    "summarization": (*LOSS_METRICS, "rouge1", "rouge2", "rougeL", "bleu"),
    "extraction": (*LOSS_METRICS, "exact-match", "json-valid", "f1"),
    "classification": ("eval_loss", "accuracy", "f1", "precision", "recall"),
    "token-classification": ("eval_loss", "accuracy", "f1", "precision", "recall", "seqeval"),
    "preference": ("eval_loss", "accuracy"),
}
"""Metrics that a gate may name, by task."""
