"""Models that act, and what moves them."""
