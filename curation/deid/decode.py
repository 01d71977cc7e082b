"""Bytes → text, in a strict order: byte order mark, UTF-8, GB 18030 where it gives plausible Chinese; else nothing.

A wrong guess is worse than none: identifiers that come out as other characters are found by no detector, and whoever
knows the true encoding can read them. Latin-1 and Windows-1252 can't be told from their many relatives, so a file of
bytes beyond ASCII that is none of the above is held back for a person to convert.
"""

from __future__ import annotations

import codecs
import re
import unicodedata
from string import ascii_letters

from curation.deid.unsafe import UnsafeError

UNKNOWN, MIXED, BINARY = "encoding_not_known", "encodings_mixed", "binary"
# Lines and pages end with these; HL7 messages hold \v and \r. Any other control character is no text of a person.
_CONTROLS = re.compile(r"[\x00-\x08\x0e-\x1f\x7f\x80-\x84\x86-\x9f]")
_HAN = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U0003ffff]")
# Two Chinese characters in UTF-8. In GB 18030 the same bytes are three, and by chance about once in a million.
_UTF8_HAN = re.compile(rb"(?:[\xe4-\xe9][\x80-\xbf]{2}){2}")
# What Latin-1 makes of UTF-8: the sign that somebody decoded a part wrongly and stored it again.
_TWICE = re.compile(r"[\u00c2-\u00f4][\u0080-\u00bf]")
# Ordinary Chinese and clinical writing: these are more than a third of it, and 4 % of any 3755 characters at random.
_COMMON = frozenset(
    "的一是了在有不人我这患者病年月日入院出诊断治疗检查血压心肺腹无痛发现因为中上下左右大小手术前后予以及与和未见"
    "明显异常正性体温脉呼吸次分钟主诉史家属医师生护士姓名男女岁号科住床记录时间来可行给药口服每天量部双侧音清请"
    "电话地址联系复随本周肝肾脑骨胸头颈四肢活动水肿好轻重度高低糖尿冠脏急慢性期症状咳嗽热加重个到对个他她要会就"
)
# Where an ASCII letter and a character beyond ASCII touch.
_BORDER = re.compile(r"(?=([A-Za-z][^\x00-\x7f]|[^\x00-\x7f][A-Za-z]))")
# Below this many Chinese characters chance decides.
_LEAST_HAN = 8
# Shares. GB 2312 holds all but rare names; text in Big5, Shift JIS or Latin-1 decodes to characters outside it, text in
# Korean, Japanese or Russian codes to ones inside it that nobody writes.
_MOST_RARE, _LEAST_COMMON = 0.1, 0.15
# Characters that are judged at a time: a long file must not hide a short piece in another encoding.
_STRETCH = 4096


def decode_note(data: bytes) -> str:
    """The text of a note, without its byte order mark.

    Raises:
        UnsafeError: `encoding_not_known`, `encodings_mixed`, or `binary` (a NUL or another control character).
    """
    text = _decoded(data)
    if _CONTROLS.search(text):
        raise UnsafeError(BINARY)
    if "\ufeff" in text:  # two files in one, or a mark of no meaning
        raise UnsafeError(MIXED)
    return text


def _decoded(data: bytes) -> str:
    try:
        # A longer mark first: that of UTF-32 begins with that of UTF-16.
        for mark, coding in (
            (codecs.BOM_UTF32_LE, ""), (codecs.BOM_UTF32_BE, ""), (codecs.BOM_UTF8, "utf-8"),
            (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"),
        ):  # fmt: skip
            if data.startswith(mark):
                if not coding:
                    raise UnsafeError(UNKNOWN)
                return data[len(mark) :].decode(coding)
        if b"\0" in data:
            raise UnsafeError(BINARY)
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return _chinese(data)
    if any(_made_twice(match.group()) for match in _TWICE.finditer(text)):
        raise UnsafeError(MIXED)
    return text


def _made_twice(pair: str) -> bool:
    """Whether two characters are one letter of UTF-8 that was read as Latin-1 ("Ã¼")."""
    try:
        return unicodedata.category(pair.encode("latin-1").decode("utf-8")).startswith("L")
    except (UnicodeEncodeError, UnicodeDecodeError):
        return False


def _chinese(data: bytes) -> str:
    if data.startswith((codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise UnsafeError(MIXED)  # it says what it is, and is not
    try:
        text = data.decode("gb18030")
    except UnicodeDecodeError:
        raise UnsafeError(UNKNOWN) from None
    counts = [_count(text[start : start + _STRETCH]) for start in range(0, len(text), _STRETCH)]
    if not _is_chinese(*(sum(column) for column in zip(*counts, strict=True))):
        raise UnsafeError(UNKNOWN)
    if _UTF8_HAN.search(data) or any(_ends_in_letter(pair.group(1)) for pair in _BORDER.finditer(text)):
        raise UnsafeError(MIXED)
    # A stretch with few Chinese characters proves nothing by itself; the checks above still hold for it.
    if any(count[1] >= 4 * _LEAST_HAN and not _is_chinese(*count) for count in counts):
        raise UnsafeError(MIXED)
    return text


def _count(text: str) -> tuple[int, int, int, int]:
    """Characters beyond ASCII; of them the Chinese, the rare and the common ones."""
    others = [character for character in text if character > "\x7f"]
    han = [character for character in others if _HAN.match(character)]
    rare = sum(not _in_gb2312(character) for character in others)
    return len(others), len(han), rare, sum(character in _COMMON for character in han)


def _is_chinese(others: int, han: int, rare: int, common: int) -> bool:
    """Enough Chinese characters, few rare ones among all beyond ASCII, and the common ones as common as they are."""
    return han >= _LEAST_HAN and rare <= _MOST_RARE * others and common >= _LEAST_COMMON * han


def _in_gb2312(character: str) -> bool:
    try:
        character.encode("gb2312")
    except UnicodeEncodeError:
        return False
    return True


def _ends_in_letter(pair: str) -> bool:
    """Whether a letter with an accent and the next one were read as one character ("Mü" + "ll" is "M黮l")."""
    encoded = pair.strip(ascii_letters).encode("gb18030")
    return len(encoded) == 2 and encoded[1:].isalpha()
