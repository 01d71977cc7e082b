"""Words that the templates draw from: invented people, places, and what must survive."""

from __future__ import annotations


def _of(*lines: str) -> tuple[str, ...]:
    return tuple(word for line in lines for word in line.split("|"))


EN_GIVEN = _of(
    "James|Mary|Hope|Grace|May|April|June|Faith|Joy|Will|Mark|Bill|Rich|Rose|Ivy|Dawn|Summer|Chase|Art|Dean|Guy",
    "Aaliyah|Siobhan|Nguyet|Priya|Oluwaseun|Bartholomew|Yuki|Mei-Ling|Jean-Luc|Anne-Marie|José|Zoë|Dmitri|Fatima",
    "Kwame|Ingrid|Tomasz|Ravi|Chidi|Saoirse|Lars|Noor|Emmanuel|Delphine|Wyatt|Brooke|Sterling|Pearl|Miles|Gene",
)
EN_FAMILY = _of(
    "Smith|Johnson|Parkinson|Crohn|Hodgkin|Young|Brown|White|Stone|Price|Payne|Little|Long|Day|Knight|Bishop|Law",
    "Field|Rivers|Waters|Frost|O'Neill|O'Brien|McAllister|MacDonald|Nguyen|Le|Ng|Oh|Ito|Ali|Xu|Patel|Okonkwo",
    "Subramaniam|Papadopoulos|Kowalczyk|Lindqvist|Fernández|Müller|García-López|Smith-Jones|Hart-Davis|Van-Dyke",
    "Abernathy|Featherstone|Castellanos|Mbeki|Yamamoto|Petrov|Haddad|Rosenthal|Vandermeer|Achterberg",
)
EN_STREETS = _of(
    "Maple Ave|Old Mill Rd|N. 5th St|Harbor Blvd|County Road 9|Kings Parade|Shore Drive|Orchid Way|W 42nd Pl",
    "Larkspur Lane|Martin Luther King Jr Blvd|St. Mary's Close|Foley Court|Main Street",
)
EN_TOWNS = _of(
    "Weymouth|Paw Paw|Yellow Springs|Springfield|St. Albans|Dry Fork|Ashford|La Mesa|Truth Falls|Bristow",
)
US_STATES = _of(
    "MA|MI|OH|IL|VT|WV|OR|CA|NM|TX|NC",
)
EN_HOSTS = _of(
    "example.org|example.com|mail.example.net|hospital.example|example.co.uk",
)
ZH_FAMILY = _of(
    "王|李|张|刘|陈|杨|黄|赵|吴|周|徐|孙|马|朱|胡|郭|何|林|高|罗|郑|梁|谢|宋|唐|许|邓|冯|韩|曹|曾|彭|萧|蔡|潘|田",
    "董|袁|于|余|叶|蒋|杜|苏|魏|程|吕|丁|沈|任|卢|姚|钟|姜|崔|谭|陆|范|汪|廖|石|金|韦|贾|夏|付|方|邹|熊|白|孟|秦",
    "邱|侯|江|尹|薛|闫|段|雷|龙|史|陶|贺|毛|郝|顾|龚|邵|万|覃|武|钱|戴|严|莫|孔|向|常|温|康|施|文|牛|樊|葛|邢|安",
    "齐|易|乔|伍|庞|欧阳|司马|上官|诸葛|夏侯|皇甫|尉迟|公孙|慕容|令狐|端木|东方|南宫|申屠|单|仇|查|区|盖|乐",
)
ZH_GIVEN = _of(
    "伟|芳|娜|敏|静|丽|强|磊|洋|艳|勇|军|杰|娟|涛|明|超|秀英|霞|平|刚|桂英|高兴|方便|平安|安静|文静|明天|向前",
    "成功|希望|和平|建国|建华|国庆|志强|海燕|晓明|小红|雨桐|子涵|浩然|欣怡|梓萱|一诺|天天|多多|春生|夏至|秋实",
    "冬梅|玉兰|金凤|德胜|守信|长江|黄河|泰山|白雪|月亮|星辰|思远|若曦|沐阳|铁柱|二妮|宝珠|来福|必胜|自然|当然",
    "如意",
)
ZH_CITIES = _of(
    "北京市朝阳区|上海市闵行区|浙江省杭州市西湖区|四川省成都市武侯区|湖北省武汉市洪山区|西安市雁塔区",
    "广东省深圳市龙岗区|内蒙古自治区包头市昆都仑区|苏州工业园区|赣州市兴国县长冈乡",
)
ZH_ROADS = _of(
    "建国路|文三路|浆洗街|长江西路|中山北路|珞喻路|人民南路四段|虹梅路3201弄|小寨东路|大坪村七组",
)
EN_KEEP = _of(
    "Parkinson's disease|Crohn disease|Foley catheter|Glasgow Coma Scale 15|Apgar 8/9|Babinski sign",
    "Hodgkin lymphoma|BP 120/80|3-4 cm|5/5 strength|10-12 weeks|metoprolol 25 mg BID|Augmentin 875/125",
    "Norco 5/325|HbA1c 7.1%|EF 35-40%|L4-5|T2N1M0|GCS E4V5M6|PHQ-9 17/27|NYHA III|MoCA 24/30|last Tuesday",
    "two weeks ago|next Friday|Hounsfield 45-60|Lung-RADS 4B|3.2 x 2.8 x 4.1 cm|SpO2 93%|HR 101|20/40",
    "Murphy's sign|Kerley B lines|Charcot joint|Whipple procedure|Roux-en-Y|Lasix 40 mg|Coumadin 2.5 mg",
    "Sinemet 25/100|78-year-old|61 y/o|Wolff-Parkinson-White|Alzheimer's|Hashimoto|Marfan habitus|Swan-Ganz",
    "Jackson-Pratt drain|CPT 93306|I50.9|in 6 months|0.25 mg/kg|1.5T|q4-6h prn|INR 2-3|Gleason 4+3=7|Bell's palsy",
    "Addison's disease|D5 1/2 NS at 75",
)
ZH_KEEP = _of(
    "帕金森病|克罗恩病|Foley尿管|格拉斯哥评分15分|Apgar评分9-10-10|巴氏征阴性|霍奇金淋巴瘤|血压120/80mmHg|3-4cm",
    "肌力5/5级|10-12周|阿司匹林0.1g qd|阿托伐他汀20mg|奥美拉唑20mg bid|二甲双胍0.5g tid|HbA1c 7.1%|EF 35-40%|L4/5",
    "T2N1M0|GCS 15分|NIHSS 6分|Killip II级|Child-Pugh A级|上周二|两周前|下周五|昨天|CT值35-42HU|1.2cm×0.8cm×1.0cm",
    "SpO2 93%|心率88次/分|Murphy征阴性|McBurney点压痛|Whipple术|78岁|61岁|Graves病|桥本甲状腺炎|阿尔茨海默病",
    "Holter|B超|3个月后|2-3次/日|1.5T|孕39+4周|体温36.8℃|白细胞11.2×10^9/L|Gleason 3+4=7|乙肝两对半|第3次化疗",
    "Braden 16分|美沙拉嗪1.0g|头孢曲松2.0g|贝尔面瘫|雷诺现象|埃博拉|胰岛素8-12U|V1-V4导联|1/2片|50-80ml/日",
)
