"""A language model that runs with token rows from outside: a hypernetwork's, or rows made for one text."""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from tokenlayer.core.errors import BadCheckpoint
from tokenlayer.models.losses import Head, captured_hidden, head_of, model_inputs


class OutsideRows:
    """A model whose input rows, output rows and output bias are given at each call; gradients flow into them.

    Args:
        model: a causal or masked language model; it is only read.
        vocab: its tokens.

    Raises:
        BadCheckpoint: the model has no output head, or its token table is not a plain one.
    """

    def __init__(self, model: Any, vocab: int) -> None:
        self.model = model
        self.head = head_of(model, vocab)
        self._name, self.table = input_table(model)

    def hidden(
        self,
        ids: Int[Tensor, "batch seq"],
        real: Bool[Tensor, "batch seq"],
        rows: Float[Tensor, "vocab dim"],
        **more: Tensor,
    ) -> Float[Tensor, "batch seq dim"]:
        """What the head would be given, for ids that count `rows`.

        Args:
            ids: row numbers.
            real: which positions are no padding.
            rows: input rows; cast to the dtype of the model's own.
            more: further inputs of the model.
        """
        return self._run(rows, model_inputs(self.model, ids, real, **more))[0]

    def cached(
        self,
        ids: Int[Tensor, "batch new"],
        real: Bool[Tensor, "batch seq"],
        rows: Float[Tensor, "vocab dim"],
        past: Any = None,
        **more: Tensor,
    ) -> tuple[Float[Tensor, "batch new dim"], Any]:
        """Like `hidden`, for positions that follow others whose keys and values are kept.

        Args:
            ids: row numbers of the new positions.
            real: which positions are no padding, those of `past` included.
            rows: input rows; cast to the dtype of the model's own.
            past: what an earlier call returned, changed in place; None at the beginning.
            more: further inputs of the model.

        Returns:
            What the head would be given at the new positions, and the cache with them.

        Raises:
            BadCheckpoint: the model keeps no such cache.
        """
        inputs = model_inputs(self.model, ids, real, **more, past_key_values=past, use_cache=True)
        hidden, found = self._run(rows, inputs)
        past = getattr(found, "past_key_values", None)
        if past is None:
            raise BadCheckpoint(f"{type(self.model).__name__} keeps no keys and values of earlier positions")
        return hidden, past

    def _run(self, rows: Tensor, inputs: dict[str, Any]) -> tuple[Tensor, Any]:
        given = {self._name: rows.to(self.table.dtype)}
        with captured_hidden(self.head) as seen:
            found = torch.func.functional_call(self.model, given, kwargs=inputs, tie_weights=False)
        return seen[0], found

    def head_with(self, rows: Float[Tensor, "vocab dim"], bias: Float[Tensor, " vocab"] | None) -> Head:
        """The output head with other rows; the model's own bias takes no part."""
        return Head(HeadRows(rows, bias), self.head.adjust, len(rows))


def input_table(model: Any) -> tuple[str, Tensor]:
    """The name and the rows of a model's token table, to be replaced by `torch.func.functional_call`.

    Raises:
        BadCheckpoint: the table is not a plain one.
    """
    module = model.get_input_embeddings()
    names = [name for name, one in model.named_modules() if one is module]
    if len(names) != 1 or not isinstance(getattr(module, "weight", None), nn.Parameter):
        raise BadCheckpoint(f"{type(model).__name__} has no input table that could be given from outside")
    return f"{names[0]}.weight", module.weight  # the table's own: a tied head may come first among the parameters


class HeadRows(nn.Module):
    """A head's rows and bias, with whatever gradient they have."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.weight, self.bias = weight, bias
