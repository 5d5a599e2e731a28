"""A hypernetwork as a folder: ours, and the published ones (`hn_*` settings) through a name map."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tokenlayer.core.errors import BadCheckpoint
from tokenlayer.core.vocab import ByteVocab
from tokenlayer.models.safetensors_io import read_json
from tokenlayer.models.tokenizer_files import LoadedTokenizer
from tokenlayer.transfer.zett.network import Hypernet, HypernetConfig

FORMAT = "tokenlayer-hypernet/1"
CONFIG, WEIGHTS = "config.json", "model.safetensors"
MOST_PARAMETERS = 8_000_000_000
"""A config that asks for more is refused before memory is taken."""


@dataclass(frozen=True, eq=False)
class SavedHypernet:
    """A network with what it was trained for.

    Attributes:
        network: in float32, in evaluation mode.
        vocab_digest: digest of the source vocabulary (see `vocab_digest`), or `""` for published ones.
        about: what the folder says of its training.
        unused: tensors of a published folder that take no part (RoBERTa's word table, far positions).
        published: the settings of a published folder, or `{}`.
    """

    network: Hypernet
    vocab_digest: str = ""
    about: Mapping[str, Any] = field(default_factory=dict)
    unused: Mapping[str, Tensor] = field(default_factory=dict)
    published: Mapping[str, Any] = field(default_factory=dict)


def vocab_digest(vocab: ByteVocab) -> str:
    """What tells vocabularies apart: a digest of all tokens in order, by their bytes and kinds."""
    digest = hashlib.blake2b(digest_size=16)
    for data, kind, name in zip(vocab.tokens, vocab.kinds, vocab.names, strict=True):
        digest.update(f"{kind.value} {len(data)} ".encode() + data + (b"" if data else name.encode()) + b"\n")
    return digest.hexdigest()


def save_hypernet(
    folder: Path, network: Hypernet, tokenizer: LoadedTokenizer, about: Mapping[str, Any], *, dtype: str = "float16"
) -> None:
    """Writes a network into an existing folder, with the tokenizer whose pieces it reads.

    Args:
        folder: an empty folder.
        network: the network.
        tokenizer: the source model's.
        about: JSON-able facts of its training.
        dtype: of the stored weights: float16 (half the size; errors of 0.05 % of a weight) or float32.
    """
    from safetensors.torch import save_file

    kind = {"float16": torch.float16, "float32": torch.float32}[dtype]
    tensors = {name: value.detach().to("cpu", kind).contiguous() for name, value in network.state_dict().items()}
    save_file(tensors, folder / WEIGHTS, {"format": "pt"})
    (folder / WEIGHTS).chmod(0o644)  # safetensors writes for its owner alone
    config = {
        "format": FORMAT,
        "network": asdict(network.config),
        "vocab_digest": vocab_digest(tokenizer.vocab),
        "about": dict(about),
    }
    (folder / CONFIG).write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    for name, text in tokenizer.files().items():
        (folder / name).write_text(text, encoding="utf-8")


def load_hypernet(folder: Path) -> SavedHypernet:
    """Reads a folder that `save_hypernet` or the reference implementation wrote.

    Raises:
        BadCheckpoint: there is none, a setting is unknown, or tensors are missing or of other shapes.
    """
    if not (folder / CONFIG).is_file() or not (folder / WEIGHTS).is_file():
        raise BadCheckpoint(
            f"{folder} is no hypernetwork: it has no {CONFIG} with {WEIGHTS}",
            hint="give the folder that `tokenlayer transfer hypernet` wrote",
        )
    config = read_json(folder / CONFIG)
    if config.get("format") == FORMAT:
        network = _network(_own_config(folder, config.get("network", {})), folder)
        _fill(network, _read_tensors(folder), folder)
        return SavedHypernet(network.eval(), config.get("vocab_digest", ""), config.get("about", {}))
    if any(name.startswith("hn_") for name in config):
        return _load_published(folder, config)
    raise BadCheckpoint(
        f"{folder / CONFIG} is not the config of a hypernetwork: format is {config.get('format')!r}, "
        f"expected {FORMAT!r}, or hn_* settings",
        hint="is this a language model? a hypernetwork is given beside it, by --hypernet",
    )


def _own_config(folder: Path, given: Mapping[str, Any]) -> HypernetConfig:
    try:
        return HypernetConfig(**{**given, "languages": tuple(given.get("languages", ()))})
    except TypeError as error:
        raise BadCheckpoint(f"{folder / CONFIG} has other settings than this version knows: {error}") from error


def _network(config: HypernetConfig, folder: Path) -> Hypernet:
    width, inner = config.hidden, config.inner
    count = config.layers * (4 * width * width + 2 * width * inner) + 6 * width * inner
    count += (config.input_dim + 2 * config.dim) * width + config.extra * config.input_dim
    if count > MOST_PARAMETERS:
        raise BadCheckpoint(f"{folder / CONFIG} asks for {count:,} parameters, expected at most {MOST_PARAMETERS:,}")
    return Hypernet(config)


def _read_tensors(folder: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(load_file(folder / WEIGHTS))
    except SafetensorError as error:
        raise BadCheckpoint(f"{folder / WEIGHTS} is damaged: {error}") from error


def _fill(network: Hypernet, tensors: Mapping[str, Tensor], folder: Path) -> None:
    wanted = network.state_dict()
    for name, value in wanted.items():
        if name not in tensors or tensors[name].shape != value.shape:
            found = list(tensors[name].shape) if name in tensors else "missing"
            raise BadCheckpoint(f"{name} in {folder / WEIGHTS} is {found}, expected {list(value.shape)}")
    network.load_state_dict({name: tensors[name].float() for name in wanted})


REFUSED = {
    "hn_add_inter_token_attention": "attention between tokens",
    "hn_embed_target_priors": "token priors as input",
    "hn_concat_last_hidden_state": "all positions read out",
    "hn_single_head": "one head for input and output rows",
}
"""Settings of published networks that their paper switched off in the end; a folder with one of them is refused."""


def _load_published(folder: Path, config: dict[str, Any]) -> SavedHypernet:
    refused = [what for name, what in REFUSED.items() if config.get(name)]
    if refused or config.get("hn_model_type", "roberta") != "roberta":
        raise BadCheckpoint(
            f"{folder} is a hypernetwork with {', '.join(refused) or 'another body'}, which is not built"
        )
    if not config.get("hn_embed_using_source_embeddings", True):
        raise BadCheckpoint(f"{folder} is a hypernetwork with piece embeddings of its own, which is not built")
    tensors = _read_tensors(folder)
    network = _network(_published_shape(config), folder)
    names = published_names(network.config, rescaled=bool(config.get("hn_rescale_embeddings")))
    found: dict[str, Tensor] = {name: value.clone() for name, value in network.state_dict().items()}
    for name, theirs in names.items():
        if theirs not in tensors:
            raise BadCheckpoint(f"{theirs} in {folder / WEIGHTS} is missing")
        value = tensors[theirs]
        wanted = found[name].shape
        found[name] = value[: wanted[0]] if name == "position.weight" else value.reshape(value.shape[-len(wanted) :])
    _fill(network, found, folder)
    unused = {name: value for name, value in tensors.items() if name not in set(names.values())}
    unused["far positions"] = tensors[names["position.weight"]][network.config.longest + 1 :]
    return SavedHypernet(network.eval(), "", {}, unused, config)


def _published_shape(config: Mapping[str, Any]) -> HypernetConfig:
    languages = tuple(config.get("langs") or (str(n) for n in range(config.get("n_langs") or 0)))
    width = config["hn_hidden_size"]
    return HypernetConfig(
        config["n_embd"],
        tied=not config.get("separate_out_embeddings", False),
        vocab_size=config["original_vocab_size"],
        hidden=width,
        inner=config["hn_intermediate_size"],
        layers=config["hn_n_layers"],
        heads=config.get("hn_num_attention_heads") or width // 64,
        longest=config["hn_surface_maxlen"],
        bias=bool(config.get("hn_predict_bias", True)),
        extra=config.get("hn_n_extra_tokens", 0),
        languages=languages if config.get("hn_embed_lang_id") else (),
    )


def published_names(config: HypernetConfig, *, rescaled: bool = True) -> dict[str, str]:
    """Our tensor names and those of the reference implementation's folders."""
    names = {
        "fallback.weight": "fallback_embeddings.weight",
        "position.weight": "model.embeddings.position_embeddings.weight",
        "kind": "model.embeddings.token_type_embeddings.weight",
    }
    blocks = {"project_block": "input_projection.1", "head_block": "output_projection.0"}
    linears = {"project": "input_projection.0", "head": "output_projection.1", "norm": "model.embeddings.LayerNorm"}
    scalers = {"in_scaler": "in_scaler", "scaler": "scaler"}
    if not config.tied:
        blocks["output_block"] = "output_projection_out.0"
        linears["output_head"] = "output_projection_out.1"
        scalers["output_scaler"] = "out_scaler"
    if config.bias:
        linears["bias_head"] = "bias_projection"
    if config.languages:
        names["language.weight"] = "lang_embeddings.weight"
    for mine, theirs in blocks.items():
        linears |= {f"{mine}.{part}": f"{theirs}.{name}" for part, name in BLOCK_PARTS.items()}
    for layer in range(config.layers):
        start = f"model.encoder.layer.{layer}"
        linears |= {f"layers.{layer}.{part}": f"{start}.{name}" for part, name in LAYER_PARTS.items()}
    names |= {f"{mine}.{end}": f"{theirs}.{end}" for mine, theirs in linears.items() for end in ("weight", "bias")}
    if rescaled:
        for mine, theirs in scalers.items():
            names |= {f"{mine}.weight": f"{theirs}.w", f"{mine}.shift": f"{theirs}.b"}
    return names


BLOCK_PARTS = {"inner": "dense1", "outer": "dense2", "norm": "ln"}
LAYER_PARTS = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "out": "attention.output.dense",
    "norm": "attention.output.LayerNorm",
    "inner": "intermediate.dense",
    "outer": "output.dense",
    "last_norm": "output.LayerNorm",
}


def save_published(folder: Path, saved: SavedHypernet) -> None:
    """Writes a network that came from a published folder as it came: the same settings and tensors, bit for bit.

    Raises:
        BadCheckpoint: it did not come from one.
    """
    from safetensors.torch import save_file

    if not saved.published:
        raise BadCheckpoint("this hypernetwork did not come from a published folder", hint="use save_hypernet")
    network = saved.network
    state = network.state_dict()
    tensors = {name: value for name, value in saved.unused.items() if name != "far positions"}
    for name, theirs in published_names(
        network.config, rescaled=bool(saved.published.get("hn_rescale_embeddings"))
    ).items():
        value = state[name]
        if name == "position.weight":
            value = torch.cat([value, saved.unused["far positions"].to(value.dtype)])
        tensors[theirs] = value[None] if theirs.endswith((".w", ".b")) or name == "kind" else value
    save_file({name: value.contiguous() for name, value in tensors.items()}, folder / WEIGHTS, {"format": "pt"})
    (folder / CONFIG).write_text(json.dumps(dict(saved.published), indent=2) + "\n", encoding="utf-8")


def check_source(saved: SavedHypernet, vocab: ByteVocab, *, dim: int, tied: bool, where: str) -> None:
    """Refuses a hypernetwork that was trained for another model.

    Raises:
        BadCheckpoint: with both values.
    """
    shape = saved.network.config
    pairs: list[tuple[str, Any, Any]] = [("rows of width", shape.dim, dim), ("tied rows", shape.tied, tied)]
    if saved.vocab_digest:
        pairs.append(("a vocabulary with the digest", saved.vocab_digest, vocab_digest(vocab)))
    for what, expected, found in pairs:
        if expected != found:
            raise BadCheckpoint(
                f"the hypernetwork {where} was trained for {what} {expected}, this model has {found}",
                hint="a hypernetwork fits the model that it was trained for, and its fine-tunes",
            )
