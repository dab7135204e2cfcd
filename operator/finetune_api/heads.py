"""Tasks whose model gets a head of classes in place of words, and what of the spec cannot go with them."""

from finetune_api.rules import Rule

HEAD_FORMATS = {"classification": "labelled-text", "token-classification": "tagged-tokens"}
"""Task -> the one format of its rows."""


def _format_rule(task: str, row_format: str) -> Rule:
    return Rule(
        f"self.dataset.format == 'auto' || (self.task == '{task}') == (self.dataset.format == '{row_format}')",
        f"dataset.format: {row_format} and task: {task} belong together; change one of the two, or use format: auto",
        lambda s: s.dataset.format == "auto" or (s.task == task) == (s.dataset.format == row_format),
    )


HEAD_RULES = (
    *(_format_rule(task, row_format) for task, row_format in HEAD_FORMATS.items()),
    Rule(
        "!(self.task in ['classification', 'token-classification']) || "
        "(!has(self.dataset.lossOn) && !self.dataset.tools && self.model.chatTemplate == '')",
        "dataset.lossOn, dataset.tools and model.chatTemplate are about conversations; remove them or use task: chat",
        lambda s: (
            s.task not in HEAD_FORMATS
            or (s.dataset.loss_on is None and not s.dataset.tools and not s.model.chat_template)
        ),
    ),
    Rule(
        "self.task != 'token-classification' || self.dataset.template == ''",
        "dataset.template cannot build rows of task: token-classification, whose words need a tag each; remove it",
        lambda s: s.task != "token-classification" or not s.dataset.template,
    ),
)
"""Rules of FineTuneJobSpec."""
