"""From settings to a finished run: training, checkpoints, the run's directory."""
