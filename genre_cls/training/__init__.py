"""Training models on folds: tasks, batches, augmentation, the loop, the last layer."""
