"""Asks a model class of transformers for the names of its token tables, without memory and without weights."""

import copy
import logging
import textwrap
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from tokenlayer.models.config_parts import architecture_of, set_vocab_size, text_part

LAYER_KEYS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
"""What configs call the number of layers; lists of that length in a config have one entry per layer."""

LAYERS_ENOUGH = 2
"""Token tables do not depend on the number of layers; two let mixed stacks show both kinds."""


@dataclass(frozen=True)
class ModelNames:
    """Parameter names of a model class.

    Attributes:
        inputs: names of the input embedding (several if sub-models share it).
        outputs: names of the head's weight; empty for a model without a head.
        biases: names of the parameters of the head that have one number per token.
        tied: whether the class, with this config, makes the head and the input embedding one parameter.
        shape: rows and width of the input embedding that the config asks for.
        prefix: the name that checkpoints of the bare model leave out, such as `"model"`.
        kind: `"decoder"`, `"masked"` or `"encoder"`.
        encoder_decoder: whether the model reads one text and writes another.
        others: parameters and stored buffers that depend on the number of rows in ways that are not known here.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    biases: tuple[str, ...]
    tied: bool
    shape: tuple[int, int]
    prefix: str
    kind: str
    encoder_decoder: bool = False
    others: tuple[str, ...] = ()


def names_by_class(config: Mapping[str, Any]) -> ModelNames | str:
    """Builds the class that a config names on the `meta` device and asks it.

    Only classes that ship with transformers are built; code from a checkpoint folder is never run.

    Returns:
        The names, or one sentence that says why the class could not be asked.
    """
    architecture = class_name(config)
    if not architecture:
        return "config.json names no architecture"
    import transformers

    model_class = getattr(transformers, architecture, None)
    if not (isinstance(model_class, type) and issubclass(model_class, transformers.PreTrainedModel)):
        return f"transformers {transformers.__version__} has no class {architecture}"
    why = ""
    for one in (shallow(config), config):
        try:
            return _ask(model_class, one, architecture)
        except Exception as error:  # a class may refuse a config in any way it likes
            why = textwrap.shorten(f"{type(error).__name__}: {error}", 200)
    return f"{architecture} cannot be built from this config ({why})"


def shallow(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the config of the same model with two layers, so that asking a class does not grow with the body."""
    new = copy.deepcopy(dict(config))
    for part in (new, text_part(new)):
        counts = {part[key] for key in LAYER_KEYS if type(part.get(key)) is int and part[key] > LAYERS_ENOUGH}
        part.update({key: LAYERS_ENOUGH for key in LAYER_KEYS if part.get(key) in counts})
        for key, value in part.items():
            if isinstance(value, list) and len(value) in counts:
                part[key] = value[:LAYERS_ENOUGH]
    return new


def class_name(config: Mapping[str, Any]) -> str:
    """Returns the architecture of a config; without one, the class of a model type that is only used as a decoder."""
    from transformers.models.auto import modeling_auto

    model_type = config.get("model_type")
    if (
        architecture_of(config)
        or not isinstance(model_type, str)
        or model_type in modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    ):
        return architecture_of(config)
    return str(modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(model_type, ""))


def kind_of(architecture: str, has_head: bool) -> str:
    """Says what a model is for: `"decoder"`, `"masked"` or `"encoder"`."""
    if not has_head:
        return "encoder"
    return "masked" if architecture.endswith(("ForMaskedLM", "ForPreTraining")) else "decoder"


def _build(model_class: Any, config: Mapping[str, Any]) -> Any:
    """The model with empty weights. Attention kernels that are not installed here do not matter for names."""
    import torch

    plain = {key: value for key, value in config.items() if "attn_implementation" not in key}
    logger = logging.getLogger("transformers")
    level = logger.level
    try:
        logger.setLevel(logging.ERROR)
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = model_class(model_class.config_class.from_dict(plain, attn_implementation="eager"))
            model.tie_weights()
    finally:
        logger.setLevel(level)
    return model


def _ask(model_class: Any, config: Mapping[str, Any], architecture: str) -> ModelNames:
    """Builds the model twice: as the config says for the names, and with more rows for what depends on them."""
    model = _build(model_class, config)
    names = _table_names(model, architecture)
    larger = copy.deepcopy(dict(config))
    set_vocab_size(larger, names.shape[0], names.shape[0] + 8)
    return replace(names, others=_others(names, _shapes(model), _shapes(_build(model_class, larger))))


def _table_names(model: Any, architecture: str) -> ModelNames:
    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings()
    modules = dict(model.named_modules(remove_duplicate=False))
    parameters = dict(model.named_parameters(remove_duplicate=False))
    places = [name for name, module in modules.items() if head is not None and module is head]
    outputs = tuple(f"{place}.weight" for place in places)
    return ModelNames(
        inputs=tuple(name for name, one in parameters.items() if one is embedding and name not in outputs),
        outputs=outputs,
        biases=_bias_names(places, parameters, embedding.shape[0]),
        tied=head is not None and head.weight is embedding,
        shape=(embedding.shape[0], embedding.shape[1]),
        prefix=model.base_model_prefix,
        kind=kind_of(architecture, head is not None),
        encoder_decoder=bool(model.config.is_encoder_decoder),
    )


def _bias_names(places: list[str], parameters: Mapping[str, Any], rows: int) -> tuple[str, ...]:
    """The bias of the head itself, and one that BERT-like heads keep a level above it."""
    names: list[str] = []
    for place in places:
        above = place.rpartition(".")[0]
        names += [f"{place}.bias", *([f"{above}.bias"] if above else [])]
    return tuple(name for name in names if name in parameters and tuple(parameters[name].shape) == (rows,))


def _others(
    names: ModelNames, shapes: Mapping[str, tuple[int, ...]], larger: Mapping[str, tuple[int, ...]]
) -> tuple[str, ...]:
    """What does not grow as token tables do when the model gets eight rows more.

    Tables must gain eight rows, and nothing else may change. Buffers that are stored count too: DeepSeek-V4 has
    one that sends token ids to experts.
    """
    rows, tables = names.shape[0], {*names.inputs, *names.outputs, *names.biases}
    wanted = {name: (rows + 8, *shape[1:]) if name in tables else shape for name, shape in shapes.items()}
    return tuple(name for name, shape in wanted.items() if larger.get(name) != shape)


def _shapes(model: Any) -> dict[str, tuple[int, ...]]:
    return {name: tuple(one.shape) for name, one in model.state_dict().items()}
