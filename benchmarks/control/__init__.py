"""How fast, with how many requests and with how much processor time operators work, on a real API server."""
