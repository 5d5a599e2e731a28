"""Asks a model class of transformers for the names of its token tables, without memory and without weights."""

import copy
import logging
import textwrap
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from tokenlayer.models.config_parts import architecture_of, set_vocab_size


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
    try:
        names = _ask(_build(model_class, config), architecture)
        return replace(names, others=_others(names, model_class, config))
    except Exception as error:  # a class may refuse a config in any way it likes
        why = textwrap.shorten(f"{type(error).__name__}: {error}", 200)
        return f"{architecture} cannot be built from this config ({why})"


def class_name(config: Mapping[str, Any]) -> str:
    """Returns the architecture of a config; without one, the class of a model type that is only used as a decoder."""
    from transformers.models.auto import modeling_auto

    model_type = config.get("model_type")
    if architecture_of(config) or model_type in modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES:
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


def _ask(model: Any, architecture: str) -> ModelNames:
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


def _others(names: ModelNames, model_class: Any, config: Mapping[str, Any]) -> tuple[str, ...]:
    """What does not grow as token tables do when the model is built with eight rows more.

    Tables must gain eight rows, and nothing else may change. Buffers that are stored count too: DeepSeek-V4 has
    one that sends token ids to experts.
    """
    rows = names.shape[0]
    larger = copy.deepcopy(dict(config))
    set_vocab_size(larger, rows, rows + 8)
    shapes, larger_shapes = (_shapes(_build(model_class, one)) for one in (config, larger))
    tables = {*names.inputs, *names.outputs, *names.biases}
    return tuple(
        name
        for name, shape in shapes.items()
        if larger_shapes.get(name) != ((rows + 8, *shape[1:]) if name in tables else shape)
    )


def _shapes(model: Any) -> dict[str, tuple[int, ...]]:
    return {name: tuple(one.shape) for name, one in model.state_dict().items()}
