"""Reads texts on the command line (`dmeta.quoting`) in the same way for all verbs."""

from __future__ import annotations

from dmeta.quoting import is_null, unquoted


def text_of(value: str, key: str) -> str | None:
    """The text that ``key=value`` says; None: null.

    Raises:
        ValueError: an interpolation in it has no value.
    """
    if is_null(value):
        return None
    within = unquoted(value)
    text = value if within is None else within
    if "${" not in text:
        return text
    from omegaconf import OmegaConf  # `dmeta status` answers sooner without
    from omegaconf.errors import OmegaConfBaseException

    try:
        return str(OmegaConf.to_container(OmegaConf.create([text]), resolve=True)[0])  # type: ignore[index]
    except OmegaConfBaseException as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"{key} must be a text whose ${{...}} have a value here, got {value} ({reason}); write "
            "the value itself"
        ) from None
