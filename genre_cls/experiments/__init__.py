"""One configuration from settings to logged results: its jobs, and its folds on their way to MLflow."""
