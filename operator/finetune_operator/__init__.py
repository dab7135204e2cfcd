"""The FineTuneJob operator: a pure core that decides, and a kopf shell that fetches, applies and writes."""
