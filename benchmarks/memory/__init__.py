"""How close the estimate of memory comes to what training SmolLM2-135M takes."""
