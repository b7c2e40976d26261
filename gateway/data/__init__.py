"""The data plane: everything a worker process runs. Imports neither control, pandas, scipy, SQLAlchemy nor fsspec."""
