"""Random UUIDs: unique across threads and forks."""

from __future__ import annotations

import subprocess
import sys
import uuid

from juggler.process.uuids import new_uuid


def test_uuids_are_random_ones() -> None:
    for _ in range(1000):
        text = new_uuid()
        parsed = uuid.UUID(text)
        assert (str(parsed), parsed.version, parsed.variant) == (text, 4, uuid.RFC_4122)


def test_uuids_are_unique() -> None:
    assert len({new_uuid() for _ in range(10_000)}) == 10_000


def test_a_forked_process_repeats_no_uuids() -> None:
    printed = run("""
        import os
        from juggler.process.uuids import new_uuid
        new_uuid()
        child = os.fork()
        if child:
            os.waitpid(child, 0)
        print(new_uuid(), flush=True)
    """)

    assert len(printed) == len(set(printed)) == 2


def test_threads_share_the_source() -> None:
    printed = run("""
        import sys
        from concurrent.futures import ThreadPoolExecutor
        from juggler.process.uuids import new_uuid
        sys.setswitchinterval(1e-6)
        with ThreadPoolExecutor(4) as pool:
            parts = pool.map(lambda _: [new_uuid() for _ in range(10_000)], range(4))
            print(len({uuid for part in parts for uuid in part}))
    """)

    assert printed == ["40000"]


def run(program: str) -> list[str]:
    """Run a program in a process without gevent. Return the words that it prints."""
    code = "\n".join(line[8:] for line in program.splitlines())
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
