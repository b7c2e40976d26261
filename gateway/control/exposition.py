"""Metric families as the text that Prometheus reads.

Why: prometheus_client takes 20 µs for a line, so a thousand versions' 200,000 lines were four seconds of every scrape,
on the core that answers requests. Here a line takes a quarter of that: a label's text is made once for all its lines.
Invariant: the bytes are those of prometheus_client (its own writer is the test's witness) for what our families have:
plain names, no timestamps, no exemplars. Called by `api.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from prometheus_client.core import Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.utils import floatToGoString

Write = Callable[[Iterable[Metric]], bytes]


def negotiated(accept: str) -> tuple[Write, str]:
    """The writer and content type for an Accept header: OpenMetrics where it is asked for, or Prometheus's own text."""
    _, content_type = choose_encoder(accept)
    return (open_metrics if content_type.startswith("application/openmetrics-text") else plain_text), content_type


def plain_text(families: Iterable[Metric]) -> bytes:
    """Prometheus's text format, version 0.0.4."""
    return "".join(_lines(families, "_total", _escaped)).encode()


def open_metrics(families: Iterable[Metric]) -> bytes:
    """OpenMetrics 1.0.0. A counter's family is named without its `_total`, the text has an end."""
    return "".join((*_lines(families, "", _quoted), "# EOF\n")).encode()


def _lines(families: Iterable[Metric], total: str, help_of: Callable[[str], str]) -> Iterator[str]:
    texts: dict[tuple[str, str], str] = {}  # a label's name and value → its text
    for family in families:
        name = family.name + total if family.type == "counter" else family.name
        yield f"# HELP {name} {help_of(family.documentation)}\n# TYPE {name} {family.type}\n"
        for sample in family.samples:
            labels = []
            for label in sorted(sample.labels.items()):
                text = texts.get(label)
                if text is None:
                    text = texts[label] = f'{label[0]}="{_quoted(label[1])}"'
                labels.append(text)
            braces = f"{{{','.join(labels)}}}" if labels else ""
            yield f"{sample.name}{braces} {floatToGoString(sample.value)}\n"  # type: ignore[no-untyped-call]


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n")


def _quoted(text: str) -> str:
    return _escaped(text).replace('"', r"\"")
