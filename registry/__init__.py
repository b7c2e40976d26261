"""Which models and versions exist, and what is known of them. Knows nobody else."""
