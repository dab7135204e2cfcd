"""The four stages: each module is one of them, with `execute(run) -> StageResult`."""
