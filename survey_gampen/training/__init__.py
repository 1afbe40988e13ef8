"""Train, calibrate, label and evaluate."""
