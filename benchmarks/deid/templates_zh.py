"""Chinese templates.

`{KIND}` is a fresh value, `{KIND1}` the same value wherever it stands in the note, `{STAMP}` a date between machines.
"""

from __future__ import annotations

TEMPLATES = (
    """出院记录
姓名：{NAME1}  住院号：{MRN}  床号：{WARD}床
入院日期：{DATE}  出院日期：{DATE}
患者{NAME1}因{KEEP}入院，查体{KEEP}，予{KEEP}治疗，{KEEP}复查。
主治医师：{NAME}  电话：{PHONE}""",
    """入院登记
姓名：{NAME}  身份证号：{CN_ID}  电话：{PHONE}
住址：{ADDRESS}  邮编：{POSTCODE}
联系人：{NAME}（配偶）{PHONE}
医保卡号：{INSURANCE}  病案号：{MRN}
诊断：{KEEP}；{KEEP}""",
    """检查报告单  检查号：{OTHER_ID}
姓名 {NAME}  检查日期 {DATE}
所见：{KEEP}，{KEEP}。与{DATE}旧片比较，{KEEP}。
报告医师：{NAME}  审核：{NAME}""",
    """护理记录  病区{WARD}  床{WARD}  姓名{NAME1}
{DATE} 08:00 {KEEP} {KEEP} 安静
{DATE} 12:00 {KEEP}  家属{NAME}来电{PHONE}
签名：{NAME}""",
    """{NAME1}老人，今年{AGE}岁，家住{ADDRESS}。{KEEP}，{KEEP}。女儿{NAME}手机{PHONE}。{DATE}随访。老伴{AGE}岁。""",
    """费用清单  户名：{NAME}  银行卡：{BANK_CARD}  账号：{ACCOUNT}
{DATE}  {KEEP}
{DATE}  {KEEP}
发票号：{OTHER_ID}  传真：{FAX}""",
    """发件人：{EMAIL}
收件人：{EMAIL}
{NAME}您好：病人{NAME1}（病案号{MRN}）的影像在 {URL} ，登录地址{IP}。{NAME1}{DATE}检查，{KEEP}，{KEEP}。\
请回电{PHONE}。{NAME}""",
    """交警送诊：驾驶员{NAME1}，驾驶证档案编号{LICENCE}，车牌{PLATE}，对方车{PLATE}。{DATE}受伤，{KEEP}，{KEEP}。\
{NAME1}身份证{CN_ID}。地点{ADDRESS}。""",
    """转诊：{NAME}，港澳居民，回乡证{PERMIT}；台胞证{PERMIT}；护照{PASSPORT}。电话{PHONE}。{DATE}起{KEEP}，{KEEP}。\
传真{FAX}""",
    """MSH|^~\\&|HIS|YY|LIS|YY|{STAMP}||ORM^O01|{OTHER_ID}|P|2.4
PID|1||{MRN}||{NAME}||{STAMP}|M|||{ADDRESS}^^^^{POSTCODE}||{PHONE}|||||||{CN_ID}
OBX|1|TX|结果||{KEEP}，{KEEP}""",
    """起搏器随访 {DATE} {NAME} 住院号{MRN} 起搏器序列号{DEVICE} 电极{DEVICE} 监护IP {IP} {KEEP} {KEEP} {KEEP}""",
    """【微信】{NAME1}家属：{NAME}主任好，{NAME1}{KEEP}，{KEEP}，要不要来？电话{PHONE}，卡号{MRN}
{NAME}：{DATE}来，挂我的号，带上{KEEP}的片子""",
    """疾病诊断证明书
兹有{NAME}，身份证号码{CN_ID}，于{DATE}至{DATE}在我院住院，{WARD}床，诊断{KEEP}，{KEEP}。
医师{NAME}  执业证书编号{LICENCE}  邮箱{EMAIL}""",
    """| 姓名 | 住院号 | 床 | 日期 | 诊断 |
| {NAME} | {MRN} | {WARD} | {DATE} | {KEEP} |
| {NAME} | {MRN} | {WARD} | {DATE} | {KEEP} |
| {NAME} | {MRN} | {WARD} | {DATE} | {KEEP} |""",
    """查房记录 {DATE} {NAME}主任医师查看患者{NAME1}，{KEEP}，{KEEP}。{NAME1}既往{KEEP}。标本号{OTHER_ID}。\
记录：{NAME}""",
    """体检：{NAME} 护照{PASSPORT} 医保{INSURANCE} {DATE} {KEEP}、{KEEP}、{KEEP}。退费至{BANK_CARD}，详见{URL}，\
邮编{POSTCODE}""",
)
