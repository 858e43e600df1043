"""Where templates are kept: SQLite, or PostgreSQL with pgvector.

For a search SQLite gives everybody. PostgreSQL's index proposes candidates by Euclidean distance
of square roots, which brackets chi-square (h <= chi2 <= 2 h). The verifier decides by chi-square.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

CANDIDATES = 50
"""Templates that PostgreSQL proposes for a search."""

MOST_INDEXED = 2_000
"""Values of a template that pgvector's index can take."""

OLDEST_PGVECTOR = (0, 8)
"""Older ones stop where the index proposes templates of other weights or deleted ones alone."""

PATIENCE = 30
"""Seconds to wait for a SQLite file that another worker has locked."""


class Person(NamedTuple):
    """A template, and of how many photos it is the mean."""

    template: NDArray[np.float32]
    photos: int


class Store(Protocol):
    """What the service needs of a database.

    Everybody is kept with the digest of the weights that made the template and how they were
    given faces, since others cannot be compared.
    """

    def add(self, person: str, enrolled: Person, weights: str) -> bool:
        """Whether the person was new and is kept now."""

    def get(self, person: str, weights: str) -> Person | None:
        """Who is enrolled under an id, or None."""

    def remove(self, person: str) -> bool:
        """Whether the person was there."""

    def candidates(self, probe: NDArray[np.float32], weights: str) -> list[tuple[str, Person]]:
        """Whom the probe may show, under their ids: the nearest are among them."""

    def close(self) -> None:
        """Give connections back."""


def open_store(database: str, width: int) -> Store:
    """The store that a setting names: ``postgresql://...``, or the path of a SQLite file.

    ``width`` is the number of values of a template, which a column of vectors is declared with.
    """
    if database in ("", ":memory:"):
        # SQLite would make a new one, of nobody, for every connection.
        raise ValueError(f"SFPOSE_DATABASE must name a file that stays; got {database!r}")
    if database.startswith(("postgresql://", "postgres://")):
        return PostgresStore(database, width)
    return SqliteStore(database)


class SqliteStore:
    """Templates in one file; a search compares them all, which is fine for thousands."""

    def __init__(self, path: str) -> None:
        self._path = path
        with self._connection() as connection:
            _write_ahead(connection)
            connection.execute(
                "CREATE TABLE IF NOT EXISTS people "
                "(person TEXT PRIMARY KEY, weights TEXT NOT NULL, photos INTEGER NOT NULL, "
                "template BLOB NOT NULL)"
            )

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        # One a call: sqlite3 connections must not cross threads.
        connection = sqlite3.connect(self._path, timeout=PATIENCE)
        # Or SQLite may leave in the file what is deleted.
        connection.execute("PRAGMA secure_delete = ON")
        try:
            with connection:
                yield connection
        finally:
            connection.close()

    def add(self, person: str, enrolled: Person, weights: str) -> bool:
        with self._connection() as connection:
            done = connection.execute(
                "INSERT INTO people VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
                (person, weights, enrolled.photos, _bytes(enrolled)),
            )
            return done.rowcount == 1

    def get(self, person: str, weights: str) -> Person | None:
        with self._connection() as connection:
            row = connection.execute(
                "SELECT template, photos FROM people WHERE person = ? AND weights = ?",
                (person, weights),
            ).fetchone()
        return None if row is None else _person(*row)

    def remove(self, person: str) -> bool:
        with self._connection() as connection:
            done = connection.execute("DELETE FROM people WHERE person = ?", (person,))
            return done.rowcount == 1

    def candidates(self, probe: NDArray[np.float32], weights: str) -> list[tuple[str, Person]]:
        with self._connection() as connection:
            rows = connection.execute(
                "SELECT person, template, photos FROM people WHERE weights = ? ORDER BY person",
                (weights,),
            ).fetchall()
        return [(row[0], _person(*row[1:])) for row in rows]

    def close(self) -> None:
        pass


def _write_ahead(connection: sqlite3.Connection) -> None:
    limit = time.monotonic() + PATIENCE
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            # SQLite's own timeout does not hold here: workers that start together would fail.
            if "locked" not in str(error) or time.monotonic() > limit:
                raise
        time.sleep(0.02)


class PostgresStore:
    """Templates in PostgreSQL; pgvector's index proposes, chi-square decides."""

    def __init__(self, url: str, width: int) -> None:
        import psycopg
        from psycopg_pool import ConnectionPool

        if width > MOST_INDEXED:
            raise ValueError(
                f"PostgreSQL's index takes templates of at most {MOST_INDEXED} values; the "
                f"weights give {width}: take SQLite"
            )
        # Opened at the first request: workers that are forked must not share its connections.
        # Each is asked before it is lent: those of a database that was restarted are none.
        self._pool = ConnectionPool(
            url, min_size=1, max_size=8, open=False, check=ConnectionPool.check_connection
        )
        with psycopg.connect(url) as connection:
            # Workers that start together must not create the table together.
            connection.execute("SELECT pg_advisory_xact_lock(719255)")
            connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
            (version,) = connection.execute(
                "SELECT extversion FROM pg_extension WHERE extname = 'vector'"
            ).fetchone()
            if tuple(int(part) for part in version.split(".")[:2]) < OLDEST_PGVECTOR:
                oldest = ".".join(map(str, OLDEST_PGVECTOR))
                raise ValueError(
                    f"the database's pgvector must be {oldest} or later; got {version}: "
                    "ALTER EXTENSION vector UPDATE"
                )
            connection.execute(
                "CREATE TABLE IF NOT EXISTS people (person text PRIMARY KEY, "
                "weights text NOT NULL, photos integer NOT NULL, template bytea NOT NULL, "
                f"roots vector({width}) NOT NULL)"
            )
            connection.execute(
                "CREATE INDEX IF NOT EXISTS people_roots ON people USING hnsw (roots vector_l2_ops)"
            )
            (known,) = connection.execute(
                "SELECT atttypmod FROM pg_attribute "
                "WHERE attrelid = 'people'::regclass AND attname = 'roots'"
            ).fetchone()
        if known != width:
            raise ValueError(
                f"the table people must be of templates of {width} values, as the weights give "
                f"them; it is of {known}: drop it, or take another database"
            )

    def _connection(self) -> AbstractContextManager[Any]:
        self._pool.open()
        return self._pool.connection()

    def add(self, person: str, enrolled: Person, weights: str) -> bool:
        with self._connection() as connection:
            done = connection.execute(
                "INSERT INTO people VALUES (%s, %s, %s, %s, %s::vector) ON CONFLICT DO NOTHING",
                (person, weights, enrolled.photos, _bytes(enrolled), _roots(enrolled.template)),
            )
            return done.rowcount == 1

    def get(self, person: str, weights: str) -> Person | None:
        with self._connection() as connection:
            row = connection.execute(
                "SELECT template, photos FROM people WHERE person = %s AND weights = %s",
                (person, weights),
            ).fetchone()
        return None if row is None else _person(*row)

    def remove(self, person: str) -> bool:
        with self._connection() as connection:
            done = connection.execute("DELETE FROM people WHERE person = %s", (person,))
            return done.rowcount == 1

    def candidates(self, probe: NDArray[np.float32], weights: str) -> list[tuple[str, Person]]:
        with self._connection() as connection:
            connection.execute(f"SET LOCAL hnsw.ef_search = {2 * CANDIDATES}")
            # On until there are enough of these weights: rows of others may lie nearer.
            connection.execute("SET LOCAL hnsw.iterative_scan = strict_order")
            rows = connection.execute(
                "SELECT person, template, photos FROM people WHERE weights = %s "
                f"ORDER BY roots <-> %s::vector LIMIT {CANDIDATES}",
                (weights, _roots(probe)),
            ).fetchall()
        return [(row[0], _person(*row[1:])) for row in rows]

    def close(self) -> None:
        self._pool.close()


def _person(template: bytes, photos: int) -> Person:
    return Person(np.frombuffer(template, "<f4"), photos)


def _bytes(enrolled: Person) -> bytes:
    return enrolled.template.astype("<f4").tobytes()


def _roots(template: NDArray[np.float32]) -> str:
    return "[" + ",".join(f"{value:.7g}" for value in np.sqrt(template)) + "]"
