"""Where prices come from, and what is checked before they are stored."""
