"""A Kubernetes on this machine for development, tests and the demo: the user's own, kind's, or one started from
upstream parts.

Standard library only: it runs before any virtual environment exists.
"""
