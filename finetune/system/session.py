"""What a library must leave as it found it in the session that calls it, such as a notebook."""

from __future__ import annotations

import os
import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

HANDLED = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Restore threads, random states, flags, environment, warning filters and signal handlers at the end."""
    import torch

    environment, n_threads = dict(os.environ), torch.get_num_threads()
    benchmark = torch.backends.cudnn.benchmark
    tf32 = torch.backends.cudnn.allow_tf32
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    is_main = threading.current_thread() is threading.main_thread()
    handlers = {number: signal.getsignal(number) for number in HANDLED}
    try:
        with torch.random.fork_rng(range(torch.cuda.device_count())), warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"PIL(\.|$)")  # odd metadata; damaged images still raise
            yield
    finally:
        for number, handler in handlers.items():
            if is_main and handler is not None:  # None: installed by something other than Python
                signal.signal(number, handler)
        torch.set_num_threads(n_threads)
        torch.backends.cudnn.benchmark = benchmark
        torch.backends.cudnn.allow_tf32 = tf32
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
        for name in os.environ.keys() - environment.keys():
            del os.environ[name]
        os.environ.update({name: v for name, v in environment.items() if os.environ.get(name) != v})
