"""A face verification service: enrol people, verify and identify photos over HTTP.

    pip install "sfpose[service,detector]"
    SFPOSE_DATABASE=templates.db uvicorn --app-dir examples/service service:app

Settings, all from the environment:

SFPOSE_DATABASE    path of a SQLite file (default: templates.db) or postgresql://... with pgvector
SFPOSE_BUNDLE      a bundle that sfpose wrote, with weights and threshold (default: what ships)
SFPOSE_TARGET_FMR  false match rate of a decision: 0.1, 0.01, 0.001 (default) or 0.0001, which the
                   weights that ship have thresholds for; a bundle brings its own
SFPOSE_DETECTOR    crop: photos are crops of one face (default); libfacedetection: find it

A photo has at most 25 million pixels: phones take 12 or 24 million unless told to take more. It is
refused by its header. The photos of a request are read one after the other, those of all requests
of a worker as many at a time as there are processors; 25 million pixels take 240 to 620 MB
meanwhile.

It answers with decisions, not with distances or descriptors: a distance would tell an
attacker whether an attempt comes nearer. It has no login and no liveness check: put both before it.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from threading import Semaphore
from typing import Annotated, BinaryIO

import numpy as np
from fastapi import Depends, FastAPI, File, HTTPException, Path, Request, UploadFile
from fastapi.responses import JSONResponse
from numpy.typing import NDArray
from PIL import Image
from pydantic import AfterValidator
from store import Person, Store, open_store

from sfpose import FaceAligner, FaceEmbedder, TemplateVerifier
from sfpose.bundle import VerificationBundle
from sfpose.decision import DescriptorForm, VerificationResult
from sfpose.detectors import LibFaceDetection
from sfpose.preprocessing import decode_image

LARGEST_REQUEST = 20 * 2**20
LARGEST_PHOTO = 25 * 10**6
LONGEST_SIDE = 65_535  # what JPEG can hold; a PNG may be a line, which costs more than a picture
MOST_PHOTOS = 10
READ_AT_ONCE = os.cpu_count() or 1


def in_one_form(name: str) -> str:
    """A name in the form of Unicode that keyboards write, whichever a client sends."""
    return unicodedata.normalize("NFC", name)


# No dot first: clients take "." and ".." for folders of the address.
PersonId = Annotated[
    str,
    Path(min_length=1, max_length=100, pattern=r"^[\w-][\w.-]*$"),
    AfterValidator(in_one_form),
]


def the_only(photo: Annotated[list[UploadFile], File()]) -> UploadFile:
    """The photo of a request, or 422 if there are several: the last would be taken otherwise."""
    if len(photo) != 1:
        raise HTTPException(422, f"exactly one photo; got {len(photo)}")
    return photo[0]


OnePhoto = Annotated[UploadFile, Depends(the_only)]


def check_crops(embedder: FaceEmbedder, detector: str) -> bool:
    """Refuse to cut photos otherwise than those that the thresholds were calibrated with.

    Whether faces are aligned: as they are in a photo, templates are not comparable with those.
    """
    align = embedder.align
    if align == "auto":
        align = embedder.artifact.manifest.get("alignment") == "five-landmarks"
    if align == "done" and detector == "crop":
        raise ValueError(
            "SFPOSE_BUNDLE takes faces that are aligned already, which photos are not: "
            "SFPOSE_DETECTOR must be libfacedetection; got crop"
        )
    if align is False and detector != "crop":
        raise ValueError(
            "SFPOSE_BUNDLE takes loose crops, and a detector's faces are aligned: "
            f"SFPOSE_DETECTOR must be crop; got {detector}"
        )
    return align is not False


def photos_decided_about(embedder: FaceEmbedder, verifier: TemplateVerifier) -> int:
    """Of how many photos a person can be enrolled, at most ``MOST_PHOTOS``.

    One, where the verifier has thresholds of single photos alone.
    Raises ValueError, the verifier's own, if it has no threshold even for one photo a side.
    """
    form = DescriptorForm.of_artifact(embedder.artifact, "what the service embeds with")
    row = np.ones(form.size) / (form.size if form.normalization == "l1" else 1)
    verifier.verify(row, row)
    if "size" not in (verifier.groups or ()):
        return 1
    for most in range(MOST_PHOTOS, 1, -1):
        with suppress(ValueError):
            verifier.verify(row, row, template_images=most)
            return most
    return 1


def check_pixels(file: BinaryIO) -> None:
    """Refuse a photo by its header, before its pixels take memory."""
    rule = f"a photo must have at most {LARGEST_PHOTO} pixels, {LONGEST_SIDE} on a side"
    try:
        with Image.open(file, formats=("JPEG", "PNG", "WEBP")) as image:
            width, height = image.size
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(f"{rule}; {error}") from error
    except Exception:  # decode_image says what is wrong
        return
    if width * height > LARGEST_PHOTO or max(width, height) > LONGEST_SIDE:
        raise ValueError(f"{rule}; got {width} x {height}")


def create_app(
    database: str,
    *,
    bundle: str | None = None,
    target_fmr: float = 1e-3,
    detector: str = "crop",
) -> FastAPI:
    """The service over one database.

    Raises ValueError if ``detector`` is none of the two or not for the bundle's crops, or there is
    no threshold to decide by.
    """
    if bundle is not None:
        loaded = VerificationBundle.load(bundle)
        embedder, verifier = loaded.embedder, loaded.verifier
    else:
        embedder, verifier = FaceEmbedder(), TemplateVerifier(target_fmr=target_fmr)
    aligned = check_crops(embedder, detector)
    if detector == "libfacedetection":
        aligner = FaceAligner(LibFaceDetection())
        embedder.set_params(align="done")
    elif detector == "crop":
        aligner = None
    else:
        raise ValueError(f"SFPOSE_DETECTOR must be crop or libfacedetection; got {detector!r}")
    most_photos = photos_decided_about(embedder, verifier)
    weights = embedder.artifact.digest + ("" if aligned else " not aligned")
    # Each has a picture in memory; more than processors would not be sooner done.
    turns = Semaphore(READ_AT_ONCE)
    store: Store = open_store(database, embedder.n_features_out)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        store.close()

    app = FastAPI(title="Face verification", lifespan=lifespan)

    @app.middleware("http")
    async def limit_uploads(request: Request, call_next):
        length = request.headers.get("content-length", "")
        # A request that states a length too is read to the end of its chunks all the same.
        chunked = "transfer-encoding" in request.headers
        if chunked or (request.method == "POST" and not length.isdigit()):
            came = "chunks" if chunked else "none"
            return JSONResponse({"detail": f"a request must state its length; got {came}"}, 411)
        if length.isdigit() and int(length) > LARGEST_REQUEST:
            return JSONResponse({"detail": f"at most {LARGEST_REQUEST} bytes"}, 413)
        return await call_next(request)

    def descriptor(photo: UploadFile, number: int = 0) -> NDArray[np.float32]:
        """One row, or 422 if the photo is refused or shows no face."""
        try:
            with turns:
                check_pixels(photo.file)
                images = [decode_image(photo.file, "the file")]
                row = embedder.transform(images if aligner is None else aligner.transform(images))
        except ValueError as error:
            # The library counts the images of one call, which is one of the photos here.
            said = str(error).removeprefix("image 0: ").partition(": choose another policy")[0]
            raise HTTPException(422, f"photo {number}: {said}") from error
        if np.isnan(row).any():
            raise HTTPException(422, f"photo {number} must show a face; nothing was found")
        return row[0]

    def decide(enrolled: Person, probe: NDArray[np.float32]) -> VerificationResult:
        """The verifier's answer, or 409 if it has no threshold for so many photos."""
        if enrolled.photos > most_photos:  # enrolled before the service got another bundle
            raise HTTPException(
                409,
                f"there are thresholds for people of at most {most_photos} photos; this one is "
                f"enrolled of {enrolled.photos}: delete and enrol again",
            )
        return verifier.verify(enrolled.template, probe, template_images=enrolled.photos)

    def nearest_accepted(
        people: list[tuple[str, Person]], probe: NDArray[np.float32]
    ) -> str | None:
        """Who is nearest of those whom the verifier takes the probe for.

        A template of more photos has a stricter threshold, and one of more than ``most_photos``
        has none: the nearest of all may be refused, and somebody farther be right.
        """
        accepted: dict[str, float] = {}
        for photos in sorted({person.photos for _, person in people}):
            if photos > most_photos:
                continue
            group = [(name, person) for name, person in people if person.photos == photos]
            templates = np.stack([person.template for _, person in group])
            probes = np.broadcast_to(probe, templates.shape)
            matches = verifier.predict(templates, probes, template_images=photos)
            distances = verifier.score_pairs(templates, probes)
            accepted |= {group[row][0]: distances[row] for row in np.flatnonzero(matches)}
        return min(accepted, key=accepted.__getitem__, default=None)

    # Plain functions: FastAPI runs them in threads, and embedding releases the GIL.

    @app.post("/people/{person}", status_code=201)
    def enrol(person: PersonId, photos: Annotated[list[UploadFile], File()]) -> dict[str, object]:
        if len(photos) > most_photos:
            raise HTTPException(422, f"at most {most_photos} photos; got {len(photos)}")
        rows = [descriptor(photo, number) for number, photo in enumerate(photos)]
        enrolled = Person(np.mean(rows, axis=0), len(photos))
        if not store.add(person, enrolled, weights):
            raise HTTPException(409, "this person is enrolled; delete first")
        return {"person": person, "photos": len(photos)}

    @app.delete("/people/{person}", status_code=204)
    def delete(person: PersonId) -> None:
        if not store.remove(person):
            raise HTTPException(404, "nobody is enrolled under this id")

    @app.post("/people/{person}/verify")
    def verify(person: PersonId, photo: OnePhoto) -> dict[str, object]:
        probe = descriptor(photo)
        enrolled = store.get(person, weights)
        if enrolled is None:
            raise HTTPException(404, "nobody is enrolled under this id with these weights")
        result = decide(enrolled, probe)
        return {"match": result.match, "target_fmr": result.target_fmr}

    @app.post("/identify")
    def identify(photo: OnePhoto) -> dict[str, object]:
        probe = descriptor(photo)
        return {"person": nearest_accepted(store.candidates(probe, weights), probe)}

    # Not in a thread: all of these may be waiting for their turn to read a photo.
    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"weights": weights[:16]}

    return app


def __getattr__(name: str) -> FastAPI:
    """``service:app`` for uvicorn, made of the environment when it is asked for."""
    if name != "app":
        raise AttributeError(name)
    rate = os.environ.get("SFPOSE_TARGET_FMR", "0.001")
    try:
        target_fmr = float(rate)
    except ValueError:
        raise ValueError(f"SFPOSE_TARGET_FMR must be a number; got {rate!r}") from None
    return create_app(
        os.environ.get("SFPOSE_DATABASE", "templates.db"),
        bundle=os.environ.get("SFPOSE_BUNDLE"),
        target_fmr=target_fmr,
        detector=os.environ.get("SFPOSE_DETECTOR", "crop"),
    )
