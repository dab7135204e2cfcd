"""Data: from files or a hub to token ids, with every row judged."""
