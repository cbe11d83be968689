"""What predictions are worth: metrics, intervals and tests, gate, drift."""
