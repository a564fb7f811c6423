"""NaturalQuestions-open: SQuAD's normalisation of text in Unicode form NFD."""

from __future__ import annotations

import unicodedata

from wfr.grading.qa import normalise


def normalise_nfd(text: str) -> str:
    """Decompose (NFD), then normalise as SQuAD does; accents stay, as separate characters."""
    return normalise(unicodedata.normalize("NFD", text))
