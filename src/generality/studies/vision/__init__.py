"""Prompts and adapters of vision-language models."""
