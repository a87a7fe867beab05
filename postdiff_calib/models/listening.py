"""What diffusers and transformers say while they load: their remarks are kept quiet, gaps in weights are refused."""

from __future__ import annotations

import functools
import logging
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars and no remarks of the libraries; what goes wrong still raises.

    diffusers remarks on the embedded autoencoder's class, and warns of an argument that it passes itself.
    """
    from diffusers.utils import logging as diffusers_logging
    from huggingface_hub.utils import logging as hub_logging
    from transformers.utils import logging as transformers_logging

    restore: list[Callable[[], None]] = []
    for speaker in (diffusers_logging, hub_logging):
        restore.append(functools.partial(speaker.set_verbosity, speaker.get_verbosity()))
        speaker.set_verbosity_error()
    for library in (diffusers_logging, transformers_logging):
        if library.is_progress_bar_enabled():
            library.disable_progress_bar()
            restore.append(library.enable_progress_bar)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*local_dir_use_symlinks.*")
            yield
    finally:
        for undo in restore:
            undo()


@contextmanager
def complete() -> Iterator[None]:
    """Refuse weights that lack a tensor: transformers fills such a gap with random numbers and only logs it.

    Raises:
        ValueError: names the first tensor that is missing or of another shape.
    """
    said: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.extend(re.sub(r"\x1b\[[0-9;]*m", "", record.getMessage()).splitlines())

    speaker, listener = logging.getLogger("transformers.modeling_utils"), Listener()
    before = speaker.level, speaker.propagate
    speaker.addHandler(listener)
    speaker.setLevel(logging.INFO)  # from WARNING on it also checks plans for several devices, and complains
    speaker.propagate = False
    try:
        yield
    finally:
        speaker.removeHandler(listener)
        speaker.setLevel(before[0])
        speaker.propagate = before[1]
    gaps = [line.split("|")[0].strip() for line in said if re.search(r"\|\s*(MISSING|MISMATCH)", line)]
    if gaps:
        raise ValueError(f"the weights lack {gaps[0]}")
