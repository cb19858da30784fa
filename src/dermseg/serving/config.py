"""Every setting of the service, validated."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, ValidationError
from pydantic_core import PydanticCustomError

from dermseg.errors import InputError

_Positive = Annotated[float, Field(gt=0)]


def _fit(token: SecretStr) -> SecretStr:
    """A token without the blanks and line ends around it, which a header cannot have."""
    text = token.get_secret_value().strip()
    if not text or not (text.isascii() and text.isprintable()):
        raise PydanticCustomError("token", "the token is empty or not of printable ASCII; give letters and digits")
    return SecretStr(text)


class ServiceConfig(BaseModel):
    """What the service serves, and within which limits. Sizes in MiB of 2**20 bytes, times in seconds.

    Attributes:
        bundles: Names of shipped bundles, folders or zips; the first answers where a request names none. Only these
            are ever served: a request chooses among their names.
        token: What a request must bring as ``Authorization: Bearer TOKEN``, printable ASCII; None lets everybody in.
        origins: Web pages' origins that may call the service from a browser (CORS), such as ``https://example.org``.
        max_upload: The largest body of a request with one image.
        max_batch_upload: The largest body of a request with many.
        max_pending: Of all bodies that are held at a time; beyond it requests are refused for the moment.
        max_files: The most images in one request.
        max_megapixels: The largest image that is opened.
        upload_timeout: The longest time a body may take to arrive.
        deadline: The longest time from a body's arrival to its answer; of a request with many images, from the time
            that each has its turn.
        queue: The most images that are being worked on or wait; beyond it requests are refused for the moment.
        batch: The most images the network is given at a time; 1 is one at a time.
        batch_delay: The longest time an image waits for others to share a batch with.
        threads: Cores that images may take, so many being decoded or encoded at a time and so many batches in the
            network; the number of cores if None.
        drain: The longest time to finish what was accepted, when the service stops.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    bundles: Annotated[tuple[str, ...], Field(min_length=1)] = ("lesion",)
    token: Annotated[SecretStr, AfterValidator(_fit)] | None = None
    origins: tuple[str, ...] = ()
    max_upload: _Positive = 32
    max_batch_upload: _Positive = 256
    max_pending: _Positive = 512
    max_files: Annotated[int, Field(ge=1)] = 256
    max_megapixels: _Positive = 50
    upload_timeout: _Positive = 30
    deadline: _Positive = 30
    queue: Annotated[int, Field(ge=1)] = 64
    batch: Annotated[int, Field(ge=1, le=64)] = 4
    batch_delay: Annotated[float, Field(ge=0, le=1)] = 0.002
    threads: Annotated[int, Field(ge=1)] | None = None
    drain: _Positive = 30


def settings(**values: Any) -> ServiceConfig:
    """A configuration of ``values``.

    Raises:
        InputError: If one is out of range; says which, as the command's option names it, and never shows a token.
    """
    try:
        return ServiceConfig(**values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        if first["type"] == "token":
            raise InputError(first["msg"]) from None
        name = "--" + str(first["loc"][0]).replace("_", "-")
        raise InputError(f"{name} is {first['input']}: {first['msg'][:1].lower()}{first['msg'][1:]}") from error
