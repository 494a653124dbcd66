"""Domains the model never saw: methods that train or adapt for them."""
