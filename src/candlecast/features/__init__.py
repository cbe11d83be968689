"""What the model sees of a session, the label, the split by date and its audit."""
