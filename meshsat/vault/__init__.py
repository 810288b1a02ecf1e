"""Upstream credentials at rest."""
