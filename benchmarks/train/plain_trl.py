"""Supervised fine-tuning as TRL's own documentation shows it: what the trainer is compared with.

Only what decides the result is set (model, rows, batch, learning rate, LoRA, one epoch); everything else, padding,
number format and recomputation among it, stays as TRL has it, but for what `--set` changes.
"""

import argparse
import json
import resource
import sys
from pathlib import Path

import torch
from datasets import load_dataset
from peft import LoraConfig
from trl import SFTConfig, SFTTrainer


def main() -> None:
    """Train, save the adapter, and write the peak of memory in bytes to OUTPUT/peak."""
    options = _options()
    torch.set_num_threads(options.threads)
    trainer = SFTTrainer(
        model=str(options.model),
        args=SFTConfig(
            output_dir=str(options.output),
            num_train_epochs=1,
            per_device_train_batch_size=options.batch,
            learning_rate=options.learning_rate,
            logging_steps=1,
            report_to="tensorboard",
            save_strategy="no",
            disable_tqdm=True,
            use_cpu=not torch.cuda.is_available(),
            **json.loads(options.set),
        ),
        train_dataset=load_dataset("json", data_files=str(options.rows), split="train"),
        peft_config=LoraConfig(r=options.rank, lora_alpha=2 * options.rank, target_modules="all-linear"),
    )
    trainer.train()
    (options.output / "peak").write_text(str(_peak_bytes()))
    trainer.save_model(str(options.output))


def _peak_bytes() -> int:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--rows", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--rank", type=int, required=True)
    parser.add_argument("--learning-rate", type=float, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--set", default="{}", help="further fields of SFTConfig as JSON")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
