"""Small tokenizers of every family, trained in a moment on a few sentences in many scripts."""

import json
from functools import cache
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

SENTENCES = {
    "en": "All human beings are born free and equal in dignity and rights. The quick brown fox isn't here.",
    "de": "Alle Menschen sind frei und gleich an Würde und Rechten geboren. Größe, Übermut, Straße.",
    "fr": "Tous les êtres humains naissent libres et égaux en dignité et en droits; l'été, où çà.",
    "ru": "Все люди рождаются свободными и равными в своём достоинстве и правах.",
    "el": "Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι στην αξιοπρέπεια.",
    "tr": "Bütün insanlar hür, haysiyet ve haklar bakımından eşit doğarlar. İstanbul, ığdır.",
    "ar": "يولد جميع الناس أحرارا متساوين في الكرامة والحقوق.",
    "he": "כל בני האדם נולדו בני חורין ושווים בערכם ובזכויותיהם.",
    "hi": "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता प्राप्त है।",
    "bn": "সমস্ত মানুষ স্বাধীনভাবে সমান মর্যাদা এবং অধিকার নিয়ে জন্মগ্রহণ করে।",
    "ta": "மனிதப் பிறவியினர் சகலரும் சுதந்திரமாகவே பிறக்கின்றனர்.",
    "th": "มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกันในเกียรติศักดิ์และสิทธิ",
    "my": "လူတိုင်းသည် တူညီ လွတ်လပ်သော ဂုဏ်သိက္ခာဖြင့်",
    "ka": "ყველა ადამიანი იბადება თავისუფალი და თანასწორი.",
    "am": "የሰው፡ልጅ፡ሁሉ፡ሲወለድ፡ነጻና፡በክብርና፡በመብትም፡እኩልነት፡ያለው፡ነው።",
    "ja": "すべての人間は、生まれながらにして自由であり、尊厳と権利とについて平等である。",
    "zh": "人人生而自由,在尊严和权利上一律平等。他们赋有理性和良心。",
    "ko": "모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다.",
    "vi": "Tất cả mọi người sinh ra đều được tự do và bình đẳng về nhân phẩm và quyền.",
    "sw": "Watu wote wamezaliwa huru, hadhi na haki zao ni sawa.",
    "yo": "Gbogbo ènìyàn ni a bí ní òmìnira; iyì àti ẹ̀tọ́ kọ̀ọ̀kan sì dọ́gba.",
    "code": "def f(x):\n\treturn [i**2 for i in range(10)]  # x\n\n\nif __name__ == '__main__':\n    print(f(3))\r\n",
    "emoji": "👩‍👩‍👧‍👦 🇫🇮 👍🏽 ❤️ ok 🤖",
    "numbers": "In 2024, 1234567.89 + 0x1F = 3,14 and 10 000 €",
    "spaces": "  two  spaces,\ttab,\n\n\nlines,\u00a0nbsp,\u3000wide,\u200bzero ",
    "marks": "e\u0301 n\u0303 Z\u0351\u036b\u0343\u036a\u0302\u036b\u033d\u034f\u0334\u0319\u0324 \ufb01 ℌ ½ ＡＢ",
}
"""One text for each of 21 languages, code, emoji, numbers, white space and combining marks."""


def corpus() -> list[str]:
    """The sentences, repeated so that merges happen."""
    return [text for text in SENTENCES.values() for _ in range(3)]


@cache
def byte_level(vocab_size: int = 600, specials: tuple[str, ...] = ("<|endoftext|>",)) -> str:
    """A GPT-2 style byte-level BPE."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(specials),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    return tokenizer.to_str()


@cache
def split_byte_level(vocab_size: int = 600) -> str:
    """A Llama-3 style byte-level BPE: a regex split, then bytes, inside a sequence; merges ignored for whole words."""
    pattern = r"(?i:'s|'t)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(pattern), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus()[::-1], trainer)
    return tokenizer.to_str()


@cache
def sentencepiece_bpe(vocab_size: int = 700) -> str:
    """A Llama-2 style BPE: spaces as marks, byte fallback, a space in front."""
    bytes_ = [f"<0x{b:02X}>" for b in range(256)]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=["<unk>", "<s>", "</s>", *bytes_], show_progress=False
    )
    tokenizer.train_from_iterator([text for key, text in SENTENCES.items() if key != "am"] * 3, trainer)
    data = json.loads(tokenizer.to_str())
    data["pre_tokenizer"] = None
    data["added_tokens"] = [t for t in data["added_tokens"] if not t["content"].startswith("<0x")]
    strip = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
    mark = {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}
    data["decoder"] = {"type": "Sequence", "decoders": [mark, {"type": "ByteFallback"}, {"type": "Fuse"}, strip]}
    return json.dumps(data)


@cache
def unigram(vocab_size: int = 500, byte_fallback: bool = True) -> str:
    """A T5 / XLM-R style Unigram over marked words."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    specials = ["<unk>", "<s>", "</s>", "<pad>", "<mask>"]
    trainer = trainers.UnigramTrainer(
        vocab_size=vocab_size, unk_token="<unk>", special_tokens=specials, show_progress=False
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    data = json.loads(tokenizer.to_str())
    if byte_fallback:
        data["model"]["vocab"] += [[f"<0x{b:02X}>", -100.0] for b in range(256)]
        data["model"]["byte_fallback"] = True
        data["decoder"] = {
            "type": "Sequence",
            "decoders": [{"type": "ByteFallback"}, data["decoder"]],
        }
    return json.dumps(data)


@cache
def wordpiece(vocab_size: int = 700) -> str:
    """A BERT style uncased WordPiece."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(vocab_size=vocab_size, special_tokens=specials, show_progress=False)
    tokenizer.train_from_iterator(corpus(), trainer)
    ids = [(name, tokenizer.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", "[CLS] $A [SEP] $B [SEP]", ids)
    return tokenizer.to_str()


FAMILIES = {
    "byte-level": byte_level,
    "split-byte-level": split_byte_level,
    "sentencepiece-bpe": sentencepiece_bpe,
    "unigram": unigram,
    "wordpiece": wordpiece,
}


def write(folder: Path, text: str, **config: object) -> Path:
    """Writes a tokenizer folder and returns it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(text, encoding="utf-8")
    beside = {"tokenizer_class": "PreTrainedTokenizerFast", **config}
    (folder / "tokenizer_config.json").write_text(json.dumps(beside), encoding="utf-8")
    return folder
