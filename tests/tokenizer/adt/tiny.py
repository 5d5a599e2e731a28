"""Byte-level BPE tokenizers with merges written by hand, so that every cut is known."""

import json

from tokenlayer.core.byte_alphabet import to_alphabet
from tokenlayer.models.tokenizer_files import LoadedTokenizer


def bpe(*words, normalizer=None, spaced=True):
    """A tokenizer that merges each word from the left; earlier words win. `spaced` adds each with a space in front."""
    vocab = {to_alphabet(bytes([b])): b for b in range(256)}
    merges = []
    for word in words:
        for form in (word, f" {word}") if spaced else (word,):
            pieces = [to_alphabet(bytes([b])) for b in form.encode()]
            so_far = pieces[0]
            for piece in pieces[1:]:
                if so_far + piece not in vocab:
                    vocab[so_far + piece] = len(vocab)
                    merges.append([so_far, piece])
                so_far += piece
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": True}
    data = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": normalizer,
        "pre_tokenizer": byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": {"type": "BPE", "vocab": vocab, "merges": merges, "dropout": None, "unk_token": None},
    }
    return LoadedTokenizer(json.loads(json.dumps(data)), where="tiny")
