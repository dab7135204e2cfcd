"""Tells tracking servers (MLflow, Weights & Biases) what a job does. Never decides, delays or ends a stage."""
