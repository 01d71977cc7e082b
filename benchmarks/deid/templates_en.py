"""English templates.

`{KIND}` is a fresh value, `{KIND1}` the same value wherever it stands in the note, `{STAMP}` a date between machines.
"""

from __future__ import annotations

TEMPLATES = (
    """DISCHARGE SUMMARY
Patient: {NAME1}    MRN: {MRN}    DOB: {DATE}
Admitted: {DATE}   Discharged: {DATE}   Room {WARD}
{NAME1} was treated for {KEEP} and {KEEP}. On exam {KEEP}. Discharged on {KEEP}. Follow-up {KEEP}.
Attending: {NAME}, MD   Phone {PHONE}""",
    """PT NAME: {NAME}  SSN: {SSN}  ACCT: {ACCOUNT}
ADDR: {ADDRESS}, OH {POSTCODE}  PH: {PHONE}  INS ID: {INSURANCE}
CC: chest pain since {KEEP}. PMH: {KEEP}; {KEEP}. MEDS: {KEEP}.
NOK: {NAME} ({PHONE})""",
    """Dear Dr. {NAME},

I saw {NAME1} on {DATE} with {KEEP}. There was no {KEEP}. I would suggest {KEEP}.
Please write to {ADDRESS}, {POSTCODE}, or fax {FAX}. My e-mail is {EMAIL}.

Sincerely, {NAME}, MD (lic. {LICENCE})""",
    """RADIOLOGY REPORT   Accession {OTHER_ID}   Exam date {DATE}
Name {NAME}   MRN {MRN}
COMPARISON: {DATE}. FINDINGS: {KEEP}; {KEEP}; {KEEP}.
Read by {NAME}, discussed with Dr {NAME} at ext. {OTHER_ID}.""",
    """MSH|^~\\&|ADT|FAC|LAB|FAC|{STAMP}||ADT^A08|{OTHER_ID}|P|2.5
PID|1||{MRN}^^^MRN||{NAME}||{STAMP}|F|||{ADDRESS}^^{POSTCODE}||{PHONE}|||||{ACCOUNT}|{SSN}
PV1|1|I|{WARD}^{WARD}
OBX|1|TX|NOTE||{KEEP}, {KEEP}||||||F""",
    """nursing {DATE}: pt {NAME1} in bed {WARD}, {KEEP}, {KEEP}. family {NAME} called from {PHONE}. {NAME1} slept \
ok. {KEEP} given. rn {NAME}""",
    """From: {EMAIL}
To: {EMAIL}
Subject: records of {NAME1}
The chart (MRN {MRN}) is at {URL}; log in from {IP}. Visit was {DATE}. She takes {KEEP} for {KEEP}. Regards, \
{NAME}""",
    """Home visit. {NAME1} is {AGE} years old, born on {DATE}, and lives at {ADDRESS}. {KEEP}. {KEEP}. Sister aged \
{AGE}.
Daughter {NAME} can be reached at {PHONE}. Medicare {INSURANCE}.""",
    """DEVICE CHECK {DATE}
{NAME}  MRN {MRN}
Generator serial {DEVICE}; lead serial {DEVICE}; monitor IP {IP}
Findings: {KEEP}. Plan: {KEEP}, {KEEP}.""",
    """ED NOTE. MVC on {DATE}; driver {NAME}, licence {LICENCE}, plate {PLATE}; passenger {NAME}.
{KEEP}; {KEEP}; {KEEP}. Police report {OTHER_ID}. Home address {ADDRESS}, {POSTCODE}.""",
    """BILLING: {NAME} paid with card {BANK_CARD}; refund to account {ACCOUNT}. Policy {INSURANCE}.
Service date {DATE}; {KEEP}; {KEEP}. Fax the form to {FAX}. See {URL}.""",
    """| Name | MRN | Bed | DOB | Problem |
|---|---|---|---|---|
| {NAME} | {MRN} | {WARD} | {DATE} | {KEEP} |
| {NAME} | {MRN} | {WARD} | {DATE} | {KEEP} |
| {NAME} | {MRN} | {WARD} | {DATE} | {KEEP} |""",
    """so this is {NAME} dictating on {NAME1} medical record {MRN} seen {DATE} for {KEEP} period {NAME1} also has \
{KEEP} comma {KEEP} period call {PHONE} end of dictation""",
    """Travel clinic {DATE}. {NAME}, passport {PASSPORT}, Hong Kong permit {PERMIT}. {KEEP}. {KEEP}.
E-mail {EMAIL}, phone {PHONE}. Statement at {URL}.""",
    """Visit {DATE}-{DATE}; {NAME} ({AGE} y/o) w/ {KEEP}, {KEEP}. Wife {NAME}; PCP {NAME}. CPAP s/n {DEVICE}. SSN \
{SSN}, fax {FAX}""",
)
