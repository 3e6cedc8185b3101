"""results.py: the JSON file in which experiments and benchmark keep their results, part by part."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def load(path: Path) -> dict[str, Any]:
    """The results so far."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def keep(path: Path, results: dict[str, Any]) -> None:
    """Write the results, whole or not at all."""
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    fresh.replace(path)
