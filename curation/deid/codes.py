# ruff: noqa: E501  (a pattern reads best on one line)
"""Identifiers by their surroundings: codes behind a word for them, places in a hospital, numbers that are spelled out."""

from __future__ import annotations

from curation.deid.kinds import Kind
from curation.deid.names_en import is_given, is_surname, ordinary
from curation.deid.rules import Rule, rule

_DIGIT_WORD = r"(?:zero|oh|one|two|three|four|five|six|seven|eight|nine|double|triple|hundred)"
# Words for a list entry, a person in custody, a journey. The code behind them has four digits or more.
_CODED = (
    r"booking|inmate|run|ref|reference|docket|warrant|case|file|chart|claim|ticket|permit|policy|cert(?:ificate)?|badge|staff|employee|payroll|member|subscriber|group|plan|rx|script|prescription|order|invoice|receipt|tracking|incident|report|job|event|pcr|cad|"
    r"trip|voucher|auth(?:orization|orisation)?|referral|confirmation|locker|valuables|bag|tag|seal|kit|specimen|sample|slide|block|cassette|biopsy|study|subject|participant|screening|randomi[sz]ation|donor|unit|crossmatch|band|wristband|label|barcode|"
    r"medicare|medicaid|insurance|ins|ssi|va|ppsn?|chi|nhs|nino?|hicn|mbi|ohip|phn|ihi|dva|tfn|abn|acc|nhi|aadhaar|abha|uhid|ipd?|opd?|reg(?:istration)?|enrol?ment|student|service|military|dod|edipi|tribal|enrollment"
)
# Such a count or amount is no code.
_AMOUNT = (
    "iu",
    "u",
    "mg",
    "mcg",
    "ml",
    "cfu",
    "k",
    "x",
    "h",
    "hz",
    "mm",
    "cm",
    "g",
    "kg",
    "cc",
    "am",
    "pm",
    "mv",
    "kv",
    "gy",
    "cgy",
    "bpm",
    "kcal",
    "s",
    "th",
    "nd",
    "rd",
    "st",
)


_READINGS = frozenset(
    (
        "BP",
        "HR",
        "RR",
        "EF",
        "CT",
        "SBP",
        "DBP",
        "MAP",
        "INR",
        "WBC",
        "PLT",
        "HGB",
        "HU",
        "TSH",
        "PSA",
        "LDL",
        "HDL",
        "ICD",
        "CPT",
        "ALT",
        "AST",
        "BNP",
        "CRP",
        "ESR",
        "LDH",
        "CK",
        "UO",
        "VT",
        "TV",
        "IU",
        "NS",
    )
)


def _code(text: str) -> bool:
    """Three digits or more, and no amount."""
    letters = "".join(filter(str.isalpha, text)).lower()
    return sum(map(str.isdigit, text)) >= 3 and letters not in _AMOUNT


def _number_code(text: str) -> bool:
    """Four digits or more, and no amount, no year."""
    return _code(text) and sum(map(str.isdigit, text)) >= 4 and not (len(text) == 4 and text[:2] in {"19", "20"})


def _uneven(text: str) -> bool:
    """Two groups of digits that are no range: the first is longer, or begins with 0, or the second is much longer."""
    first, second = text.split("-")
    return len(first) + len(second) >= 6 and (
        len(first) > len(second) or first.startswith("0") or len(second) - len(first) >= 2
    )


def _log_in(text: str) -> bool:
    """Two words of which one is a name: "tobias.ekholm", not "home.she"."""
    first, second = text.rstrip("0123456789").split(".")
    return any(
        len(part) > 2 and not ordinary(part) and (is_given(part) or is_surname(part)) for part in (first, second)
    )


RULES: tuple[Rule, ...] = (
    rule(Kind.EMAIL, r"(?i:([a-z0-9][a-z0-9._-]{1,40}[ ]?(?:[ \[(]at[\])]?|@)[ ]?[a-z0-9-]{2,30}(?:[ ]?(?:[ \[(]dot[\])]?|\.)[ ]?[a-z]{2,12}){1,3}))", accept=lambda text: any(mark in text.lower() for mark in ("dot", "@", "(at", "[at"))),
    rule(Kind.PHONE, rf"(?i:\b((?:{_DIGIT_WORD}[ -,]{{1,2}}){{5,}}{_DIGIT_WORD})\b)"),
    rule(Kind.PHONE, r"(555[-. ]?\d{4})", border="digit"),
    rule(Kind.PHONE, r"(?i:\b(?:call|cell|tel|phone|ph|home|mobile|contact|number|reach(?:ed|able)?|text|page|pager|bleep|fax|voicemail|callback|line|vm|h|c|w|m)\b[^\n\d]{0,16})(\(?\d{3,4}\)?[-. ]?\d{3,4}(?:[-. ]?\d{3,4})?)", border="digit"),
    rule(Kind.PHONE, r"(?i:\b(?:ext|extn|extension|x|vocera|spectralink|ascom|dect|zone|bleep|pager|pgr|beeper)\b\.?[ #:]*(?:is|at)?[ ]?)(\d{3,6})", border="digit"),
    rule(Kind.SSN, r"(?i:\b(?:last|final)[ ](?:four|4)(?:[ ]digits?)?(?:[ ](?:of|ssn?|social|his|her|the))*[ ]*(?:[:#=-]|is|are)*[ ]*)(\d{4})", border="digit"),
    rule(Kind.SSN, r"(?i:\b(?:ssn?|social|sin|soc)\b\.?[^\d\n]{0,24})(\d{4}|\d{9}|\d{3}[ -]\d{3}[ -]\d{3})", border="digit"),
    rule(Kind.MRN, rf"(?i:\b(?:{_CODED})\b\.?[ \t]{{0,2}}(?:[:#=]|no\.?|number|num|id)?[ \t#:]{{0,2}})((?:[A-Z]{{1,4}}[-/ ]?)?\d[A-Za-z0-9]*(?:[-/.][A-Za-z0-9]+)*(?:[ ]\d{{3,6}}[A-Z]?\b)*)", accept=_number_code),
    rule(Kind.DEVICE, r"(?i:\b(?:lot|batch|ref|model|mod|cat|catalog(?:ue)?|implant|sn|s/n|serial|ser|asset|tag|pump|unit|monitor|vent(?:ilator)?|device|scanner|probe|transducer|defib|aed|pacer|lead|generator)\b\.?[ ]?(?:[:#=]|no\.?|number)?[ #:]{0,2})([A-Z0-9]{1,8}(?:[-/.][A-Z0-9]+){0,4})", accept=lambda text: _code(text) and (any(map(str.isalpha, text)) or len(text) >= 5 or "-" in text)),
    rule(Kind.NUMBER, r"(\d{2,7}-\d{2,7})", accept=_uneven),
    rule(Kind.NUMBER, r"(\d{3}[ ]\d{3}[ ]\d{3,4}[A-Z]?|\d{4}[ ]\d{5}[ ]\d|\d{3}[ ]\d{4}[ ]\d{3,4})"),
    rule(Kind.NUMBER, r"([A-Z]{2,4}[ -]?\d{3}[ -]\d{3,6}(?:[ -]?\d{1,4})?[A-Z]?)", accept=lambda text: text[:2] not in _READINGS and text[:3] not in _READINGS),
    rule(Kind.NUMBER, r"(\d{5,}[A-Z]{1,3}|[A-Z]{2,4}\d{3,}[A-Z]{1,4}\d*|[A-Z]\d{2,}[A-Z]\d{2,}[A-Z0-9]*)", accept=_number_code),
    rule(Kind.ACCOUNT, r"(?:^|[\s(,;:])(@[A-Za-z0-9_][A-Za-z0-9_.]{2,30})"),
    rule(Kind.DEVICE, r"(?i:\b(?:lot|batch)\b[ ]?(?:[:#=]|no\.?|number)?[ #:]{0,2})([A-Z0-9][A-Z0-9-]{3,14})", accept=lambda text: any(map(str.isdigit, text)) and text.lower() != "of"),
    rule(Kind.ACCOUNT, r"(?i:\b(?:user(?:name)?|login|uid|operator|ack(?:ed|nowledged)?(?:[ ]by)?|(?:entered|typed|logged|released|verified)[ ]by)[ ]?[=:]?[ ]?)([a-z][a-z0-9._-]{2,24})", accept=lambda text: not ordinary(text)),
    rule(Kind.NAME, r"\b(?:by|d/w|per)[ ]([a-z]{2,3})(?:[^A-Za-z]|$)", accept=lambda text: not ordinary(text) and text not in {"pt", "ot", "rn", "md", "np", "pa", "ed", "er", "icu", "iv", "po", "im", "ems", "gi", "ir", "id", "pcp", "cc", "kg", "ml", "mg", "day", "hr", "hpf", "lpf", "os", "sw", "cm", "rt"}),
    # Places in a hospital.
    rule(Kind.WARD, r"(?i:\b((?:bed|bay|room|rm|cell|cubicle|chair|stretcher|gurney|theatre|theater|resus|trauma|pod|slot|crib|isolette|incubator|suite|ward|unit|hallway|hall|bunk|pavilion|side[ -]?room|treatment[ ]room|exam[ ]room|delivery[ ]room|lane|trolley|couch|dock|locker)[ ]?(?:no\.?|number|#)?[ ]?[A-Z]{0,3}-?\d{1,4}[A-Z]?(?:[-/ ][A-Z]\b|[-/]\d{1,3})?))"),
    rule(Kind.WARD, r"\b((?:ICU|MICU|SICU|CCU|CVICU|NICU|PICU|HDU|ITU|PACU|AMU|MAU|SAU|ED|OR|OT|L&D|LDR|CTICU|TICU|NSICU|SCU|EAU|CDU|ACU|SDU)[ -]?(?:[Bb]ed|[Bb]ay|[Rr]oom|[Rr]m)?[ #-]?\d{1,3}[A-Z]?)"),
    rule(Kind.WARD, r"(\b\d{1,2}[ -]?(?:West|East|North|South|WEST|EAST|NORTH|SOUTH|Main|Tower|Center)(?:[ -]?\d{0,3}[A-Z]?)?)"),
    rule(Kind.WARD, r"(?i:\b(?:in|to|from|on|at|lady|man|gentleman|pt|patient|bed|near|next[ ]to|opposite)[ ](?:in[ ])?)(\d{1,3}[A-F]|[A-H]-?\d{1,3})", accept=lambda text: any(map(str.isdigit, text)) and text.upper() not in {"B12", "D5", "T1", "T2", "C3", "C4", "A1", "H1", "D10"}),
    rule(Kind.WARD, r"((?:\d{1,2}[A-H]|[A-H]\d{1,2})[ ](?i:bed|rm|room|bay)[ ]?\d{0,3}[A-Z]?)"),
    rule(Kind.WARD, r"(?i:\b((?:\d{1,2}(?:st|nd|rd|th)|first|second|third|fourth|fifth|sixth|seventh|eighth|ninth|tenth)[ ](?:floor|flr|fl)(?:[ ](?:north|south|east|west|[nsew])\b)?))"),
    rule(Kind.WARD, r"(?:^|[\s，。：；、,;:])(加[ ]?\d{1,2}床?)(?:[^\d.%片粒]|$)", border="none"),
    rule(Kind.WARD, r"(\d{1,2}[A-Z]-\d{1,3}床?|[A-Z]\d{1,2}-\d{1,3}床)"),
    rule(Kind.WARD, r"((?:普外|心内|心外|神内|神外|骨|泌尿|消化|呼吸|肿瘤|血液|内分泌|风湿|肾内|儿|妇|产|老年|康复|急诊|感染|重症|介入|胸外|肝胆|胃肠|乳腺|甲乳|烧伤|整形|眼|耳鼻喉|口腔|皮肤|中医|内|外)科?[一二三四五六七八九十0-9]{1,2}(?:病区|区|病房|科|组)(?:[ ]?[0-9+加]{1,3}床)?)", border="none"),
    rule(Kind.WARD, r"((?:抢救|观察|留观|诊|诊室|手术|换药|治疗|复苏|介入|监护|产)[ ]?[一二三四五六七八九十0-9]{1,2}[号]?(?:室|间|台|区|床))", border="none"),
    rule(Kind.WARD, r"(?:科|区|部)[ ]?(\d{1,2}[A-H]?)(?:[^A-Za-z0-9.%/-]|$)", border="none", accept=lambda text: True),
    rule(Kind.WARD, r"(?:诊室|诊间|诊台|手术间|产房|窗口|机位|留观|抢救|百级|千级|层流)[ ]?([A-Z]?区?\d{1,3})", border="digit"),
    rule(Kind.WARD, r"([A-H]区[ ]?\d{1,3}|\d{1,3}号椅位?|[一二三四五六七八九]?十[一二三四五六七八九]?床|[A-Z]-\d{1,3}[椅床]|\d{2,4}-\d{1,2}[ ]?房|\d{1,2}楼[ ]?\d{2})", border="none"),
    rule(Kind.WARD, r"(?:床位|床|放|住|转|收|留观)[先在到]{0,2}[放住]?(加[一二三四五六七八九十0-9]{1,2})", border="none"),
    rule(Kind.WARD, r"([男女东西南北][一二三四五六七八九0-9]{1,2}病区|[观留抢监加幺][0-9一二三四五六七]{1,2}[ ]?床)", border="none"),
    rule(Kind.PHONE, r"(\(?0\d{2,3}\)?[ -]?\d{3,4}[ \n-]?\d{3,4}(?:转\d{1,5})?)", border="digit"),
    rule(Kind.PHONE, r"([零〇一二三四五六七八九幺两]{7,13})", border="none"),
    rule(Kind.PHONE, r"(?:拨打?|致电|热线|客服|电话|号码|打|留)[ :：]{0,2}(\d[\d -]{4,14}\d(?:转\d{1,5})?)", border="digit"),
    rule(Kind.PHONE, r"(1[3-9]\d[*xX]{2,8}\d{2,4})", border="digit"),
    rule(Kind.PASSPORT, r"(\d{7}\(\d\))", border="digit"),
    rule(Kind.NUMBER, r"(\p{Han}{0,8}[〔\[(]?\d{4}[〕\])]?\p{Han}{0,6}第[ ]?\d+[ ]?号|\p{Han}{2,6}字\d{4}-\d+)", border="none"),
    rule(Kind.ACCOUNT, r"(?:操作员|操作者|用户|账户|登录名?|录入|警号|工号|工牌|胸牌|编号|尾号|密码)[ :：]{0,2}([A-Za-z]{0,6}-?\d{3,10})"),
    rule(Kind.ACCOUNT, r"(?:微信号?名?|昵称|网名|QQ名?|钉钉|抖音|微博|小红书|wechat)[ :：“\"'叫是]{0,3}([\p{Han}A-Za-z0-9_.-]{2,20})[”\"']?", border="none"),
    rule(Kind.ADDRESS, r"(\p{Han}{0,4}\d{1,3}(?:舍|号楼|斋|公寓|栋)[ ]?\d{2,4})", border="none"),
    rule(Kind.ADDRESS, r"(\p{Han}{2,10}(?:湾|城|府|庭|轩|阁|居|郡|墅|里|苑|园)(?:[一二三四]期)?[ ]?\d{1,3}(?:[-#栋幢号]\d{1,4}){1,3}室?)", border="none"),
    rule(Kind.ADDRESS, r"(\p{Han}{2,8}(?:路|街|道)与\p{Han}{2,8}(?:路|街|道)(?:交叉口|路口|口)?(?:[东南西北]\p{Han}{0,2}\d*米?)?)", border="none"),
    rule(Kind.MRN, r"\p{Han}[（(](\d{6,10})[）)]", border="none"),
    rule(Kind.WARD, r"(?i:\b(?:clinic|suite|pod|wing|recovery|rehab|barracks|gym|dorm|cell|room|bay|bed|spoke)[ ])([A-Z]|[A-Z]{0,2}-?\d{1,4}[A-Z]?)(?:[^A-Za-z0-9%/]|$)", accept=lambda text: text not in {"A", "I"}),
    rule(Kind.WARD, r"(?:^|\n)(\d{3}[A-D]?)[ ](?:[A-Z][a-z]|empty|new|vacant|clean|discharged)"),
    rule(Kind.WARD, r"\b(?:in|to|from)[ ](\d{2,3}[A-D]?)(?:[,;]|[ ](?:is|sticks|needs|asks|wants|w/|about|rang|buzzed))"),
    rule(Kind.AGE, r"(?:[A-Z][a-z]{2,}|\))(?:,[ ]|[ ]is[ ]|[ ]was[ ]|[ ]would[ ]be[ ])(9\d|1[01]\d)(?:[,.;)\n]|[ ]and[ ]|$)"),
    rule(Kind.AGE, r"(?i:\b(?:she's|he's|who[ ]is|he[ ]is|she[ ]is|they[ ]are|turned|turns|turning|will[ ]be|would[ ]be|aged?)[ ])(9\d|1[01]\d)(?:[^\d.%/]|\.\D|$)"),
    rule(Kind.NUMBER, r"(?:\b[A-Z]{2}|[A-Z][a-z]{3,}),?[ ](\d{5}(?:-\d{4})?)(?:[^\d.%]|\.(?:\D|$)|$)"),
    rule(Kind.ADDRESS, r"\b([AC-FHKNPRTV-Y]\d[0-9W][ ][0-9AC-FHKNPRTV-Y]{4})\b", accept=lambda text: any(map(str.isdigit, text[4:]))),
    rule(Kind.ADDRESS, r"(?i:\b(?:addr(?:ess)?|ship[ ]to|mail[ ]to|h\.?[ ]?no)\b\.?[ :]{1,3})([^\n;]{6,80}?)(?:[ ]{2,}|\n|$|\.[ ]|,[ ](?:pin|mob|tel|ph)\b)"),
    rule(Kind.ADDRESS, r"\b((?i:(?:p\.?o\.?[ ])?box|lot|rural[ ]r(?:ou)?te?|rr)[ ]\d+(?:,[ ][A-Z0-9][A-Za-z0-9 .']{2,30}){0,2})"),
    rule(Kind.ADDRESS, r"(\d{1,5}[ ](?:N|S|E|W|NE|NW|SE|SW)\.?[ ](?:[A-Z][a-z]+|\d+(?:st|nd|rd|th))(?:[ ][A-Z][a-z]+)?(?:[ ]#[ ]?\w+)?)"),
    rule(Kind.ADDRESS, r"(\d{1,5}[ ][A-Z][a-z]+,?[ ](?:Unit|Apt|Flat|Suite|#)[ ]?\w{1,4})"),
    rule(Kind.ADDRESS, r"(\d+(?:st|nd|rd|th)[ ](?:&|and|/)[ ][A-Z][a-z]+)"),
    rule(Kind.ACCOUNT, r"([a-z]{2,}\d{0,4}_[a-z0-9_]+|[a-z]+_[a-z0-9]{1,12})"),
    rule(Kind.ACCOUNT, r"([a-z]{1,15}\.[a-z]{1,15}\d{0,4})", accept=_log_in),
    rule(Kind.NAME, r"(?:^|\n|[.;,][ ])[-–—~][ ]?([a-z]{2,4}|[A-Z]{2,4}|[A-Z][a-z]?[A-Z][a-z]?[A-Z]?)[ \t]*(?:\n|$)"),
    rule(Kind.DATE, r"((?:3[01]|[12]\d|0?[1-9])[ ]?-[ ]?(?:3[01]|[12]\d|0?[1-9])[ ](?i:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)[a-z]*)"),
    rule(Kind.DATE, r"((?:3[01]|[12]\d|0?[1-9])[ /.](?:vi{1,3}|ix|xi{1,2}))(?:[^a-z]|$)"),
    rule(Kind.DATE, r"(?i:\b(?:or|until|till|thru|through|on|by|to)[ ])((?:3[01]|[12]\d|0?[1-9])(?:st|nd|rd|th))(?:[.,;)\n]|$)"),
    rule(Kind.DATE, r"(?i:\b(?:collected|due|ret(?:urn|um)|answer|next[ ]\w+|check|born|fly[ ]to[ ]\w+,|b/?ack|rec'?d|received|sent|signed|log[ ]\d+[ ]of)[ ]{1,3})((?:1[0-2]|0?[1-9])[/-](?:3[01]|[12]\d|0?[1-9]))(?:[^\d/%]|$)"),
    # Plates stand by cars.
    rule(
        Kind.PLATE,
        r"(?i:\b(?:plates?|tags?|registration|reg|vehicle|car|truck|van|sedan|suv|taxi|motorcycle|motorbike|pickup|minivan|coupe|hatchback|drove|driving|parked|towed|honda|toyota|ford|chevy|chevrolet|subaru|bmw|audi|nissan|mazda|kia|hyundai|jeep|dodge|"
        r"corolla|camry|civic|accord|f-?150|prius|tesla|vw|volkswagen|mercedes|lexus|rav4|escape|explorer|silverado)\b[^\n;]{0,48}?\b)((?i:[A-Z]{2,4}[- ]?\d{3,4}|\d{1,4}[- ]?[A-Z]{2,3}[- ]?\d{0,4}|\d[A-Z]{3}\d{2,3}|[A-Z]{1,3}\d{1,2}[- ]?[A-Z]{2,3}))",
        accept=lambda text: any(map(str.isdigit, text)) and any(map(str.isalpha, text)) and sum(map(str.isalnum, text)) >= 5,
    ),
    rule(Kind.PLATE, r"([A-Z]{2}\d{2}[ ]?[A-Z]{3}|\d{3}-[A-Z]{3}|[A-Z]{3}-\d{3,4}|\d[A-Z]{3}\d{3})"),
    rule(Kind.AGE, r"(?i:\b(?:wife|husband|mother|father|mum|mom|dad|sister|brother|grandmother|grandfather|aunt|uncle|neighbou?r|friend|partner|nan|gran|pt|patient|he|she|lady|gentleman|man|woman|male|female)[,(]?[ ](?:\(|is[ ]|was[ ]|now[ ]|aged[ ])?)(9\d|1[01]\d)", border="digit"),
    rule(Kind.AGE, r"\b(9\d|1[01]\d)(?i:[ -]?(?:y/?o|yr|yrs|years?|y\.o\.?|f|m|female|male|lady|gentleman|woman|man)\b)"),
    rule(Kind.AGE, r"[{U}][{L}]+(?:,[ ]|[ ]\()(9\d|1[01]\d)[,)]"),
    rule(Kind.AGE, r"(?i:\b((?:late|early|mid)?[ -]?(?:nineties|90'?s|90s)))"),
    rule(Kind.AGE, r"(?i:\b(ninety[ -]?(?:one|two|three|four|five|six|seven|eight|nine)?|(?:a|one)[ ]hundred(?:[ ](?:and[ ])?(?:one|two|three|four|five|six|seven|eight|nine|ten))?)[ -](?:years?|yrs?|year[ -]old|y\b))"),
    rule(Kind.DATE, r"(?i:\b(?:born|b\.|birth[ ]?year|year[ ]of[ ]birth|yob|dob)(?:[ ]in)?[ :]{1,2})((?:18\d\d|19[0-3]\d))", border="digit"),
    rule(Kind.DATE, r"(?i:\b(?:placed|read|given|drawn|seen|started|on|due|dated|done|taken|removed|inserted|changed|last|since|until|by|from|surgery|admitted|dc'?d|d/c|next|appt|f/u|visit|labs?|cultures?)[ :]{1,2})((?:1[0-2]|0?[1-9])-(?:3[01]|[12]\d|0?[1-9]))(?:[^\d-]|$)", accept=lambda _: True),
)  # fmt: skip
