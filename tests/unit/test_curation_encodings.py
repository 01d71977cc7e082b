"""Notes as hospital systems write them: the right text, or none; never a wrong one that hides a name."""

from __future__ import annotations

import codecs
import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from curation.deid.decode import decode_note
from curation.deid.keys import PseudonymKey
from curation.deid.tree import deidentify_tree
from curation.deid.unsafe import UnsafeError

KEY = PseudonymKey(b"k" * 32)
ZH = "患者王建国，男，因胸痛入院，电话13812345678。血压120/80mmHg，心肺检查未见明显异常，予口服药物治疗。\n"
EN = "Patient: Agnes Müller, MRN: MR-448812, was admitted with chest pain and a naïve expectation of 37 °C.\n"
RUSSIAN = "Пациент поступил с жалобами на боль в груди, состояние удовлетворительное, давление в норме.\n"
KOREAN = "환자는 가슴 통증으로 입원하였으며 혈압은 정상이고 특별한 이상 소견은 관찰되지 않았다 치료 후 퇴원하였다\n"
JAPANESE = "患者は胸の痛みで入院した。血圧は正常であり、特に異常は認められなかった。治療の後に退院した。\n"


def reason(data: bytes) -> str:
    with pytest.raises(UnsafeError) as caught:
        decode_note(data)
    return caught.value.reason


@pytest.mark.parametrize("text", [ZH, EN, ZH + EN])
@pytest.mark.parametrize(
    ("mark", "coding"),
    [
        (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"), (codecs.BOM_UTF8, "utf-8"),
        (b"", "utf-8"),
    ],
)  # fmt: skip
def test_a_mark_or_utf_8_is_believed(text: str, mark: bytes, coding: str) -> None:
    assert decode_note(mark + text.encode(coding)) == text


@pytest.mark.parametrize("coding", ["gbk", "gb18030", "gb2312"])
@pytest.mark.parametrize("text", [ZH, ZH * 500, "CT, MRI: " + ZH + "well\n" * 2000])
def test_chinese_in_gb_is_read(text: str, coding: str) -> None:
    assert decode_note(text.encode(coding)) == text


def test_a_rare_name_does_not_make_chinese_implausible() -> None:
    text = ZH.replace("王建国", "朱镕喆")
    assert decode_note(text.encode("gb18030")) == text


@pytest.mark.parametrize(
    "data",
    [
        EN.encode("latin-1"), EN.encode("cp1252"), "“Größe”: 3 cm, Übelkeit, ÄÖÜ".encode("cp1252"),
        (EN * 300).encode("latin-1"), "caf\xe9\n".encode("latin-1"), "25 \xb0\xb1 \xb5g".encode("latin-1"),
        RUSSIAN.encode("koi8-r"), RUSSIAN.encode("cp1251"), RUSSIAN.encode("cp866"), KOREAN.encode("euc-kr"),
        JAPANESE.encode("shift-jis"), JAPANESE.encode("euc-jp"), b"\x89PNG\r\n\x1a\n",
        b"\xff\xfe\0\0", "患者胸痛入院，血壓正常，檢查未見異常。".encode("big5"),
        ZH.encode("utf-32"), codecs.BOM_UTF16_LE + ZH.encode("utf-16-le")[:-1], codecs.BOM_UTF16_LE + b"\x00\xd8a\0",
    ],
)  # fmt: skip
def test_what_is_neither_is_not_guessed(data: bytes) -> None:
    assert reason(data) in {"encoding_not_known", "encodings_mixed"}


@pytest.mark.parametrize(
    "data",
    [
        ZH.encode("gbk") * 50 + "姓名：王建国\n".encode(),
        ZH.encode("gbk") * 50 + "Mr. Müller was here\n".encode("latin-1"),
        ZH.encode("gbk") * 50 + "Seen by Östlund\n".encode("latin-1"),
        ZH.encode("gbk") * 200 + (RUSSIAN * 40).encode("koi8-r"),
        EN.encode() * 50 + "Mr. Müller\n".encode("latin-1"),
        ZH.encode() * 50 + "姓名：王建国\n".encode("gbk"),
        codecs.BOM_UTF8 + ZH.encode("gbk"),
        EN.encode() + codecs.BOM_UTF8 + EN.encode(),
        EN.encode() + EN.encode().decode("latin-1").encode(),
    ],
)
def test_two_encodings_in_one_file_hold_it_back(data: bytes) -> None:
    assert reason(data) in {"encodings_mixed", "encoding_not_known", "binary"}


@pytest.mark.parametrize(
    "data",
    [
        b"well\0", ZH.encode("utf-16-le"), EN.encode("utf-16-be"), b"%PDF\x01", b"a\x1b[8mb", "a\x85b\x9dc".encode(),
        codecs.BOM_UTF16_LE + "well\0".encode("utf-16-le"),
    ],
)  # fmt: skip
def test_a_binary_file_is_no_note(data: bytes) -> None:
    assert reason(data) == "binary"


def test_ordinary_signs_pass() -> None:
    for text in ("", "\n", "PID|1||X\rPV1|1\x0b\n", "37 °C ± 0.5, 5 µg, “quoted” – 30 €\t\f", "Å Ø ß ñ Ç"):
        assert decode_note(text.encode()) == text


@pytest.mark.parametrize("coding", ["utf-16", "utf-8-sig", "gb18030", "utf-8"])
def test_each_encoding_is_redacted_and_written_as_utf_8(tmp_path: Path, coding: str) -> None:
    folder = tmp_path / "raw" / "patients" / "A"
    folder.mkdir(parents=True)
    meta = {"patient_id": "A", "patient": {"name": "王建国", "phone": "13812345678"}}
    (folder / "meta.json").write_text(json.dumps(meta))
    (folder / "note.txt").write_bytes(ZH.encode(coding))
    (folder / "note-b.txt").write_bytes(EN.encode("latin-1"))
    done = deidentify_tree(tmp_path / "raw", tmp_path / "clean", KEY, Ed25519PrivateKey.generate())
    (note,) = (tmp_path / "clean").rglob("note*.txt")
    text = note.read_bytes().decode("utf-8")
    assert "因胸痛入院" in text
    assert "王建国" not in text
    assert "13812345678" not in text
    assert done.quarantined == {"encoding_not_known": 1}
