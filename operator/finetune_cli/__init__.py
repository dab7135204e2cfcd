"""kubectl finetune: follows and summarises FineTuneJobs. Shows what is in their status and computes nothing of its own."""
