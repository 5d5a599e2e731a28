"""One small case for each system of the catalogue: a run, and inputs that must be refused."""

import json
import random
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests import tiny_swaps
from tests.contract import adt_case, mixture_case, qtok_case
from tests.tiny_hypernets import hypernet_folder
from tests.tiny_tokenizers import FAMILIES, SENTENCES, write
from tests.toy_vectors import toy_vectors

from tokenlayer.app import api, dynamic, lib
from tokenlayer.data.vector_files import write_fasttext


@dataclass(frozen=True)
class Case:
    """What the contract suite needs to know of a system.

    Attributes:
        run: `(folder, seed) -> bytes`: the system's main output at tiny scale, on a CPU, in under five seconds.
        bad_inputs: at least five of `(what is bad, call on a folder, part of the message)`.
        seeded: whether another seed gives other bytes.
    """

    run: Callable[[Path, int], bytes]
    bad_inputs: tuple[tuple[str, Callable[[Path], object], str], ...]
    seeded: bool = False


def swap_case(
    init: str,
    *,
    seeded: bool,
    materials: Callable[[Path], dict[str, object]] = lambda folder: {},
    bad_materials: tuple[tuple[str, Callable[[Path], dict[str, object]], str], ...] = (),
) -> Case:
    """The case of an initialiser: a tiny model gets the tokenizer of another family.

    Args:
        init: its name.
        seeded: whether the seed matters.
        materials: writes into a folder what the initialiser needs; gives the arguments that name it.
        bad_materials: what is bad, how it is written, part of the message.
    """

    def swap(folder: Path, **changes: object) -> Path:
        model = tiny_swaps.model_with_tokenizer("tied_llama", folder / "model")
        tokenizer = write(folder / "tokenizer", FAMILIES["split-byte-level"]())
        given = {"model": model, "tokenizer": tokenizer, "out": folder / "out", "init": init}
        given |= materials(folder) | changes
        api.swap(given.pop("model"), given.pop("tokenizer"), given.pop("out"), **given)
        return folder / "out"

    def empty_text(folder: Path) -> Path:
        (folder / "empty.txt").write_text(" \n")
        return swap(folder, eval=[str(folder / "empty.txt")])

    def taken(folder: Path) -> Path:
        (folder / "out").mkdir()
        (folder / "out" / "thesis.tex").write_text("")
        return swap(folder, force=True)

    return Case(
        run=lambda folder, seed: (swap(folder, seed=seed) / "model.safetensors").read_bytes(),
        bad_inputs=(
            ("no such model", lambda folder: swap(folder, model=folder / "nowhere"), "nowhere"),
            ("no such tokenizer", lambda folder: swap(folder, tokenizer=folder / "nowhere"), "nowhere"),
            ("a misspelled name", lambda folder: swap(folder, init=f"{init}x"), f"init is '{init}x', expected one of:"),
            ("a text that is empty", empty_text, "empty.txt is empty"),
            ("no such text", lambda folder: swap(folder, eval=[str(folder / "no.txt")]), "no.txt"),
            ("somebody's own folder", taken, "does not look like a checkpoint or tokenizer folder"),
            ("rows that are no multiple", lambda folder: swap(folder, pad_multiple=0), "pad_multiple is 0"),
            *((what, lambda folder, bad=bad: swap(folder, **bad(folder)), said) for what, bad, said in bad_materials),
        ),
        seeded=seeded,
    )


WORDS = {"en": SENTENCES["en"].split(), "ru": SENTENCES["ru"].split()}


def two_languages(folder: Path) -> dict[str, object]:
    """Word vectors of two languages and a word list."""
    for seed, (name, words) in enumerate(WORDS.items()):
        write_fasttext(toy_vectors(list(dict.fromkeys(words)), seed), folder / f"{name}.bin")
    pairs = zip(WORDS["en"], WORDS["ru"], strict=False)
    return {
        "source_vectors": folder / "en.bin",
        "vectors": folder / "ru.bin",
        "dictionary": written(folder / "en-ru.tsv", "".join(f"{one}\t{other}\n" for one, other in pairs)),
    }


def cut_off(folder: Path) -> dict[str, object]:
    """A fastText file that ends too early."""
    whole = Path(str(two_languages(folder)["vectors"])).read_bytes()
    (folder / "cut.bin").write_bytes(whole[: len(whole) // 2])
    return {"vectors": folder / "cut.bin"}


def written(path: Path, text: str) -> Path:
    """The file, after the text was written into it."""
    path.write_text(text, encoding="utf-8")
    return path


BAD_WORD_VECTORS = (
    ("no word vectors", lambda folder: {"vectors": "", "source_vectors": ""}, "needs aligned vectors"),
    ("no such word list", lambda folder: {"dictionary": folder / "none.tsv"}, "none.tsv"),
    (
        "a word list without pairs",
        lambda folder: {"dictionary": written(folder / "list.tsv", "one\ntwo\n")},
        "no word pair in",
    ),
    (
        "a word list of other languages",
        lambda folder: {"dictionary": written(folder / "list.tsv", "xyz\tzyx\n")},
        "no word pair has a vector on both sides",
    ),
    ("vectors that are cut off", cut_off, "cut.bin is cut off"),
    ("a file that is none of vectors", lambda folder: {"vectors": folder / "en-ru.tsv"}, "is no file of word vectors"),
    (
        "a temperature of zero",
        lambda folder: {"init_config": written(folder / "own.toml", "temperature = 0.0\n")},
        "temperature is 0, expected above 0",
    ),
    (
        "more neighbours than there are tokens",
        lambda folder: {"init_config": written(folder / "own.toml", "neighbours = 100000\n")},
        "neighbours is 100000, the source has",
    ),
)


def text_to_learn_from(folder: Path) -> dict[str, object]:
    """Text in five languages and settings at which a few steps show."""
    settings = "rank = 8\nepochs = 1\nsubsample = 0\nbatch = 512\nlearning_rate = 0.05\n"
    return {
        "texts": [str(written(folder / "text.txt", "\n".join(SENTENCES.values())))],
        "init_config": written(folder / "own.toml", settings),
    }


def own(setting: str) -> Callable[[Path], dict[str, object]]:
    """Settings of the initialiser's own in a file."""
    return lambda folder: {"init_config": written(folder / "bad.toml", setting)}


BAD_CW2V = (
    ("no texts", lambda folder: {"texts": []}, "init cw2v needs texts"),
    ("texts without a pair", lambda folder: {"texts": [str(written(folder / "one.txt", "a\n"))]}, "no pairs to learn"),
    ("no such settings", lambda folder: {"init_config": folder / "no.toml"}, "neither a file nor a preset of cw2v"),
    ("a misspelled setting", own("rnak = 8\n"), "is 'rnak', expected one of: rank"),
    ("a setting of another kind", own('rank = "high"\n'), "is 'high', expected int"),
    ("no rank", own("rank = 0\n"), "rank is 0, expected at least 1"),
    ("an unknown start", own('init = "zero"\n'), "init is 'zero', expected one of: mean, reference"),
    (
        "reference negatives with too large a batch",
        own('negatives = "reference"\nbatch = 4096\nsubsample = 0\n'),
        "draws ",
    ),
)


def terms_case() -> Case:
    """The case of K-Tokeniser: a tiny BERT gets pieces for two types of terms; one piece has to be drawn."""
    drugs = "amoxicillin\nampicillin\npenicillin\ncloxacillin\nβ-blocker\n"

    def terms(folder: Path, *, kind: str = "bert_encoder", text: str = drugs, **changes: object) -> Path:
        model = tiny_swaps.model_with_tokenizer(kind, folder / "model")
        (folder / "drugs.txt").write_text(text, encoding="utf-8")
        (folder / "META").mkdir()
        (folder / "META" / "MRCONSO.RRF").write_text("C1|ENG|\n")
        (folder / "META" / "MRSTY.RRF").write_text("C1|T121|A|Pharmacologic Substance|AT|256|\n")
        given = {
            "model": model,
            "out": folder / "out",
            "files": [f"drug={folder}/drugs.txt"],
            "min_count": 0,
            **changes,
        }
        api.terms(given.pop("model"), given.pop("out"), **given)
        return folder / "out"

    def run(folder: Path, seed: int) -> bytes:
        out = terms(folder, seed=seed)
        return b"".join((out / name).read_bytes() for name in ("model.safetensors", "k_tokeniser.json"))

    return Case(
        run=run,
        bad_inputs=(
            ("no such model", lambda folder: terms(folder, model=folder / "nowhere"), "nowhere"),
            ("a BPE model", lambda folder: terms(folder, kind="tied_llama"), "expected WordPiece"),
            ("no terms", lambda folder: terms(folder, files=[]), "there are no terms"),
            ("an empty list", lambda folder: terms(folder, text="\n \n"), "drugs.txt holds no term"),
            ("one word", lambda folder: terms(folder, text="aspirin\n"), "1 distinct words, expected at least 2"),
            ("no such list", lambda folder: terms(folder, files=[f"drug={folder}/no.txt"]), "no.txt does not exist"),
            (
                "too few columns",
                lambda folder: terms(folder, umls=folder / "META", semantic_types=["drug=T121"]),
                "2 columns, MRCONSO.RRF has 18",
            ),
            (
                "a misspelled semantic type",
                lambda folder: terms(folder, umls=folder / "META", semantic_types=["drug=Clinical"]),
                "semantic type is 'Clinical', expected one of",
            ),
            ("no folder to write", lambda folder: terms(folder, out=None), "there is no folder to write to"),
            ("a negative share", lambda folder: terms(folder, rollback=-1.0), "rollback is -1.0"),
        ),
        seeded=True,
    )


def hypernet_case() -> Case:
    """The case of ZeTT: a tiny model gets a tiny hypernetwork in a few steps."""
    small = {"batch": 2, "block": 12, "vocab_size": 420, "identity_tokens": 16}

    def hypernet(folder: Path, *, text: str = "\n\n".join(SENTENCES.values()) * 8, **given: object) -> Path:
        kind = given.pop("kind", "tied_llama")
        model = given.pop("model", None) or tiny_swaps.model_with_tokenizer(str(kind), folder / "model")
        (folder / "text.txt").write_text(text, encoding="utf-8")
        changes = small | dict(given.pop("changes", {}))
        texts = given.pop("texts", [f"en:{folder}/text.txt"])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            settings = {"preset": "small", "steps": 6, "changes": changes, **given}
            api.hypernet(model, texts, folder / "out", **settings)
        return folder / "out"

    def odd_pooling(folder: Path) -> Path:
        model = tiny_swaps.model_with_tokenizer("bert_encoder", folder / "encoder")
        (model / "1_Pooling").mkdir()
        (model / "1_Pooling" / "config.json").write_text('{"pooling_mode": "lasttoken"}')
        return model

    return Case(
        run=lambda folder, seed: (hypernet(folder, seed=seed) / "model.safetensors").read_bytes(),
        bad_inputs=(
            ("no such model", lambda folder: hypernet(folder, model=folder / "nowhere"), "nowhere"),
            ("an unknown pooling", lambda folder: hypernet(folder, model=odd_pooling(folder)), "expected one of: mean"),
            ("no text", lambda folder: hypernet(folder, texts=[]), "a hypernetwork is trained on texts"),
            ("no such text", lambda folder: hypernet(folder, texts=[f"en:{folder}/no.txt"]), "no.txt"),
            ("an empty text", lambda folder: hypernet(folder, text=" \n"), "hold nothing that can be predicted"),
            ("an unknown shape", lambda folder: hypernet(folder, arch="papre"), "arch is 'papre', expected one of"),
            ("an unknown preset", lambda folder: hypernet(folder, preset="tiny"), "preset is 'tiny', expected one of"),
            ("a block that is too long", lambda folder: hypernet(folder, changes={"block": 4096}), "reads at most"),
            (
                "a vocabulary without room",
                lambda folder: hypernet(folder, changes={"vocab_size": 300}),
                "vocab_size is 300, expected more than",
            ),
        ),
        seeded=True,
    )


def dynamic_case() -> Case:
    """The case of dynamic units: a tiny encoder reads a few lines with a drawn hypernetwork."""

    def encode(folder: Path, *, lines: str = "the cat and the dog\nthe cats and the dogs\n", **given: object) -> Path:
        model = tiny_swaps.model_with_tokenizer("bert_encoder", folder / "model")
        (folder / "lines.txt").write_text(lines, encoding="utf-8")
        settings = {"hypernet": hypernet_folder(folder / "hn", model), "reduction": 1.0, **given}
        dynamic.encode(
            settings.pop("model", model), settings.pop("texts", folder / "lines.txt"), folder / "out", **settings
        )
        return folder / "out"

    return Case(
        run=lambda folder, seed: (encode(folder) / "vectors.safetensors").read_bytes(),
        bad_inputs=(
            ("no hypernetwork", lambda folder: encode(folder, hypernet=None), "none was given"),
            ("no folder of one", lambda folder: encode(folder, hypernet=folder), "is no hypernetwork"),
            ("a share above 1", lambda folder: encode(folder, reduction=50.0), "reduction is 50"),
            ("two wishes", lambda folder: encode(folder, merges=3), "exactly one of the two"),
            ("an unknown boundary", lambda folder: encode(folder, boundary="wrod"), "boundary is 'wrod'"),
            ("an unknown kind of rows", lambda folder: encode(folder, method="mean"), "method is 'mean'"),
            ("an unknown language", lambda folder: encode(folder, language="de"), "has no languages"),
            ("too long a text", lambda folder: encode(folder, max_length=4096), "reads at most 64 tokens"),
            ("no text", lambda folder: encode(folder, lines="\n"), "there are no texts"),
        ),
    )


def lib_case() -> Case:
    """The case of LiB: a lexicon from a few hundred lines of five languages."""

    def learn(folder: Path, *, text: str | None = None, **given: object) -> Path:
        draw, words = random.Random(0), " ".join(SENTENCES.values()).split()
        lines = "\n".join(" ".join(draw.choices(words[:40], k=6)) for _ in range(200))
        sources = given.pop("sources", [str(written(folder / "text.txt", lines if text is None else text))])
        lib.lib(sources, given.pop("out", folder / "out"), **{"article": 20, "life": 3, **given})
        return folder / "out"

    return Case(
        run=lambda folder, seed: json.dumps(
            json.loads((learn(folder, seed=seed) / "lib.json").read_text())["lexicon"]
        ).encode(),
        bad_inputs=(
            ("no such text", lambda folder: learn(folder, sources=[str(folder / "no.txt")]), "no.txt"),
            ("a blank text", lambda folder: learn(folder, text=" \n\n"), "there is no text to learn from"),
            ("a text that is too short", lambda folder: learn(folder, text="ab\n"), "left probation within 1 articles"),
            ("a rate above one", lambda folder: learn(folder, in_rate=1.5), "in_rate is 1.5, expected a share"),
            ("no life", lambda folder: learn(folder, life=0), "life is 0, expected at least 1"),
            ("a token twice", lambda folder: learn(folder, special_tokens=("<s>", "<s>")), "a repeated token"),
            ("a start that is none", lambda folder: learn(folder, start=folder), "there is no lib.json"),
            ("a folder that is taken", lambda folder: learn(folder, out=folder), "exists and holds"),
            ("text that is not UTF-8", lambda folder: learn(folder, sources=[str(latin(folder))]), "latin.txt"),
        ),
        seeded=True,
    )


def latin(folder: Path) -> Path:
    """A file in Latin-1."""
    (folder / "latin.txt").write_bytes("né\n".encode("latin-1") * 50)
    return folder / "latin.txt"


CASES = {
    "adt": Case(adt_case.run, adt_case.BAD_INPUTS, seeded=True),
    "mixture": Case(mixture_case.run, mixture_case.BAD_INPUTS),
    "lib": lib_case(),
    "qtok": Case(qtok_case.run, qtok_case.BAD_INPUTS),
    "dynamic": dynamic_case(),
    "zett": hypernet_case(),
    "pieces": swap_case("pieces", seeded=False),
    "ktokeniser": terms_case(),
    "wechsel": swap_case("wechsel", seeded=True, materials=two_languages, bad_materials=BAD_WORD_VECTORS),
    "cw2v": swap_case("cw2v", seeded=True, materials=text_to_learn_from, bad_materials=BAD_CW2V),
}
