"""kubectl finetune: follows and summarises FineTuneJobs. Shows their status and computes nothing of its own."""
