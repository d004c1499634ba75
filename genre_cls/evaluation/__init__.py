"""From the probabilities of tracks to scores, statistics, figures and reports. Imports no PyTorch."""
