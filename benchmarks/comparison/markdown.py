"""Tables in Markdown."""

from collections.abc import Iterable


def table(header: Iterable[str], rows: Iterable[Iterable[str]], text_columns: int) -> list[str]:
    """Lines of a table whose first columns hold text and whose others hold numbers."""
    header = list(header)
    rule = ["---"] * text_columns + ["--:"] * (len(header) - text_columns)
    return [f"| {' | '.join(cells)} |" for cells in (header, rule, *rows)]


def milliseconds(value: float) -> str:
    """Three digits that count."""
    if value < 10:
        return f"{value:.3f}"
    return f"{value:.2f}" if value < 100 else f"{value:.1f}"
