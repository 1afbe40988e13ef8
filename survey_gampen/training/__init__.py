"""Simulate, train and evaluate."""
