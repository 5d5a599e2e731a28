"""A report with every section, as `tokenlayer swap` writes it; the numbers are made up."""

from tokenlayer.core.report import Report

ENGLISH = "The quick brown fox jumps over the lazy dog."
TURKISH = "Kitaplarımızdan öğrendiklerimizi arkadaşlarımızla paylaşıyoruz.\nYarın yine geleceğiz."


def full_report() -> Report:
    report = Report("SmolLM2-135M with the tokenizer of turkish-32k")
    for text, before, after, n in (
        ("tr", 1.4312, 1.9027, 20_000),
        ("en", 0.9733, 0.9921, 19_998),
        ("code", 0.71, 0.69, 20_000),
    ):
        report.add("bits per byte", after, "bits", baseline=before, n=n, source=text)
    for text, before, after in (("tr", 2.01, 4.35), ("en", 4.31, 4.12), ("code", 3.05, 3.3)):
        report.add("bytes per token", after, "bytes", baseline=before, source=text)
        report.add("tokens per word", 9 / after, "tokens", baseline=9 / before, source=text)
    report.add("next-byte agreement", 0.8312, "share", n=1200)
    report.add("tokens per second", 812.3, "tokens/s", baseline=644.0)
    report.add("seconds", 75.4, "s")
    report.add("peak memory", 1412.0, "MB")
    report.add("vocab size", 32_000.0, "tokens", baseline=49_152.0)
    report.add("rows", 32_000.0, "rows", baseline=49_152.0)
    report.add_table(
        "origin of rows",
        ["rule", "input rows", "share"],
        [("copy", 11_204, 0.3501), ("pieces", 20_511, 0.641), ("special", 17, 0.0005), ("fallback", 268, 0.0084)],
    )
    report.add_table(
        "special roles",
        ["role", "source token", "source id", "target token", "target id", "how"],
        [
            ("bos", "<|im_start|>", 1, "<s>", 1, "by role"),
            ("eos", "<|im_end|>", 2, "</s>", 2, "by role"),
            ("pad", "<|im_end|>", 2, None, None, "none in the target"),
        ],
    )
    report.add_table(
        "worst cases",
        ["token", "id", "rule", "spelled as", "why"],
        [
            (" muvaffakiyet", 31022, "pieces", [" mu", "v", "aff", "ak", "iy", "et"], "6 pieces"),
            ("\u202e\x1b[31m", 512, "fallback", [], "no bytes of it in the source"),
            ("<b>|x|</b>", 7, "pieces", ["<", "b", ">"], "3 pieces"),
        ],
        note="Tokens whose rows are made of most pieces.",
    )
    report.data["checks"] = ["the same ids after reloading, 300 texts", "input and output rows are still one table"]
    report.data["languages"] = {"tr": "tr", "en": "en", "code": ""}
    report.warn("268 tokens have no spelling in the source; their rows are the mean row")
    report.data["sample"] = {"text name": "tr", "source": _cut(TURKISH, 2), "target": _cut(TURKISH, 5)}
    report.data["token_lengths"] = {
        "source": {str(n): 9000 // n for n in range(1, 30)},
        "target": {str(n): 1500 + 900 * min(n, 12 - n) for n in range(1, 12)},
    }
    report.data["continuations"] = [
        {
            "prompt": "Bir zamanlar",
            "source": " bir kız vardı, <i>güzel</i> bir kız.",
            "target": " uzak bir ülkede bir padişah yaşarmış.",
        }
    ]
    report.settings = {
        "command": "tokenlayer swap HuggingFaceTB/SmolLM2-135M turkish-32k --out smol-tr --eval tr.txt:tr",
        "model": "HuggingFaceTB/SmolLM2-135M",
        "tokenizer": "turkish-32k",
        "init": "pieces",
        "seed": 0,
        "versions": {"tokenlayer": "0.1.0", "torch": "2.13.0"},
        "paper": "Gee et al., Fast Vocabulary Transfer for Language Model Compression, EMNLP Industry 2022",
    }
    report.next_command = "tokenlayer doctor smol-tr"
    return report


def _cut(text: str, size: int) -> list[list[str | int]]:
    return [[text[i : i + size], 1000 + i] for i in range(0, len(text), size)]
