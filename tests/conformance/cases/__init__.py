"""The cases. Importing this package fills `tests.conformance.case.CASES`, group by group."""

from tests.conformance.cases import (  # noqa: F401
    binary,
    compression,
    errors,
    grpc,
    health,
    http,
    infer,
    metadata,
    raw,
    repository,
    types,
)
