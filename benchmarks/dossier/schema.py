"""Writes dossier.schema.json, the JSON schema of a dossier: `python -m benchmarks.dossier.schema`."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.dossier.model import Dossier
from medllm.files import write_atomic

if __name__ == "__main__":
    text = json.dumps(Dossier.model_json_schema(), indent=2, ensure_ascii=False) + "\n"
    write_atomic(Path(__file__).with_name("dossier.schema.json"), text)
