"""Galleries that several processes and threads change, and ids that could not be saved."""

import contextvars
import multiprocessing
import threading

import numpy as np
import pytest

from sfpose import TemplateGallery

WORKERS, EACH = 4, 5


def _row(seed):
    row = np.random.default_rng(seed).random((1, 256), dtype=np.float32)
    return row / row.sum()


def _enrol_some(path, worker):
    for number in range(EACH):
        with TemplateGallery.changing(path, weights="default") as gallery:
            gallery.add([f"{worker} {number}"], _row(EACH * worker + number), counts=[1 + worker])


@pytest.mark.parametrize("begun", [True, False])
def test_processes_that_change_one_gallery_lose_nobody(tmp_path, begun):
    path = str(tmp_path / "door")
    if begun:
        first = TemplateGallery(weights="default")
        first.add(["first"], _row(99))
        first.save(path)
    spawn = multiprocessing.get_context("spawn")
    with spawn.Pool(WORKERS) as pool:
        pool.starmap(_enrol_some, [(path, worker) for worker in range(WORKERS)])
    gallery = TemplateGallery.load(path, weights="default")
    everybody = [(worker, number) for worker in range(WORKERS) for number in range(EACH)]
    names = {f"{worker} {number}" for worker, number in everybody}
    assert {*gallery} == names | ({"first"} if begun else set())
    assert len(gallery) == len(names) + begun
    stored = dict(zip(gallery, zip(gallery.templates, gallery.counts, strict=True), strict=True))
    for worker, number in everybody:
        template, count = stored[f"{worker} {number}"]
        np.testing.assert_array_equal(template, _row(EACH * worker + number)[0])
        assert count == 1 + worker
    assert [file.name for file in tmp_path.iterdir()] == ["door"]


def test_threads_that_change_one_gallery_lose_nobody(tmp_path):
    path = str(tmp_path / "door")
    threads = [threading.Thread(target=_enrol_some, args=(path, worker)) for worker in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(TemplateGallery.load(path)) == 4 * EACH


def _add_and_raise(path, error):
    with TemplateGallery.changing(path) as gallery:
        gallery.add(["bo"], _row(1))
        gallery.remove(["bo"])
        gallery.add(["cy"], _row(2))
        raise error


@pytest.mark.parametrize("error", [RuntimeError("odd"), FileNotFoundError(2, "gone", "a.jpg")])
@pytest.mark.parametrize("begun", [True, False])
def test_a_block_that_raises_changes_nothing_and_its_error_stays_as_it_is(tmp_path, begun, error):
    path = tmp_path / "door"
    if begun:
        with TemplateGallery.changing(path) as gallery:
            gallery.add(["ann"], _row(0))
    before = {file.name: file.read_bytes() for file in path.iterdir()} if begun else None
    with pytest.raises(type(error)) as caught:
        _add_and_raise(path, error)
    assert caught.value is error
    after = {file.name: file.read_bytes() for file in path.iterdir()} if path.exists() else None
    assert after == before
    assert [file.name for file in tmp_path.iterdir()] == (["door"] if begun else [])


def test_a_block_may_add_replace_and_remove_people_of_a_memory_map(tmp_path):
    path = tmp_path / "door"
    with TemplateGallery.changing(path) as gallery:
        gallery.add(["ann", "bo", 7], np.concatenate([_row(0), _row(1), _row(2)]))
    with TemplateGallery.changing(path) as gallery:
        gallery.remove(["ann"])
        gallery.update(["bo"], _row(3), counts=[2])
        gallery.add(["cy"], _row(4))
    stored = TemplateGallery.load(path)
    assert (list(stored), stored.counts.tolist()) == (["bo", 7, "cy"], [2, 1, 1])
    np.testing.assert_array_equal(stored.templates, np.concatenate([_row(3), _row(2), _row(4)]))


def test_a_gallery_of_other_weights_is_not_changed(tmp_path):
    with TemplateGallery.changing(tmp_path / "door", weights="small") as gallery:
        gallery.add(["ann"], _row(0))
    with (
        pytest.raises(ValueError, match="must be of the network of weights 'default'"),
        TemplateGallery.changing(tmp_path / "door", weights="default"),
    ):
        raise AssertionError("the block began")
    with TemplateGallery.changing(tmp_path / "door") as gallery:
        gallery.add(["bo"], _row(1))
    assert list(TemplateGallery.load(tmp_path / "door", weights="small")) == ["ann", "bo"]


def test_nobody_waits_for_oneself(tmp_path):
    """With the lock of a folder held, to ask for it again would last for ever."""
    (tmp_path / "other").mkdir()
    with TemplateGallery.changing(tmp_path / "door") as gallery:
        gallery.add(["ann"], _row(0))
        for save in (
            lambda: gallery.save(tmp_path / "door", overwrite=True),
            lambda: gallery.save(tmp_path / "copy"),
            lambda: TemplateGallery.changing(tmp_path / "window").__enter__(),
        ):
            with pytest.raises(ValueError, match="must be written one after the other; got"):
                save()
        with TemplateGallery.changing(tmp_path / "other" / "door") as other:
            other.add(["bo"], _row(1))
            with pytest.raises(ValueError, match="must be written one after the other; got"):
                gallery.save(tmp_path / "copy")
    gallery.save(tmp_path / "copy")
    for name, ids in [("door", ["ann"]), ("other/door", ["bo"]), ("copy", ["ann"])]:
        assert list(TemplateGallery.load(tmp_path / name)) == ids


@pytest.mark.parametrize(
    "bad", [None, 1.5, ("a", 1), True, False, np.True_, np.float32(2), b"ann", "", " \t", ()]
)
def test_ids_that_could_not_be_saved_are_refused_at_once(bad):
    gallery = TemplateGallery()
    gallery.add(["ann"], _row(0))
    with pytest.raises(ValueError, match="ids must be str or int, and not blank; got"):
        gallery.add(["bo", bad], np.concatenate([_row(1), _row(2)]))
    assert list(gallery) == ["ann"]


def test_ids_of_arrays_are_saved_as_they_are(tmp_path):
    gallery = TemplateGallery()
    gallery.add(np.array(["ann", "bo"]), np.concatenate([_row(0), _row(1)]))
    gallery.add(np.array([7]), _row(2))
    assert list(TemplateGallery.load(gallery.save(tmp_path / "door"))) == ["ann", "bo", 7]


def test_a_block_may_be_left_in_another_context_than_it_was_entered_in(tmp_path):
    """As web frameworks do, which enter and leave a dependency in different threads."""
    block = TemplateGallery.changing(tmp_path / "door", weights="default")
    here = contextvars.copy_context()
    gallery = here.run(block.__enter__)
    gallery.add(["ann"], _row(0))
    with pytest.raises(ValueError, match="must be written one after the other"):
        here.run(TemplateGallery().save, tmp_path / "other")
    leave = threading.Thread(target=block.__exit__, args=(None, None, None))
    leave.start()
    leave.join()
    assert list(TemplateGallery.load(tmp_path / "door")) == ["ann"]
    here.run(TemplateGallery().save, tmp_path / "other")
    with TemplateGallery.changing(tmp_path / "door") as again:
        again.add(["bo"], _row(1))
    assert list(TemplateGallery.load(tmp_path / "door")) == ["ann", "bo"]
