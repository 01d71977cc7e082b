"""What a channel of a recording may be called, in which unit: words of a list, or nothing of what was typed."""

from __future__ import annotations

import re
from typing import Final

# Standard leads, electrodes (10-20, 10-10) and the words of the EDF+ specification's labels, in lower case.
_WORD_LIST: Final = """
i ii iii avr avl avf v v1 v2 v3 v4 v5 v6 v7 v8 v9 v3r v4r mli mlii mliii
fp1 fpz fp2 af7 af3 afz af4 af8 f7 f5 f3 f1 fz f2 f4 f6 f8 ft7 ft8 fc5 fc3 fc1 fcz fc2 fc4 fc6 t7 t8 t3 t4 t5 t6
c5 c3 c1 cz c2 c4 c6 tp7 tp8 cp5 cp3 cp1 cpz cp2 cp4 cp6 p7 p5 p3 p1 pz p2 p4 p6 p8 po7 po3 poz po4 po8 o1 oz o2
a1 a2 m1 m2 e1 e2 x y z eeg ecg ekg eog emg lead ref le re av avg left right l r loc roc chin leg tib
resp airflow flow nasal oral thor thorax chest abd abdomen abdominal effort snore snoring position body
sao2 spo2 pleth plethysmograph ppg pulse hr heart rate temp temperature rectal abp art bp cvp pap icp co2 etco2
status marker event events trigger light battery sound dc acc accx accy accz edf annotations signal ch channel
"""
_UNIT_LIST: Final = """
v mv uv nv µv % bpm hz degc c f k mmhg cmh2o pa kpa l l/min ml/min ml/s l/s ohm kohm g mg s ms /min 1/min db nu m/s2
boolean
"""
_WORDS, _UNITS = frozenset(_WORD_LIST.split()), frozenset(_UNIT_LIST.split())
_SEPARATORS = re.compile(r"[\s\-_+/:.]+")
_NUMBER = re.compile(r"[0-9]{1,3}")
# EDF+ 2.1.3: filters in this form; the notch is `N`.
_FILTERS = re.compile(
    r"(?:(?:HP|LP|N|BP):\s?(?:DC|[0-9.]{1,6}(?:-[0-9.]{1,6})?)\s?[kmu]?(?:Hz|s)?[\s;,]*)+", re.IGNORECASE
)
_BRACKETED = re.compile(r"\s*\([^)]*\)?")


def channel_name(name: str, number: int) -> str:
    """The name if all of its words are known ones, else `signal` and its number (from 1)."""
    words = [word for word in _SEPARATORS.split(_BRACKETED.sub("", name).strip().lower()) if word]
    if words and all(word in _WORDS or _NUMBER.fullmatch(word) for word in words):
        return _BRACKETED.sub("", name).strip()
    return f"signal {number}"


def unit_name(unit: str) -> str:
    """The unit if it is a known one, else nothing."""
    return unit.strip() if unit.strip().lower() in _UNITS else ""


def filter_text(text: str) -> str:
    """The description of filters if it is just that, else nothing."""
    return text.strip() if _FILTERS.fullmatch(text.strip()) else ""
