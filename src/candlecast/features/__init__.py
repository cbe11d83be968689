"""What the model sees of a session, the label, the split by date and its audit."""

from candlecast.features import definitions as definitions  # registers the features
