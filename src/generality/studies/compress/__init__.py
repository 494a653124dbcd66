"""The same model in fewer bytes, fewer operations, or another layout."""
