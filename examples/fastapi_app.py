"""A web service: one route that answers whole, one that streams (Server-Sent Events).

    pip install fastapi uvicorn
    python examples/fastapi_app.py                  # PORT: 8000
    curl -N localhost:8000/stream -H 'content-type: application/json' -d '{"prompt": "Hi"}'

Asks the gateway at PENSTOCK_TARGET (default: 127.0.0.1:50051, where `make serve` listens) for
PENSTOCK_MODEL (default: local/tiny). Who hangs up cancels the call: the model stops computing.
"""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import penstock
import uvicorn
from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """One model for the whole service, made once."""
    async with penstock.create_llm(os.environ.get("PENSTOCK_MODEL", "local/tiny")) as llm:
        app.state.llm = llm
        yield


def model(request: Request) -> penstock.LLM:
    """The service's model."""
    llm: penstock.LLM = request.app.state.llm
    return llm


class Question(BaseModel):
    """What is asked."""

    prompt: str
    max_output_tokens: int = 200


app = FastAPI(lifespan=lifespan)
LLM = Annotated[penstock.LLM, Depends(model)]


@app.exception_handler(penstock.PenstockError)
async def failed(request: Request, error: penstock.PenstockError) -> JSONResponse:
    """A failed call, as a status of HTTP."""
    status = 429 if isinstance(error, penstock.RateLimitError) else 502
    return JSONResponse({"error": error.message, "reason": error.reason}, status)


@app.post("/generate")
async def generate(question: Question, request: Request, llm: LLM) -> dict[str, Any]:
    """The whole answer."""
    call = asyncio.create_task(llm.agenerate(**question.model_dump()))
    gone = asyncio.ensure_future(request.receive())  # the body is read: hanging up is what is left
    try:
        await asyncio.wait({call, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not call.done():
            raise HTTPException(499, "the client has hung up")
        response = call.result()
    finally:
        call.cancel()
        gone.cancel()
    return {"content": response.content, "usage": response.usage}


@app.post("/stream")
async def stream(question: Question, llm: LLM) -> StreamingResponse:
    """The answer as it is written, an event for each piece."""
    chunks = await llm.agenerate(**question.model_dump(), stream=True)

    async def events() -> AsyncIterator[str]:
        async with chunks:  # left when the client hangs up, which ends the call
            try:
                async for chunk in chunks:
                    yield f"data: {json.dumps({'content': chunk.content})}\n\n"
            except penstock.PenstockError as error:
                yield f"event: error\ndata: {json.dumps({'error': error.message})}\n\n"
            else:
                yield "data: [DONE]\n\n"

    return StreamingResponse(events(), media_type="text/event-stream")


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(os.environ.get("PORT", "8000")))
