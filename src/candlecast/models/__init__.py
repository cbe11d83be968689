"""Which estimators can be tried, how one is selected, and how it predicts."""
