"""Runs in MLflow: writing and reading them. Imports no PyTorch."""
