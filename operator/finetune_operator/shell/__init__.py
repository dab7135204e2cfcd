"""Talks to Kubernetes and to stage pods. Decides nothing about a job's life: that is the core's."""
