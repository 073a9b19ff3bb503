#!/usr/bin/env python3
"""Mean and standard deviation over runs (seeds), as a Markdown table.

    python tools/summarize_runs.py runs/glmc-seed*          # one row
    python tools/summarize_runs.py glmc=runs/a,runs/b ce=runs/c,runs/d   # a row a name

Each RUN is a run folder or its metrics.jsonl. Columns: last and best epoch's top-1, and the last epoch's many, medium
and few; accuracies in percent, standard deviation of the sample (n - 1). Runs of different lengths in one row are
refused.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Run:
    """What the table needs of one run."""

    epochs: int
    last: dict[str, float | None]
    best_top1: float
    seconds: float


def read(path: Path) -> Run:
    """Reads metrics.jsonl; raises ValueError naming file and line where it is not one."""
    file = path / "metrics.jsonl" if path.is_dir() else path
    lines: dict[int, dict] = {}
    for number, line in enumerate(file.read_text().splitlines(), 1):
        try:
            record = json.loads(line)
            if not record.get("final"):  # the last line of older files is no epoch's
                lines[int(record["epoch"])] = record  # a resumed run may have written an epoch twice: the later counts
        except (json.JSONDecodeError, KeyError, AttributeError) as error:
            raise ValueError(f"{file}:{number}: not a line of metrics: {error!r}") from error
    scored = {epoch: record for epoch, record in lines.items() if record.get("top1") is not None}
    if not scored:
        raise ValueError(f"{file}: no epoch with an accuracy")
    last = scored[max(scored)]
    if max(scored) != max(lines):
        raise ValueError(f"{file}: the last epoch, {max(lines)}, has no accuracy")
    return Run(
        len(lines),  # epochs count from 1, in older files from 0
        {name: last.get(name) for name in ("top1", "many", "medium", "few")},
        max(record["top1"] for record in scored.values()),
        sum(record.get("seconds", 0.0) for record in lines.values()),
    )


def cell(values: list[float | None]) -> str:
    """`mean ± deviation`, the deviation only of two or more values."""
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    mean = f"{statistics.fmean(known):.2f}"
    return f"{mean} ± {statistics.stdev(known):.2f}" if len(known) > 1 else mean


def row(name: str, runs: list[Run]) -> str:
    """One line of the table."""
    epochs = {run.epochs for run in runs}
    if len(epochs) > 1:
        raise ValueError(f"{name}: runs of different lengths: {sorted(epochs)} epochs")
    columns = [cell([run.last["top1"] for run in runs]), cell([run.best_top1 for run in runs])]
    columns += [cell([run.last[group] for run in runs]) for group in ("many", "medium", "few")]
    seconds = statistics.fmean(run.seconds for run in runs)
    return f"| {name} | {len(runs)} | {epochs.pop()} | {' | '.join(columns)} | {seconds:.0f} |"


def main() -> int:
    """Command line: see the head of this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a run folder, or NAME=RUN[,RUN...]: a row")
    options = parser.parse_args()
    rows: dict[str, list[Path]] = {}
    for argument in options.runs:
        name, separator, paths = argument.partition("=")
        if separator and not Path(argument).exists():
            rows.setdefault(name, []).extend(Path(path) for path in paths.split(","))
        else:
            rows.setdefault("all", []).append(Path(argument))
    try:
        table = [row(name, [read(path) for path in paths]) for name, paths in rows.items()]
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print("| runs | n | epochs | last top-1 | best top-1 | many | medium | few | training, s |")
    print("|---|---|---|---|---|---|---|---|---|")
    print("\n".join(table))
    return 0


if __name__ == "__main__":
    sys.exit(main())
