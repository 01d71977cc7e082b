# ruff: noqa: E501  (a pattern reads best on one line)
"""Addresses, places below the level of a state or province, and facilities."""

from __future__ import annotations

from collections.abc import Iterator

from curation.deid.kinds import Kind, Note, Span
from curation.deid.names_en import capitalised, is_brand, is_surname, is_unknown
from curation.deid.names_zh import places
from curation.deid.patterns import Family, compiled
from curation.deid.words import words

_CAPITAL = r"[{U}][{L}'.-]*"
_SUFFIX = (
    r"(?:Street|St|Avenue|Ave|Road|Rd|Boulevard|Blvd|Lane|Ln|Drive|Dr|Court|Ct|Place|Pl|Terrace|Ter|Circle|Cir|Way|Highway|Hwy|Parkway|Pkwy|"
    r"Square|Sq|Trail|Trl|Crescent|Close|Loop|Row|Alley|Plaza|Pike|Turnpike|Walk|Mews|Gardens|Grove|Heights|Hill|Park|Point|Ridge|Run|View|Crossing|Green|Quay|Wharf|Bend|Path|Vale|Rise|Hollow|Landing|Mill|Meadows?|Creek|Mount|Bay|Bluff|Cove|Parade|Esplanade|Broadway|Orchard|Gate|Side|Field|Fields|Bank|Hollow|Glen|Mews|Yard|End)"
)
_STATE = (
    r"(?:Alabama|Alaska|Arizona|Arkansas|California|Colorado|Connecticut|Delaware|Florida|Georgia|Hawaii|Idaho|Illinois|Indiana|Iowa|Kansas|Kentucky|Louisiana|Maine|"
    r"Maryland|Massachusetts|Michigan|Minnesota|Mississippi|Missouri|Montana|Nebraska|Nevada|New[ ]Hampshire|New[ ]Jersey|New[ ]Mexico|New[ ]York|North[ ]Carolina|"
    r"North[ ]Dakota|Ohio|Oklahoma|Oregon|Pennsylvania|Rhode[ ]Island|South[ ]Carolina|South[ ]Dakota|Tennessee|Texas|Utah|Vermont|Virginia|Washington|West[ ]Virginia|"
    r"Wisconsin|Wyoming|A[LKZR]|C[AOT]|D[CE]|FL|GA|HI|I[ADLN]|K[SY]|LA|M[ADEINOST]|N[CDEHJMVY]|O[HKR]|PA|RI|S[CD]|T[NX]|UT|V[AT]|W[AIVY])"
)
_UNIT = r"(?:,?[ ]{0,2}(?:(?i:apt|apartment|suite|ste|unit|room|rm|floor|fl|bldg|building|lot|no)\b\.?[ ]?#?[ ]?|#[ ]?)[A-Za-z0-9-]{1,6}){0,2}"
_POST = r"(?:\d{5}(?:-\d{4})?|[A-Z]{1,2}\d[A-Z0-9]?[ ]\d[A-Z]{2}|[A-Z]\d[A-Z][ ]\d[A-Z]\d)"
_CITY = rf"(?:(?:,?[ \n]|,)[ ]?(?:Apt|Apartment|Suite|Unit|Flat)[ ]?[#]?[ ]?[A-Za-z0-9-]{{1,6}})?(?:,[ \n]{{0,2}}{_CAPITAL}(?:[ ]{_CAPITAL}){{0,2}}){{0,3}}(?:,?[ ](?i:{_STATE})\b\.?)?(?:,?[ \n]{{1,2}}(?i:{_POST}))?(?:,[ ](?:USA|UK|Canada|Australia|Ireland|England|Scotland|Wales))?"
_RULES = tuple((kind, compiled(pattern)) for kind, pattern in (
    (Kind.ADDRESS, rf"((?:^|\b)\d{{1,6}}[A-Za-z]?(?:-\d+)?[ ](?:(?:N|S|E|W|NE|NW|SE|SW|North|South|East|West)\b\.?[ ])?(?:(?:{_CAPITAL}|\d+(?:st|nd|rd|th))[ ]){{1,4}}{_SUFFIX}\b\.?{_UNIT}{_CITY})"),
    (Kind.ADDRESS, rf"(\b(?:P\.?[ ]?O\.?[ ])(?i:box)[ ]\d+{_CITY})"),
    (Kind.ADDRESS, rf"((?:{_CAPITAL}[ ]){{0,2}}{_CAPITAL},[ ]{_STATE}[ ,]{{1,2}}\d{{5}}(?:-\d{{4}})?)(?:\D|$)"),
    (Kind.ADDRESS, rf"\b({_CAPITAL}(?:[ ]{_CAPITAL})?,[ ]{_STATE.replace('M[ADEINOST]', 'M[AEINOST]').replace('PA|', '')})\b"),
    (Kind.ADDRESS, r"(?:^|[^A-Za-z0-9])((?:[A-Z]{1,2}\d{1,2}[A-Z]?|GIR)[ ]\d[ABD-HJLNP-UW-Z]{2})(?:[^A-Za-z0-9]|$)"),
    (Kind.ADDRESS, r"(?i:(?:^|[^a-z0-9])([abceghj-nprstvxy]\d[a-z][ ]\d[a-z]\d)(?:[^a-z0-9]|$))"),
    (Kind.ADDRESS, r"(?i:(?:,|\b(?:oh|uk|england))[ ]([a-z]{1,2}\d{1,2}[ ]\d[abd-hjlnp-uw-z]{2})(?:[^a-z0-9]|$))"),
    (Kind.ADDRESS, r"(?i:\b(?:zip(?:[ ]?code)?|postal[ ]code|postcode)[ ]?[:#]?[ ]?)([A-Z]?[A-Z0-9]{2,4}[ -]?[A-Z0-9]{0,4})\b"),
    (Kind.ADDRESS, r"(?i:\b(?:home[ ]|mailing[ ]|street[ ]|current[ ])?address(?:[ ]on[ ]file)?[ ]?[:=][ \t]*)([^\n;]{4,100}?)(?:[ ]{2,}|[;\n|]|\.[ \n]|\.?$|(?i:,?[ ](?:phone|tel|dob|mrn|cell|email|ssn)\b))"),
    (Kind.ADDRESS, rf"(?i:\b(?:lives?|resid(?:es?|ing|ent)|living|stay(?:s|ing)|moved|relocated|travell?ed|travels|flew|drove|born|raised|grew[ ]up|home|native|immigrated|emigrated|visiting|return(?:ed|ing)|trip|works|working|commutes)"
                   rf"(?:[ ]\w+){{0,3}}[ ](?:in|at|from|to|of|near|on)[ ])((?:{_CAPITAL}[ ]){{0,3}}{_CAPITAL}(?:,[ ](?:{_CAPITAL}[ ])?{_CAPITAL})?)"),
    (Kind.FACILITY, rf"(?:^|[^{{L}}])((?:(?:St\.|{_CAPITAL}|of|the|and|&)[ ]){{0,5}}{_CAPITAL}[ ](?:Hospital|Hospitals|Medical[ ]Cent(?:er|re)|Clinic|Clinics|Infirmary|Hospice|Health[ ]System|Healthcare|Health[ ]Cent(?:er|re)|Nursing[ ]Home|"
                    r"Rehabilitation[ ]Cent(?:er|re)|Rehab|Surgery[ ]Cent(?:er|re)|Cancer[ ]Cent(?:er|re)|Imaging[ ]Cent(?:er|re)|Imaging|Radiology[ ]Associates|Urgent[ ]Care|Pharmacy|Laborator(?:y|ies)|Assisted[ ]Living|Skilled[ ]Nursing(?:[ ]Facility)?|Manor|"
                    r"Elementary(?:[ ]School)?|High[ ]School|Middle[ ]School|University|College|Institute))\b"),
    (Kind.ADDRESS, r"(?:住址|地址|家庭住址|现住址|居住地|户籍|户籍地|户口所在地|户口地址|籍贯|出生地|通讯地址|联系地址|家住|现居|居住于|居住在|住在|暂住|常住)(?:址|地)?[为是]?[:： ]{0,3}"
                   r"(\p{Han}[\p{Han}A-Za-z0-9()#-]{1,50})"),
    (Kind.ADDRESS, r"((?:北京|天津|上海|重庆|河北|山西|辽宁|吉林|黑龙江|江苏|浙江|安徽|福建|江西|山东|河南|湖北|湖南|广东|海南|四川|贵州|云南|陕西|甘肃|青海|台湾|内蒙古|广西|西藏|宁夏|新疆|香港|澳门)"
                   r"(?:省|市|壮族自治区|回族自治区|维吾尔自治区|自治区|特别行政区)?[\p{Han}A-Za-z0-9-]{0,30}(?:路|街|道|巷|弄|号|室|村|镇|乡|栋|幢|单元|楼|区|县|市|组|屯|小区|花园|苑|胡同)(?:\d+(?:号|室|弄|栋|幢|单元|楼)?)*(?:-\d+)*)"),
    (Kind.ADDRESS, r"(\p{Han}{2,8}(?:路|街|大道|巷|弄|胡同|小区|花园|新村|家园)\d+(?:号|弄|栋|幢|楼|单元|室)?(?:[ ]?\d+(?:号楼?|弄|栋|幢|楼|单元|室|层|-)){0,4}\d{0,4}室?)"),
    (Kind.ADDRESS, r"((?:\p{Han}{2,8}(?:省|市|自治区|自治州|盟|县|旗|区|镇|乡|街道|村|园区)){1,5}[\p{Han}0-9A-Z]{0,16}?\d[ ]?(?:号|室|组|户|栋|幢|单元|弄)(?:[ ]?[附0-9A-Z\p{Han}-]{0,10}[ ]?\d{1,4}[ ]?(?:号楼?|室|组|户|栋|幢|单元)|[\p{Han}]{0,6}[A-Z]?座[ ]?\d{2,4}|\d{3,4}){0,4})"),
    (Kind.ADDRESS, r"(?:邮政编码|邮编)[:： 为]{0,3}(\d{6})"),
    (Kind.FACILITY, r"((?:\p{Han}{2,6}(?:省|市|县|区|州|自治区|大学|医科大学|医学院|中医药大学))\p{Han}{0,12}(?:附属)?\p{Han}{0,6}(?:医院|卫生院|诊所|卫生服务中心|卫生室|医学中心|疗养院|养老院|妇幼保健院|保健院|急救中心|血站|疾控中心|体检中心))"),
    (Kind.FACILITY, r"(?:单位|工作单位|转自|就职于|任职于|就读于|毕业于|送检单位|转诊医院|就诊于|工作于|转至|转往|转入)[:：]?(\p{Han}{2,20}(?:公司|厂|学校|小学|中学|大学|医院|局|所|院|银行|集团|诊所|中心))"),
))  # fmt: skip
# Facilities whose last word alone would not tell: another word of the name must be no common one.
_NAMED_HOUSE = compiled(
    rf"(?:^|[^{{L}}])((?:(?:St\.?|{_CAPITAL}|of|the|and|&)[ ]){{1,4}}(?:General|Memorial|Regional|Medical|Health|Healthcare|Practice|Surgery|Lodge|House|Home|Court|Residence|Trust|Diagnostics|Orthop(?:a?)edics|Associates|"
    r"Partners|Children's|Sanatorium|Centre|Center|Cardiology|Radiology|Oncology|Dialysis|Physiotherapy|Village|Villa|Care|Heart|Cancer|Eye|University|School|Foundation|Institute|Group|Community))(?:[^{L}]|$)"
)
# Words that a Chinese match may have swallowed before the name of the place.
_LEAD = compiled(
    r"^\p{Han}*?(?:家住|住在|居住于|居住在|来自|就诊于|转至|转往|转入|转自|曾于|曾在|于|在|至|往|到|赴|由|从|自|住|经|遂|患者|系|即)"
)
_ORDINARY = frozenset(("我院", "外院", "本院", "当地", "当地医院", "院外", "外地", "中国", "国内", "医院", "上级医院", "下级医院", "社区", "社区医院", "急诊", "门诊",
                       "基层医院", "省级医院", "附近", "附近医院", "卫生院", "县医院", "市医院", "家庭", "美国", "日本", "英国", "德国", "中心医院"))  # fmt: skip
_ORGANISATION = (
    "医院",
    "卫生院",
    "诊所",
    "中心",
    "公司",
    "厂",
    "学校",
    "小学",
    "中学",
    "大学",
    "学院",
    "局",
    "研究所",
    "银行",
    "集团",
    "保健院",
)
_ORDINARY_EN = frozenset(("emergency", "icu", "er", "home", "the", "clinic", "ed", "our", "local", "outside", "community", "january", "february", "march", "april", "may", "june", "july",
                          "august", "september", "october", "november", "december", "rehab", "this", "outpatient", "cardiology", "radiology"))  # fmt: skip


_FAMILY = Family(pattern for _, pattern in _RULES)


_DRUG_AFTER = compiled(
    r"^(?:\p{Han}{0,3}(?:单抗|片|胶囊|注射液|缓释|钠|钾|酯|治疗)|\p{Han}{0,2}[ ]?\d+(?:\.\d+)?[ ]?(?:m?g|ml|μg|IU|U|mg/kg)|基征|征|分型|评分|标准)"
)


def addresses(note: Note) -> Iterator[Span]:
    """Spans of the rules and of the tagger's places."""
    view, uniform = capitalised(note.view)
    for number in _FAMILY.matching(view):
        kind, pattern = _RULES[number]
        for match in pattern.finditer(view):
            start, end = match.span(1)
            if view[start].isascii():
                first = view[start:end].split()[0].strip(".,").lower()
                if first in _ORDINARY_EN or is_brand(first):
                    continue
                # "5 given per dr": where all words are written alike, "dr" is rather a doctor.
                if uniform and view[start:end].endswith((" Dr", " Dr.")):
                    continue
            elif lead := _LEAD.search(view[start:end]):
                start += lead.end()
            while end > start and view[end - 1] in " ,.;\n":
                end -= 1
            if end - start >= 2 and view[start:end] not in _ORDINARY:
                yield Span(start, end, kind)
    previous = 0
    for match in _NAMED_HOUSE.finditer(view):
        tokens = [token for token in match.group(1).split() if token[0].isupper()]
        if any(
            is_unknown(token.removesuffix("'s")) or is_surname(token) or token.startswith("St") for token in tokens[:-1]
        ):
            start, end = match.span(1)
            yield Span(start, end, Kind.FACILITY)
    for start, end, tag in places(view):
        word = view[start:end]
        if tag == "ORG" and not word.endswith(_ORGANISATION):
            continue
        if _DRUG_AFTER.search(view[end : end + 8]) or word in words("not_names_zh"):
            continue  # 头孢曲松, 坦索罗辛: the tagger takes what is written by sound for places
        if tag == "LOC" and word.endswith("区") and start != previous:
            continue  # 心前区, 下颌区: places on the body
        previous = end
        if (
            end - start >= 2
            and word not in _ORDINARY
            and not word.isascii()
            and not word.startswith(("我", "本", "外", "当地"))
        ):
            yield Span(start, end, Kind.ADDRESS if tag == "LOC" else Kind.FACILITY)
