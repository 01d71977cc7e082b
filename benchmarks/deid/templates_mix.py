"""Mixed Chinese and English templates.

`{KIND}` is a fresh value, `{KIND1}` the same value wherever it stands in the note, `{STAMP}` a date between machines.
"""

from __future__ import annotations

TEMPLATES = (
    """International Clinic 国际门诊  {DATE}
Pt {NAME1}, passport 护照 {PASSPORT}, 手机 {PHONE}. c/o {KEEP}, {KEEP}. {NAME1} 住 {ADDRESS} {POSTCODE}.""",
    """姓名 Name: {NAME}  病区 Ward: {WARD}  住院号 MRN: {MRN}
标本号 Specimen: {OTHER_ID}  采集 Collected: {DATE}
{KEEP} / {KEEP}
检验者 {NAME}""",
    """DISCHARGE SUMMARY 出院摘要  {NAME1}  DOB {DATE}  HKID 身份证 {PERMIT}
Dx: {KEEP}; {KEEP}. Meds: {KEEP}. 家属 {NAME} {PHONE}. Age 年龄 {AGE}. DOA {DATE}""",
    """Claim 理赔: insured 被保险人 {NAME}, policy 保单号 {INSURANCE}, 银行卡 {BANK_CARD}, account 账号 {ACCOUNT}
Date {DATE}; 车牌 {PLATE}; {KEEP}; {KEEP}""",
    """To {NAME}主任: 会诊 consult for {NAME1}, bed {WARD}, MRN {MRN}. {KEEP}, {KEEP}. Please call {PHONE} or fax \
传真 {FAX}. {NAME} {DATE}""",
    """IT ticket {OTHER_ID}: user {NAME} 登录失败 from {IP}, page {URL}, patient 病人 {NAME} {MRN}. Mail {EMAIL}. \
{KEEP} 不受影响. {DATE}""",
    """手术 OR note {DATE}: {NAME}, 植入 device SN {DEVICE}, surgeon {NAME}. {KEEP}, {KEEP}, {KEEP}. 身份证 \
{CN_ID}. 执照 {LICENCE}""",
    """Follow-up 随访 {DATE}: {NAME1} ({AGE}岁) {KEEP}; 地址 {ADDRESS}; tel {PHONE}; 邮箱 {EMAIL}; {KEEP}. {NAME1} \
will return {KEEP}.""",
    """交班 sign-out {DATE}
bed {WARD} {NAME} {KEEP}
bed {WARD} {NAME} {KEEP}, MRN {MRN}
call {NAME} {PHONE}""",
    """Physical 体检 {NAME}: ID {CN_ID}, SSN {SSN}, 护照 {PASSPORT}, 医保 {INSURANCE}. {KEEP}, {KEEP}. Report {URL} \
on {DATE}, fax {FAX}""",
)
