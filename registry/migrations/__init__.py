"""How the database came to its present shape, one file a step. Steps are never changed once released."""
