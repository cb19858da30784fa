"""The addresses of earlier services, for clients that were written for them."""

from __future__ import annotations

from functools import partial

from fastapi import APIRouter, Request, Response

from dermseg.serving import answers
from dermseg.serving.inference import Inference, Options
from dermseg.serving.uploads import form_schema, read_form

router = APIRouter(tags=["earlier services"])


@router.get("/health")
async def health() -> dict[str, str]:
    """Say that the service is up."""
    return {"status": "healthy"}


@router.post("/predict", response_class=Response, openapi_extra=form_schema({"file": "The photograph."}))
@router.post("/predict/", response_class=Response, include_in_schema=False)
async def predict(request: Request) -> Response:
    """Answer with the mask, as ``/segment`` does."""
    return await _picture(request, "file", "mask")


@router.post("/segmentation", response_class=Response, openapi_extra=form_schema({"image": "The photograph."}))
async def segmentation(request: Request) -> Response:
    """Answer with the probability as a grey picture of the photograph's own size."""
    return await _picture(request, "image", "probability")


async def _picture(request: Request, field: str, output: answers.Rendering) -> Response:
    inference: Inference = request.app.state.inference
    upload = (await read_form(request, files={field: 1}))[field][0]
    answer = await inference.segment(upload.content, Options(), partial(answers.encode, output=output))
    return Response(answer.value, media_type=answers.media_type(output), headers=answers.headers(answer))
