"""Pages, figures and every sentence that a reader sees."""
