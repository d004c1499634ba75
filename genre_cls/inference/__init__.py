"""Using trained models: predictions, their explanation, export, MLflow's registry."""
