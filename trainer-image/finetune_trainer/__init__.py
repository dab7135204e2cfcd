"""The trainer: one command line, one stage per call, driven by one request and one resolved plan."""
