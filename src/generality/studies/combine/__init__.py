"""Several models, layers or views made one."""
