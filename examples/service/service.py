"""A face verification service: enrol people, verify and identify photos over HTTP.

    pip install "sfpose[service,detector]"
    SFPOSE_DATABASE=templates.db uvicorn --app-dir examples/service service:app

Settings, all from the environment:

SFPOSE_DATABASE    path of a SQLite file (default: templates.db) or postgresql://... with pgvector
SFPOSE_BUNDLE      a bundle that sfpose wrote, with weights and threshold (default: what ships)
SFPOSE_TARGET_FMR  false match rate of a decision (default: 0.001; a bundle brings its own)
SFPOSE_DETECTOR    crop: photos are crops of one face (default); libfacedetection: find it

It answers with decisions, not with distances or descriptors: a distance would tell an
attacker whether an attempt comes nearer. It has no login and no liveness check: put both before it.
"""

from __future__ import annotations

import io
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

import numpy as np
from fastapi import FastAPI, File, HTTPException, Path, Request, UploadFile
from fastapi.responses import JSONResponse
from numpy.typing import NDArray
from store import Person, Store, open_store

from sfpose import FaceAligner, FaceEmbedder, TemplateVerifier
from sfpose.bundle import VerificationBundle
from sfpose.detectors import LibFaceDetection
from sfpose.preprocessing import decode_image

LARGEST_REQUEST = 20 * 2**20
MOST_PHOTOS = 10

PersonId = Annotated[str, Path(min_length=1, max_length=100, pattern=r"^[\w.-]+$")]


def create_app(
    database: str,
    *,
    bundle: str | None = None,
    target_fmr: float = 1e-3,
    detector: str = "crop",
) -> FastAPI:
    """The service over one database."""
    if bundle is not None:
        loaded = VerificationBundle.load(bundle)
        embedder, verifier = loaded.embedder, loaded.verifier
    else:
        embedder, verifier = FaceEmbedder(), TemplateVerifier(target_fmr=target_fmr)
    if detector == "libfacedetection":
        aligner = FaceAligner(LibFaceDetection())
        embedder.set_params(align="done")
    elif detector == "crop":
        aligner = None
    else:
        raise ValueError(f"SFPOSE_DETECTOR must be crop or libfacedetection; got {detector!r}")
    weights = embedder.artifact.digest
    store: Store = open_store(database, embedder.n_features_out)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        store.close()

    app = FastAPI(title="Face verification", lifespan=lifespan)

    @app.middleware("http")
    async def limit_uploads(request: Request, call_next):
        length = request.headers.get("content-length")
        if request.method == "POST" and (length is None or not length.isdigit()):
            return JSONResponse({"detail": "a request must state its length"}, 411)
        if length is not None and int(length) > LARGEST_REQUEST:
            return JSONResponse({"detail": f"at most {LARGEST_REQUEST} bytes"}, 413)
        return await call_next(request)

    def descriptors(photos: list[UploadFile]) -> NDArray[np.float32]:
        """One row a photo, or 422 if a photo is refused or shows no face."""
        try:
            images = [
                decode_image(io.BytesIO(photo.file.read()), f"photo {number}")
                for number, photo in enumerate(photos)
            ]
            rows = embedder.transform(images if aligner is None else aligner.transform(images))
        except ValueError as error:
            raise HTTPException(422, str(error)) from error
        if np.isnan(rows).any():
            raise HTTPException(422, "every photo must show a face; one does not")
        return rows

    # Plain functions: FastAPI runs them in threads, and embedding releases the GIL.

    @app.post("/people/{person}", status_code=201)
    def enrol(person: PersonId, photos: Annotated[list[UploadFile], File()]) -> dict[str, object]:
        if len(photos) > MOST_PHOTOS:
            raise HTTPException(422, f"at most {MOST_PHOTOS} photos; got {len(photos)}")
        enrolled = Person(descriptors(photos).mean(axis=0), len(photos))
        if not store.add(person, enrolled, weights):
            raise HTTPException(409, "this person is enrolled; delete first")
        return {"person": person, "photos": len(photos)}

    @app.delete("/people/{person}", status_code=204)
    def delete(person: PersonId) -> None:
        if not store.remove(person):
            raise HTTPException(404, "nobody is enrolled under this id")

    @app.post("/people/{person}/verify")
    def verify(person: PersonId, photo: Annotated[UploadFile, File()]) -> dict[str, object]:
        probe = descriptors([photo])[0]
        enrolled = store.get(person, weights)
        if enrolled is None:
            raise HTTPException(404, "nobody is enrolled under this id with these weights")
        result = verifier.verify(enrolled.template, probe, template_images=enrolled.photos)
        return {"match": result.match, "target_fmr": result.target_fmr}

    @app.post("/identify")
    def identify(photo: Annotated[UploadFile, File()]) -> dict[str, object]:
        probe = descriptors([photo])[0]
        found = store.nearest(probe, weights)
        if found is None:
            return {"person": None}
        enrolled = store.get(found[0], weights)
        if enrolled is None:  # deleted between the two questions
            return {"person": None}
        result = verifier.verify(enrolled.template, probe, template_images=enrolled.photos)
        return {"person": found[0] if result.match else None}

    @app.get("/health")
    def health() -> dict[str, str]:
        return {"weights": weights[:16]}

    return app


def __getattr__(name: str) -> FastAPI:
    """``service:app`` for uvicorn, made of the environment when it is asked for."""
    if name != "app":
        raise AttributeError(name)
    return create_app(
        os.environ.get("SFPOSE_DATABASE", "templates.db"),
        bundle=os.environ.get("SFPOSE_BUNDLE"),
        target_fmr=float(os.environ.get("SFPOSE_TARGET_FMR", "0.001")),
        detector=os.environ.get("SFPOSE_DETECTOR", "crop"),
    )
