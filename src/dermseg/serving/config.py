"""Every setting of the service, validated."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError

from dermseg.errors import InputError

_Positive = Annotated[float, Field(gt=0)]


class ServiceConfig(BaseModel):
    """What the service serves, and within which limits. Sizes in MiB of 2**20 bytes, times in seconds.

    Attributes:
        bundles: Names of shipped bundles, folders or zips; the first answers where a request names none. Only these
            are ever served: a request chooses among their names.
        token: What a request must bring as ``Authorization: Bearer TOKEN``; None lets everybody in.
        origins: Web pages' origins that may call the service from a browser (CORS), such as ``https://example.org``.
        max_upload: The largest body of a request with one image.
        max_batch_upload: The largest body of a request with many.
        max_pending: Of all bodies that are held at a time; beyond it requests are refused for the moment.
        max_files: The most images in one request.
        max_megapixels: The largest image that is opened.
        upload_timeout: The longest time a body may take to arrive.
        deadline: The longest time from a body's arrival to its answer.
        queue: The most images that are being worked on or wait; beyond it requests are refused for the moment.
        batch: The most images the network is given at a time; 1 is one at a time.
        batch_delay: The longest time an image waits for others to share a batch with.
        threads: Images in work at a time outside the network; the number of cores if None.
        drain: The longest time to finish what was accepted, when the service stops.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    bundles: Annotated[tuple[str, ...], Field(min_length=1)] = ("lesion",)
    token: SecretStr | None = None
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
        InputError: If one is out of range; says which, as the command's option names it.
    """
    try:
        return ServiceConfig(**values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = "--" + str(first["loc"][0]).replace("_", "-")
        raise InputError(f"{name} is {first['input']}: {first['msg'][:1].lower()}{first['msg'][1:]}") from error
