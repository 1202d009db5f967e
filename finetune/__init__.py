"""Train ResNet-18 from random and from pretrained weights on the same images, and record the evidence.

    import finetune as ft

    run = ft.train("photos", epochs=5)
    print(run.verdict)
    run.predict(["new-photo.jpg"])

`finetune.api` describes what is here. PyTorch is imported when it is first needed, not by `import finetune`.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from finetune.api import Run as Run
    from finetune.api import load_run as load_run
    from finetune.api import train as train

__version__ = "0.1.0"
__all__ = ["Run", "load_run", "train"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(importlib.import_module("finetune.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
