"""Give a trained language model another tokenizer, and say in bits per byte what that cost."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenlayer.app.api import compare, doctor, expand, hypernet, learn, load_report, port, swap, terms

    __version__: str

__all__ = ["__version__", "compare", "doctor", "expand", "hypernet", "learn", "load_report", "port", "swap", "terms"]


def __getattr__(name: str) -> Any:
    """Imports the Python entries on first use: importing the package stays fast."""
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("tokenlayer")
        except PackageNotFoundError:
            return "0+not.installed"
    if name in __all__:
        from tokenlayer.app import api

        return getattr(api, name)
    raise AttributeError(f"module 'tokenlayer' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
