"""The folder of a LiB tokenizer: the learner's whole state, and a tokenizer.json for everything else that reads one.

The two-path rule cannot be written in a tokenizer.json. What is written there is the same vocabulary as a Unigram model
that finds the cut with the fewest tokens of a whole line, then with the best ranks: the rule that the two paths follow
from place to place, applied at once. It never needs more tokens; `Difference` says how often it cuts otherwise.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from tokenlayer.core.errors import BadTokenizer
from tokenlayer.models.tokenizer_files import LoadedTokenizer, read_json
from tokenlayer.tokenizer.lib.learner import LibLearner
from tokenlayer.tokenizer.lib.tokenizer import FIRST_CHUNK, LibTokenizer

FORMAT = "tokenlayer-lib/1"
STATE_FILE = "lib.json"
RANK_SHARE = 1e-3
"""The worst rank costs this share of a token: in lines of up to a thousand tokens ranks only break ties."""
LAST_RESORT = -1e6
"""Score of a byte: no cut with a byte is taken while there is another."""


class Difference(NamedTuple):
    """How the tokenizer.json cuts lines, against the two-path rule.

    Attributes:
        lines: lines compared.
        other: lines that it cuts otherwise.
        tokens: tokens by the two-path rule.
        json_tokens: tokens by the tokenizer.json.
    """

    lines: int
    other: int
    tokens: int
    json_tokens: int


def files(learner: LibLearner, tokenizer: LibTokenizer) -> dict[str, str]:
    """The files of the folder by name."""
    made = loaded(tokenizer)
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    if tokenizer.special_tokens:
        config["eos_token"] = tokenizer.special_tokens[0]
    return {
        STATE_FILE: json.dumps({"format": FORMAT, **learner.state()}, indent=1),
        "tokenizer.json": json.dumps(made.data, ensure_ascii=False, indent=1),
        "tokenizer_config.json": json.dumps(config, ensure_ascii=False, indent=2),
    }


def loaded(tokenizer: LibTokenizer) -> LoadedTokenizer:
    """The vocabulary as a Unigram tokenizer.json, with the same ids."""
    worst, first_control = max(len(tokenizer.lexicon), 1), FIRST_CHUNK + len(tokenizer.lexicon)
    scores = [LAST_RESORT] * FIRST_CHUNK + [-1 - RANK_SHARE * rank / worst for rank in range(len(tokenizer.lexicon))]
    special = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    added = [{"id": i, "content": tokenizer.names[i], **special} for i in range(first_control, len(tokenizer))]
    split = {"type": "Split", "pattern": {"String": "\n"}, "behavior": "Isolated", "invert": False}
    data = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": split,
        "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]},
        "model": {
            "type": "Unigram",
            "unk_id": 0,
            "vocab": [list(pair) for pair in zip(tokenizer.names[:first_control], scores, strict=True)],
            "byte_fallback": True,
        },
    }
    roles = {"eos": first_control} if tokenizer.special_tokens else {}
    return LoadedTokenizer(data, roles=roles, where="the LiB tokenizer")


def load_learner(folder: str | Path, *, compiled: bool | None = None) -> LibLearner:
    """Reads the learner of a folder: it goes on as if it had never been saved.

    Raises:
        BadTokenizer: there is no such file, or it is damaged.
    """
    path = Path(folder)
    path = path / STATE_FILE if path.is_dir() else path
    if not path.is_file():
        raise BadTokenizer(
            f"{folder} holds no LiB tokenizer: there is no {STATE_FILE}", hint="make one: tokenlayer tokenizer lib"
        )
    state = read_json(path)
    if state.get("format") != FORMAT:
        raise BadTokenizer(f"{path}: format is {state.get('format')!r}, expected {FORMAT!r}", hint="learn it again")
    try:
        return LibLearner.from_state(state, compiled=compiled)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise BadTokenizer(f"{path} is damaged: {type(error).__name__}: {error}", hint="learn it again") from error


def load_lib(folder: str | Path, *, compat: bool = False, compiled: bool | None = None) -> LibTokenizer:
    """Reads the tokenizer of a folder.

    Raises:
        BadTokenizer: see `load_learner`.
    """
    learner = load_learner(folder, compiled=False)
    return LibTokenizer(learner.lexicon, learner.config.special_tokens, compat=compat, compiled=compiled)


def compare(tokenizer: LibTokenizer, lines: Iterable[str]) -> Difference:
    """Cuts lines by the two-path rule and by the tokenizer.json."""
    texts: Sequence[str] = list(lines)
    other = loaded(tokenizer).encode_batch(texts)
    ours = [tokenizer.encode(text) for text in texts]
    pairs = list(zip(ours, other, strict=True))
    return Difference(
        len(texts), sum(a != b for a, b in pairs), sum(len(a) for a, _ in pairs), sum(len(b) for _, b in pairs)
    )
