# ruff: noqa: E501  (a pattern reads best on one line)
"""Identifiers with a form or a label: numbers, mail, web, phones, plates, accounts."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from curation.deid import checks, codes
from curation.deid.kinds import Kind, Note, Span
from curation.deid.patterns import Family, compiled
from curation.deid.rules import Rule, rule
from curation.deid.words import words

# Between a label and its value: "MRN: 1", "MRN# 1", "MRN No. 1", "MRN is 1", "病历号为 1".
_IS = r"(?i:[ \t]*(?:\(?(?:number|num|no|nr|id)\b\.?\)?)?[ \t]*(?:[:#=]|is\b|was\b|为|是)*[ \t]*[:#(]?[ \t]*)"
# The same where a bare label is an everyday word ("order 500 mg"): the word for a number is needed.
_NUMBER_IS = r"(?i:[ \t]*(?:#|(?:number|num|no|nr|id)\b\.?)[ \t]*(?:[:#=]|is\b|was\b)*[ \t]*)"
# A record number has a digit; letters, dashes, dots and slashes may stand in it; blanks between groups of digits.
_CODE = (
    r"((?:[A-Za-z]{1,3}[ ])?(?:[A-Za-z]{1,8}[-./_:]?){0,3}\d[A-Za-z0-9]*(?:[-./_:][A-Za-z0-9]+)*(?:[ ]\d{3,4}\b){0,3})"
)
_DATE = compiled(
    r"^(?:(?:19|20)\d\d[-./](?:1[0-2]|0?[1-9])[-./](?:3[01]|[12]\d|0?[1-9])|(?:1[0-2]|0?[1-9])[-./](?:3[01]|[12]\d|0?[1-9])[-./](?:19|20)\d\d|"
    r"(?:1[0-2]|0?[1-9])/(?:3[01]|[12]\d|0?[1-9])(?:/\d\d)?)$"
)


def _number(digits: int) -> Callable[[str], bool]:
    """Has so many digits and does not look like a date, which is another detector's."""
    return lambda text: sum(map(str.isdigit, text)) >= digits and not _DATE.match(text)


def _mixed(text: str) -> bool:
    """Capitals and digits, as on plates."""
    return any(map(str.isdigit, text)) and any(map(str.isalpha, text)) and sum(map(str.isalnum, text)) >= 5


def _long_code(text: str) -> bool:
    """At least five characters, three of them digits, with a letter or a dash: not a size and not a count."""
    plain = sum(map(str.isalnum, text))
    return (
        plain >= 5 and sum(map(str.isdigit, text)) >= 3 and not (text.isdigit() and plain < 6) and not _DATE.match(text)
    )


def _bare_code(text: str) -> bool:
    """A code without a label: many digits among capitals, and neither a classification's code nor a quantity."""
    head = text[: next((place for place, character in enumerate(text) if character.isdigit()), 0)]
    return (
        sum(map(str.isdigit, text)) >= 4
        and any(map(str.isupper, text))
        and head not in {"NCT", "COVID-", "COVID", "ISRCTN", "PMID"}
    )


def _iban(text: str) -> bool:
    """Countries' account numbers have at least eight digits after the bank; a sentence has none."""
    return sum(map(str.isdigit, text)) >= 10


def _bare_number(text: str) -> bool:
    return not checks.plausible_date(text[:4], text[4:6], text[6:8]) if len(text) == 8 else True


def _labelled(kind: Kind, english: str, chinese: str = "", *, weak: str = "", code: str = _CODE) -> list[Rule]:
    """Rules for a value after its label. After a `weak` label only with "no.", "#", "number" or "id"."""
    rules = [rule(kind, rf"(?i:\b(?:{english})){_IS}{code}", accept=_number(2))]
    if weak:
        rules.append(rule(kind, rf"(?i:\b(?:{weak})){_NUMBER_IS}{code}", accept=_number(2)))
    if chinese:
        rules.append(rule(kind, rf"(?:{chinese}){_IS}{code}", accept=_number(2)))
    return rules


_RECORD = (
    r"mrns?\b|mr[ ]?#|med(?:ical)?[ ]rec(?:ord)?\b\.?|urn?\b|fin\b|emr\b|ehr\b|epic\b|(?:patient|pt|subject|member|subscriber|beneficiary|encounter)[ ]?(?:id|identifier)\b|"
    r"patient[ ](?:number|no\b\.?)|acct\b|account\b|accession\b|acc[ ]?#|csn\b|har\b|policy\b|medicare\b|medicaid\b|hicn\b|mbi\b|"
    r"npi\b|accn\b|billing\b|requisition\b|(?:visit|exam|study|order|report|case|specimen|bill|insurance|group|job|staff|employee|claim|file|chart|record|donor|sample|ticket|locker|invoice)[ ]?(?:id|no|number|num|code|ref)\b\.?|ref(?:erence)?[ ]?(?:no|number|#)|health[ ]plan\b|uhid\b|nhs\b|authori[sz]ation\b"
)
_WEAK_RECORD = (
    r"chart|record|encounter|visit|case|claim|member|subscriber|beneficiary|insurance|group|specimen|sample|order|requisition|"
    r"admission|hospital|study|exam|report|file|invoice|referral|confirmation|unit|donor|tracking|prescription|rx|dossier|"
    r"subject|participant|image|slide|block"
)
_RECORD_ZH = (
    r"体检编?号|会诊编?号|检验号|化验单号|处方号|发票号|收据号|预约号|排队号|挂号|订单号|账单号|结算号|投保单号|保险号|保险单号|病员号|病历编号|科研编号|受试者编?号|入组号|员工号|职工号|工作证号|胸牌号|学号|案卷号|档案号|手术编?号|麻醉编?号|血袋号|献血码|病历号码?|病案号码?|住院号码?|门诊号码?|急诊号码?|就诊号码?|就诊卡号?|诊疗卡号?|检查号码?|检查编号|影像号码?|放射号|超声号|病理号|"
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
    rule(Kind.SSN, r"(\d{3}-\d{2}-\d{4})", border="digit"),
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
    rule(Kind.SSN, r"(\d{3}[ .]\d{2}[ .]\d{4})", border="digit"),
    # An IBAN: country, two check digits, groups of four.
    rule(Kind.BANK_CARD, r"(?i:([a-z]{2}\d{2}(?:[ \n]?[a-z0-9]{4}){3,7}(?:[ \n]?[a-z0-9]{1,3})?))", accept=_iban),
    rule(Kind.BANK_CARD, r"(\d(?:[ -]?\d){12,18})", border="digit", accept=checks.bank_card),
    rule(
        Kind.BANK_CARD,
        rf"(?:银行卡号?|银行账号|信用卡号?|储蓄卡号?|账号|帐号){_IS}(\d(?:[ -]?\d){{7,21}})",
        border="digit",
    ),
    *_labelled(
        Kind.PASSPORT,
        r"passport\b|(?:travel[ ]|residence[ ]|work[ ]|hong[\s]kong[\s]|macau[ ]|taiwan[ ])?permit\b|visa\b|hkid\b",
        r"护照号?码?|通行证号?码?|港澳通行证|台胞证号?码?|回乡证号?码?|军官证号?",
    ),
    rule(Kind.PASSPORT, r"([EGDSP][A-Z]?\d{7,8})"),
    rule(Kind.PASSPORT, r"([HM]\d{8}(?:\d{2})?)"),
    *_labelled(
        Kind.LICENSE,
        r"licen[cs]e\b|dl\b|dea\b|gmc\b|nmc\b|badge\b|employee[ ]id\b|lic\b\.?|state[ ]id\b|medical[ ]council\b|pin\b|registration\b",
        r"执业证书?编?号?码?|资格证书?编?号?码?|驾驶证号?码?|驾照号?码?|证书编?号",
        weak=r"lic|certificate|cert|registration|employee",
    ),
    *_labelled(
        Kind.DEVICE,
        r"serial\b|ser\b\.?|s/n\b|sn\b|device[ ]id(?:entifier)?\b|udi(?:-di|-pi)?\b|imei\b|gtin\b|asset\b(?:[ ]tag)?|device[ ]identifier",
        r"序列号|设备号|设备编号|器械编号|出厂编号|机身号|机身编号|主机号|[^手]机号|仪器号|机器编?号|仪器编?号|产品编?号|植入物编?号|起搏器编?号|泵编?号|呼吸机编?号|条形码|唯一标识|资产编?号|批号|SN码?",
        weak=r"lot|device|implant|model|pump|generator|pacemaker|icd|lead|monitor|scanner|unit|valve|stent|machine|ventilator|catalog(?:ue)?|cat|ref|part",
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
        r"((?:\+?1[ .-]?)?[1-9]\d{2}[.-]\d{3}[.-]\d{4}(?:[ ,]*(?:x|ext\.?|extension)[ ]?\d{1,6})?)",
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
        Kind.PLATE,
        r"(?i:\b(?:plates?|registration|reg|tag|vehicle|car|truck|van|sedan|suv|taxi|motorcycle|vin|driving|drove)\b[^\n.;]{0,25}?\b)((?i:[A-Z]{1,3}[- ]?\d{1,4}[- ]?[A-Z]{0,3}|\d{1,4}[- ]?[A-Z]{1,3}[- ]?\d{0,4}|[A-Z0-9]{5,8})|[A-HJ-NPR-Z0-9]{17})",
        accept=_mixed,
    ),
    rule(
        Kind.DEVICE,
        r"(?i:(?:\b(?:device|machine|cart|recorder|equipment|scanner|analy[sz]er|implant|generator|lead|valve|stent|prosthesis|graft|pump|pacemaker|icd|monitor|system|s/n|sn)\b|设备|仪器|机器|机号|主机|机型|监护仪|心电图机|记录仪|除颤仪|支架|假体)"
        r"[^\n.;，。]{0,40}?[ :(#：])([A-Za-z]{0,6}[-/]?\d[A-Za-z0-9]*(?:[-/][A-Za-z0-9]+)*)",
        accept=_long_code,
    ),
    rule(Kind.DEVICE, r"(\(01\)\d{14}(?:\(\d{2}\)[A-Za-z0-9-]{2,20})*)", border="none"),
    rule(Kind.PHONE, r"(\(?0\d{2,4}\)?[ -]\d{3,4}[ -]?\d{3,4})", border="digit"),
    rule(Kind.PHONE, r"(?i:\b(?:ext(?:ension)?|pager|beeper|bleep|extn)\b\.?[ ]?[:#]?[ ]?)(\d{3,6})", border="digit"),
    rule(Kind.PHONE, r"\b(x[ ]?\d{4,5})"),
    rule(Kind.PHONE, r"(?i:\b(?:ext(?:ension)?|pager|beeper|bleep|extn)\b\.?[ ]?[:#]?[ ]?)([A-Za-z]\d{3,5})"),
    rule(
        Kind.MRN,
        r"(?i:\b(?:report|ticket|specimen|case|claim|invoice|accession|sample|file|chart|record|requisition|病人|patient)\b)[ :#\n]{1,3}(\d{5,12})",
        accept=_number(5),
    ),
    rule(
        Kind.MRN,
        r"(?i:(?:\bmrn|住院号|病案号|\bchart|record)\b?[^\d\n]{0,12})(\d{2}[ ]\d{2}[ ]\d{2}(?:[ ]\d{1,2})?)",
        border="digit",
    ),
    rule(
        Kind.IP,
        r"(?i:(?:\bip\b|\bfrom\b|地址|登录)[ :]*)((?:10|192\.168|172\.\d\d)\.\d{1,3}\.\d{1,3}(?:\.\d{1,3})?)",
        border="digit",
    ),
    rule(Kind.PHONE, r"(?:分机号?|内线|短号|小号)[:： 为]{0,2}(\d{3,6})", border="digit"),
    rule(Kind.PHONE, r"(0\d{10})", border="digit"),
    rule(Kind.PHONE, r"(00\d{1,3}[ -]?\d{2,4}(?:[ -]?\d{3,4}){2})", border="digit"),
    rule(
        Kind.IP,
        r"(?i:((?:[0-9a-f]{1,4}:){3,7}:?(?:[0-9a-f]{1,4}(?::[0-9a-f]{1,4})*)?|[0-9a-f]{1,4}(?::[0-9a-f]{1,4})*::(?:[0-9a-f]{1,4}(?::[0-9a-f]{1,4})*)?))",
    ),
    rule(
        Kind.WARD,
        r"(?i:\b((?:ward|room|rm|bed|bay|cubicle|suite|bldg|building|pod)\b\.?[ ]?(?:no\.?|number|#|:)?[ ]?[A-Za-z]?-?\d{1,4}[A-Za-z]?(?:[-/]\d{1,3}[A-Za-z]?|[-/][A-Za-z])?(?:[ ](?:north|south|east|west|[nsew])\b)?"
        r"(?:,?[ ](?:bed|bay|room|rm)\b[ ]?(?:no\.?|#|:)?[ ]?[A-Za-z]?-?\d{0,4}[A-Za-z]?)?))",
    ),
    rule(
        Kind.WARD,
        r"(\b\d{1,2}[ -]?(?:North|South|East|West|NORTH|SOUTH|EAST|WEST)\b(?:[ ,]{1,2}(?i:bed|room)[ ]?\d{1,4}[A-Z]?)?)",
    ),
    rule(
        Kind.WARD,
        r"(?i:\b((?:ward|unit|floor|icu|micu|sicu|ccu|nicu|picu|er|ed|pacu)[ ](?:bed|bay|room)[ ]?#?[ ]?\d{1,3}[a-z]?))",
    ),
    rule(Kind.WARD, r"(?i:\b((?:unit|floor|level)[ ]\d{1,2}[a-z]|\d{1,2}(?:st|nd|rd|th)[ ]floor)\b)"),
    rule(
        Kind.WARD,
        r"(?i:\b(?:ward|unit)[ ])([{U}][{L}]{2,}|[0-9]{1,2}[A-Z]?)",
        accept=lambda text: text[0].isdigit() or text.lower() not in words("not_names_en") | words("ordinary_en"),
    ),
    rule(Kind.WARD, r"(\b[A-Z]\d{1,2}[ ](?i:ward|bed)\b(?:[ ]?\d{1,3})?)"),
    rule(
        Kind.WARD,
        r"((?:[一二三四五六七八九十0-9A-Z]{1,3}(?:号楼|楼|层|区|病区|病室|病房|号病房|室))?(?:\p{Han}{1,8}(?:科|中心|ICU))?(?:[一二三四五六七八九十0-9A-Z]{1,3}(?:病区|病室|病房|号病房|区|层|楼))?(?:[东西南北]区)?[,， ]?[0-9A-Z+加-]{1,5}[ ]?(?:号床|床位|床))",
        border="none",
        accept=_number(1),
    ),
    rule(
        Kind.WARD,
        r"((?:\p{Han}{1,8}科)?[一二三四五六七八九十0-9A-Z]{1,3}(?:病区|病室|病房|号病房|护理单元)(?:[东西南北]区)?)",
        border="none",
    ),
    rule(
        Kind.WARD,
        r"(?:床号|床位号?|病床号?|病区|病房号?|房号|病室)[:：为 ]{1,3}([\p{Han}A-Z0-9+-]{1,12})",
        border="none",
    ),
    rule(
        Kind.WARD,
        r"(?i:\b(?:bed|room|rm|ward|bay|病区[ ]?ward|床)\b\.?[ ]?(?:no\.?|number|#|:)?[ \n]?)((?i:[a-z]{1,4}-\d{1,4}[a-z]?|[a-z]?\d{1,4}[a-z]?(?:-\d{1,3}[a-z]?)?))",
    ),
    rule(
        Kind.WARD,
        r"(?:病区|病房|床号|床位|床)[:： 号]{0,2}(加?[ ]?\d{1,4}[A-Z]?(?:-\d{1,3})?|[A-Z]\d{0,3}|加[ ]?[0-9一二三四五六七八九十])",
    ),
    rule(Kind.NUMBER, r"([A-Z]{1,6}[-/]?\d[A-Z0-9]*(?:[-/][A-Z0-9]+)*)", accept=_bare_code),
    rule(Kind.NUMBER, r"(\d{2,}[A-Z]{1,3}\d{2,}[A-Z0-9]*|\d{1,}-[A-Z]{1,4}-\d{3,})", accept=_number(5)),
    rule(Kind.NUMBER, r"(\d{7,20})(?:[^\d.%]|\.(?:\D|$)|$)", border="digit", accept=_bare_number),
    rule(Kind.NUMBER, r"(\d{2,6}(?:-\d{2,6}){2,4})", accept=_number(6)),
    rule(
        Kind.ACCOUNT,
        r"(?i:(?:微信号?|wechat(?:[ ]id)?|QQ号?码?|weixin|支付宝(?:账号)?|user(?:name|[ ]?id)|login|skype|twitter|instagram|telegram|handle|line[ ]id)"
        r"[ \t]*(?:[:#=]|是|为|is)*[ \t]*)(@?[A-Za-z0-9][A-Za-z0-9_.-]{3,30})",
        accept=lambda text: any(character.isdigit() or character in "_@." for character in text),
    ),
)


_ALL = (*RULES, *codes.RULES)
_FAMILY = Family(item.pattern for item in _ALL)


def structured(note: Note) -> Iterator[Span]:
    """Spans of all rules; they may overlap."""
    for number in _FAMILY.matching(note.view):
        yield from _ALL[number].find(note)
