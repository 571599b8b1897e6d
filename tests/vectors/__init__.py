"""Recorded HTTP exchanges of the existing TrustGate and their runner; README of the format: the docstrings here."""
