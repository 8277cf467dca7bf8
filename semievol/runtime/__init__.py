"""Ray without the method: the cluster, rows with commits, progress, addresses."""
