"""The plan: every `auto` resolved, by pure functions."""
