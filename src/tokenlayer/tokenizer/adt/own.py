"""A small hand-made set of our own, in the form of ADT-Human. None of it is the authors': their data could not be had.

The Chinese, Japanese and Thai spans are well-known examples of ambiguous cuts; the English ones are glued words as in
tags and host names.
"""

from tokenlayer.tokenizer.adt.build import Instance, instance_of
from tokenlayer.tokenizer.adt.join import Pair
from tokenlayer.tokenizer.adt.languages import language

SPANS = {
    "en": (
        "moves|table stable",
        "gates|nail snail",
        "cats|tall stall",
        "news|tar star",
        "ideas|pot spot",
        "pets|and sand",
        "plans|hip ship",
        "jobs|lot slot",
        "cars|pace space",
        "books|hop shop",
        "dogs|hare share",
        "maps|core score",
        "farms|cream scream",
        "pages|tone stone",
        "games|kill skill",
        "boats|peak speak",
    ),
    "zh": (
        "研究|生命 研究生",
        "上|海关 上海",
        "发展中|国家 中国",
        "马|上下 马上",
        "和|尚未 和尚",
        "将|军用 将军",
        "从|小学 从小",
        "的|确切 的确",
        "人|才能 人才",
        "部分|子女 分子",
        "球拍|卖完 拍卖",
        "美|国会 美国",
        "南京市|长江 市长",
        "项目|的确 目的",
        "白天|鹅毛 天鹅",
        "地面|积水 面积",
    ),
    "ja": ("東京|都民 京都", "外国|人参 外国人", "本日|本店 日本", "大学|生活 学生"),
    "th": ("ตา|กลม ตาก", "มา|กลับ มาก"),
}
"""`first|second trap`."""


def own_set() -> list[Instance]:
    """Returns the hand-made instances, one for each span; which word is asked for alternates."""
    found = []
    for code, spans in SPANS.items():
        of = language(code)
        for n, span in enumerate(spans):
            words, trap = span.split()
            first, second = words.split("|")
            cut = next(k for k in range(1, len(trap)) if first.endswith(trap[:k]) and second.startswith(trap[k:]))
            pair = Pair(first, second, trap, cut)
            template = of.templates[n % len(of.templates)]
            found.append(instance_of(pair, of, template, asked=n % 2, vocabulary="", provenance="ours, by hand"))
    return found
