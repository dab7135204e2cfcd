"""The training run: batches, loss, checkpoints, guards and reports."""
