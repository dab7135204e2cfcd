"""Training speed, memory and loss of this trainer and of a plain script with TRL's defaults, in one run."""
