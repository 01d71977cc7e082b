# ruff: noqa: E501  (a pattern reads best on one line)
"""Identifiers with a form or a label: numbers, mail, web, phones, plates, accounts.

Patterns are RE2 (linear time whatever the input) and run on a note's view: there `\\d` and `\\b` are ASCII, so a number is
found right beside Chinese characters. RE2 has no look-around; `border` names what may not touch the match.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from curation.deid import checks
from curation.deid.kinds import Kind, Note, Span
from curation.deid.patterns import compiled

Border = Literal["digit", "word", "none"]


@dataclass(frozen=True, slots=True)
class Rule:
    """Group 1 of `pattern` is the identifier; `accept` has the last word on it."""

    kind: Kind
    pattern: Any
    border: Border = "word"
    accept: Callable[[str], bool] | None = None

    def find(self, note: Note) -> Iterator[Span]:
        """All matches; after a refused one the search goes on one character further, not behind it."""
        view, place = note.view, 0
        while match := self.pattern.search(view, place):
            start, end = match.span(1)
            if self._free(view, start, end) and (self.accept is None or self.accept(match.group(1))):
                yield Span(start, end, self.kind)
                place = max(end, place + 1)
            else:
                place = start + 1

    def _free(self, view: str, start: int, end: int) -> bool:
        before, after = view[start - 1 : start], view[end : end + 1]
        return not (_touches(before, self.border) or _touches(after, self.border))


def _touches(character: str, border: Border) -> bool:
    if not character.isascii() or border == "none":
        return False
    return character.isdigit() if border == "digit" else character.isalnum()


def rule(kind: Kind, pattern: str, *, border: Border = "word", accept: Callable[[str], bool] | None = None) -> Rule:
    """A rule from the text of its pattern."""
    return Rule(kind, compiled(pattern), border, accept)


# Between a label and its value: "MRN: 1", "MRN# 1", "MRN No. 1", "MRN is 1", "病历号为 1".
_IS = r"(?i:[ \t]*(?:\(?(?:number|num|no|nr|id)\b\.?\)?)?[ \t]*(?:[:#=]|is\b|was\b|为|是)*[ \t]*[:#(]?[ \t]*)"
# The same where a bare label is an everyday word ("order 500 mg"): the word for a number is needed.
_NUMBER_IS = r"(?i:[ \t]*(?:#|(?:number|num|no|nr|id)\b\.?)[ \t]*(?:[:#=]|is\b|was\b)*[ \t]*)"
# A record number has a digit; letters, dashes, dots and slashes may stand in it.
_CODE = r"([A-Za-z]{0,6}[-./_]?\d[A-Za-z0-9]*(?:[-./_][A-Za-z0-9]+)*)"
_DATE = compiled(
    r"^(?:(?:19|20)\d\d[-./]\d{1,2}[-./]\d{1,2}|\d{1,2}[-./]\d{1,2}[-./](?:19|20)?\d\d|\d{1,2}[-./]\d{1,2})$"
)


def _number(digits: int) -> Callable[[str], bool]:
    """Has so many digits and does not look like a date, which is another detector's."""
    return lambda text: sum(map(str.isdigit, text)) >= digits and not _DATE.match(text)


def _labelled(kind: Kind, english: str, chinese: str = "", *, weak: str = "", code: str = _CODE) -> list[Rule]:
    """Rules for a value after its label. After a `weak` label only with "no.", "#", "number" or "id"."""
    rules = [rule(kind, rf"(?i:\b(?:{english})){_IS}{code}", accept=_number(3))]
    if weak:
        rules.append(rule(kind, rf"(?i:\b(?:{weak})){_NUMBER_IS}{code}", accept=_number(3)))
    if chinese:
        rules.append(rule(kind, rf"(?:{chinese}){_IS}{code}", accept=_number(3)))
    return rules


_RECORD = (
    r"mrns?\b|mr[ ]?#|medical[ ]record\b|(?:patient|pt|subject|member|subscriber|beneficiary|encounter)[ ]?(?:id|identifier)\b|"
    r"patient[ ](?:number|no\b\.?)|acct\b|account\b|accession\b|acc[ ]?#|csn\b|har\b|policy\b|medicare\b|medicaid\b|hicn\b|mbi\b|"
    r"npi\b|health[ ]plan\b|uhid\b|nhs\b|authori[sz]ation\b"
)
_WEAK_RECORD = (
    r"chart|record|encounter|visit|case|claim|member|subscriber|beneficiary|insurance|group|specimen|sample|order|requisition|"
    r"admission|hospital|study|exam|report|file|invoice|referral|confirmation|unit|donor|tracking|prescription|rx|dossier|"
    r"subject|participant|image|slide|block"
)
_RECORD_ZH = (
    r"病历号码?|病案号码?|住院号码?|门诊号码?|急诊号码?|就诊号码?|就诊卡号?|诊疗卡号?|检查号码?|检查编号|影像号码?|放射号|超声号|病理号|"
    r"登记号|医保卡?号?码?|社保卡?号?码?|社会保障号码?|条码号?|标本号|样本号|申请单?号|报告编?号|流水号|患者编?号|患者ID|病人ID|病人号|"
    r"ID号?|卡号|保单号码?|合同号|编号|序号|登记编号|住院编号|健康卡号?|新农合证?号|参保号|工号|CT号|MRI号|MR号|X线号|心电图号|内镜号"
)

RULES: tuple[Rule, ...] = (
    rule(
        Kind.EMAIL,
        r"([A-Za-z0-9][A-Za-z0-9._%+'-]*[ ]?@[ ]?[A-Za-z0-9](?:[A-Za-z0-9-]*\.)+[A-Za-z]{2,24})",
        border="none",
    ),
    rule(Kind.URL, r"(?i:((?:https?|ftp)://[^\s\"'<>，。；、（）)]+))", border="none"),
    rule(Kind.URL, r"(?i:(\bwww\.[a-z0-9.-]+[a-z0-9](?:/[^\s\"'<>，。；、（）)]*)?))", border="none"),
    rule(
        Kind.URL,
        r"(?i:(\b[a-z0-9][a-z0-9-]*(?:\.[a-z0-9-]+)*\.(?:com|org|net|edu|gov|io|cn|health|hospital|info|me|co\.uk|example)"
        r"\b(?:/[^\s\"'<>，。；、（）)]*)?))",
    ),
    rule(Kind.IP, r"(\d{1,3}(?:\.\d{1,3}){3})", accept=checks.ip_address),
    rule(Kind.IP, r"(?i:((?:[0-9a-f]{2}[:-]){5}[0-9a-f]{2}))"),
    rule(Kind.NATIONAL_ID, r"(\d{17}[0-9Xx])", border="digit", accept=checks.resident_id),
    rule(Kind.NATIONAL_ID, r"(\d{15})", border="digit", accept=checks.old_resident_id),
    rule(Kind.NATIONAL_ID, r"(\d{6}[ -]\d{4}[ -]?\d{4}[ -]\d{3}[0-9Xx])", border="digit"),
    rule(
        Kind.NATIONAL_ID,
        rf"(?:身份证件?号?码?|公民身份号码|证件号码?){_IS}([0-9*][0-9* -]{{5,19}}[0-9Xx*])",
        border="digit",
    ),
    rule(Kind.NATIONAL_ID, r"\b([A-Z]{1,2}\d{6}\([0-9A]\))", border="digit"),
    rule(Kind.SSN, r"(\d{3}-\d{2}-\d{4})", border="digit", accept=checks.social_security),
    rule(
        Kind.SSN,
        r"(?i:\b(?:ssn|ss[ ]?#|social[ ]security|soc[ ]sec)(?:[ ]?(?:number|no|#)\b\.?)?[ \t]*[:#=]?[ \t]*(?:is|was)?[ \t]*)"
        r"([0-9xX*]{3}[- .]?[0-9xX*]{2}[- .]?\d{4})",
        border="digit",
    ),
    rule(
        Kind.SSN,
        r"(?i:\b(?:ssn|social[ ]security)[^.\n]{0,40}(?:ending|last[ ](?:four|4)(?:[ ]digits)?)(?:[ ](?:in|with|of))?[: ]+)(\d{4})",
        border="digit",
    ),
    rule(Kind.SSN, r"(\d{3} \d{2} \d{4})", border="digit", accept=checks.social_security),
    rule(Kind.BANK_CARD, r"(\d(?:[ -]?\d){12,18})", border="digit", accept=checks.bank_card),
    rule(
        Kind.BANK_CARD,
        rf"(?:银行卡号?|银行账号|信用卡号?|储蓄卡号?|账号|帐号){_IS}(\d(?:[ -]?\d){{7,21}})",
        border="digit",
    ),
    *_labelled(
        Kind.PASSPORT,
        r"passport\b|travel[ ]permit\b",
        r"护照号?码?|通行证号?码?|港澳通行证|台胞证号?码?|回乡证号?码?|军官证号?",
    ),
    rule(Kind.PASSPORT, r"([EGDSP][A-Z]?\d{7,8})"),
    rule(Kind.PASSPORT, r"([HM]\d{8}(?:\d{2})?)"),
    *_labelled(
        Kind.LICENSE,
        r"licen[cs]e\b|dl[ ]?#|dea\b|badge\b|employee[ ]id\b",
        r"执业证书?编?号?码?|资格证书?编?号?码?|驾驶证号?码?|驾照号?码?|证书编?号",
        weak=r"lic|certificate|cert|registration|employee",
    ),
    *_labelled(
        Kind.DEVICE,
        r"serial\b|s/n\b|sn\b|device[ ]id\b|udi\b|imei\b",
        r"序列号|设备号|设备编号|器械编号|出厂编号|机身号|批号",
        weak=r"lot|device|implant|model|pump|generator",
    ),
    *_labelled(Kind.MRN, _RECORD, _RECORD_ZH, weak=_WEAK_RECORD),
    rule(Kind.MRN, r"(?i:\bmrn)[ \t]*[:#]?[ \t]*([A-Z]{1,4}[- ]?\d{3,})"),
    # Labelled phones may be short or oddly grouped.
    rule(
        Kind.PHONE,
        r"(?i:\b(?:tele?(?:phone)?|phone|ph|cell(?:ular)?(?:[ ]phone)?|mobile|mob|fax|pager|beeper|contact(?:[ ]number)?|call(?:back)?|ext(?:ension)?|whatsapp|hotline)"
        r"\b\.?[ ]?(?:\((?:home|work|cell|mobile|h|w|c|m|o)\)|number|num|no\b\.?|#)?)[ \t]*(?:[:#]|is|at|on)?[ \t]*(\+?\(?\d[\d ().+/-]{2,20}\d(?:[ ]?(?:x|ext\.?)[ ]?\d{1,6})?)",
        border="digit",
        accept=_number(4),
    ),
    rule(
        Kind.PHONE,
        r"(?:电话号?码?|手机号?码?|联系方式|传真号?码?|座机|热线|致电|拨打|分机|短号|电联|Tel|TEL)[为是及： :]*(?:[（(][^)）\n]{1,6}[)）])?[: ]*(\+?[(（]?\d[\d ()+/-]{3,20}\d)",
        border="digit",
        accept=_number(4),
    ),
    rule(Kind.PHONE, r"((?:\+?86[ -]?)?1[3-9]\d[ -]?\d{4}[ -]?\d{4})", border="digit"),
    rule(Kind.PHONE, r"((?:\+?86[ -]?)?1[3-9]\d{1}[*xX]{4}\d{4})", border="digit"),
    rule(Kind.PHONE, r"((?:\+?86[ -]?)?\(?0\d{2,3}\)?[ -]?\d{7,8}(?:-\d{1,6}|转\d{1,6})?)", border="digit"),
    rule(Kind.PHONE, r"([48]00-?\d{3,4}-?\d{3,4})", border="digit"),
    rule(
        Kind.PHONE,
        r"((?:\+?1[ .-]?)?\(\d{3}\)[ .-]?\d{3}[ .-]\d{4}(?:[ ,]*(?:x|ext\.?|extension)[ ]?\d{1,6})?)",
        border="digit",
    ),
    rule(
        Kind.PHONE,
        r"((?:\+?1[ .-]?)?[2-9]\d{2}[.-]\d{3}[.-]\d{4}(?:[ ,]*(?:x|ext\.?|extension)[ ]?\d{1,6})?)",
        border="digit",
    ),
    rule(Kind.PHONE, r"((?:\+?1 )?[2-9]\d{2} \d{3}[ -]\d{4})", border="digit"),
    rule(Kind.PHONE, r"(\+\d{1,3}[ .-]?\(?\d{1,4}\)?(?:[ .-]?\d{2,4}){2,4})", border="digit"),
    rule(Kind.PHONE, r"(555-\d{4})", border="digit"),
    rule(
        Kind.PLATE,
        r"([京津沪渝冀豫云辽黑湘皖鲁新苏浙赣鄂桂甘晋蒙陕吉闽贵粤青藏川宁琼使领][A-HJ-NP-Z][·. -]?[A-HJ-NP-Z0-9]{4,5}[A-HJ-NP-Z0-9挂学警港澳])",
    ),
    *_labelled(
        Kind.PLATE,
        r"licen[cs]e[ ]plate\b|vin\b|registration[ ]plate\b|plate[ ](?:number|no\b\.?|#)",
        r"车牌号?码?|车架号",
        code=r"([A-Z0-9]{2,8}(?:[- ][A-Z0-9]{2,5})?|[A-HJ-NPR-Z0-9]{17})",
    ),
    rule(
        Kind.ACCOUNT,
        r"(?i:(?:微信号?|wechat(?:[ ]id)?|QQ号?码?|weixin|支付宝(?:账号)?|user(?:name|[ ]?id)|login|skype|twitter|instagram|telegram|handle|line[ ]id)"
        r"[ \t]*(?:[:#=]|是|为|is)*[ \t]*)(@?[A-Za-z0-9][A-Za-z0-9_.-]{3,30})",
        accept=lambda text: any(character.isdigit() or character in "_@." for character in text),
    ),
)


def structured(note: Note) -> Iterator[Span]:
    """Spans of all rules; they may overlap."""
    for item in RULES:
        yield from item.find(note)
