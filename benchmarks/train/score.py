"""Loss of an adapter on the held-out rows that prepare encoded: one measure for whoever trained it."""

import argparse
import sys
from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from finetune_trainer.training.loss import supervised_loss
from finetune_trainer.training.rows import IGNORED, RowCollator, load_rows


@torch.no_grad()
def main() -> None:
    """Print nats per supervised token."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--adapter", type=Path, required=True)
    parser.add_argument("--rows", type=Path, required=True)
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    base = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32)
    model = PeftModel.from_pretrained(base, options.adapter).to(device).eval()
    total, count = 0.0, 0
    rows = load_rows(options.rows).with_format("numpy")
    for start in range(0, len(rows), 4):
        batch = RowCollator(0)([rows[i] for i in range(start, min(start + 4, len(rows)))])
        batch.pop("real_tokens")
        labels = batch.pop("labels").to(device)
        total += float(supervised_loss(model, {name: part.to(device) for name, part in batch.items()}, labels))
        count += int((labels[:, 1:] != IGNORED).sum())
    sys.stdout.write(f"{total / count}\n")


if __name__ == "__main__":
    main()
