"""How well a tuned SmolLM2-135M sorts Reuters R8, beside a linear model on word counts."""
