import os
import random
import signal
import subprocess
import sys

import pytest

from hilrl_actor.outbox import Outbox, OutboxError


def reopen(box):
    box.close()
    return Outbox(box.path, box.compact_bytes)


def test_numbers_go_on_after_a_restart(tmp_path):
    box = Outbox(tmp_path / "actor" / "outbox.bin")
    assert [box.add(b"a"), box.add(b""), box.add(b"ccc")] == [1, 2, 3]
    box.acknowledge(1)
    box = reopen(box)
    assert (box.sent, [data for seq, data in box.waiting if seq > 1]) == (3, [b"", b"ccc"])
    assert box.add(b"d") == 4
    box.acknowledge(4)
    assert not box.waiting
    box.close()


def test_an_acknowledgement_forgets_all_up_to_it_and_never_more_than_was_sent(tmp_path):
    box = Outbox(tmp_path / "outbox.bin")
    for k in range(5):
        box.add(bytes([k]))
    box.acknowledge(3)
    assert [seq for seq, _ in box.waiting] == [4, 5]
    box.acknowledge(2)  # an old one
    assert [seq for seq, _ in box.waiting] == [4, 5] and box.acknowledged == 3
    box.acknowledge(99)
    assert box.acknowledged == box.sent == 5
    box.close()


def test_an_emptied_box_shrinks_its_file_and_keeps_its_numbering(tmp_path):
    box = Outbox(tmp_path / "outbox.bin", compact_bytes=1000)
    for _ in range(20):
        box.add(bytes(100))
    box.acknowledge(20)
    assert box.path.stat().st_size < 100
    box = reopen(box)
    assert (box.sent, box.acknowledged, box.add(b"x")) == (20, 20, 21)
    box.close()


@pytest.mark.parametrize("seed", range(20))
def test_a_record_cut_off_anywhere_was_never_sent(tmp_path, seed):
    rng = random.Random(seed)
    box = Outbox(tmp_path / "outbox.bin")
    records = [rng.randbytes(rng.randrange(40)) for _ in range(6)]
    for data in records:
        box.add(data)
    box.close()
    whole = box.path.stat().st_size
    cut = rng.randrange(1, 12 + len(records[-1]) + 1)
    os.truncate(box.path, whole - cut)
    box = Outbox(box.path)
    assert [data for _, data in box.waiting] == records[:-1]
    assert box.add(b"again") == 6
    box = reopen(box)
    assert [data for _, data in box.waiting] == [*records[:-1], b"again"]
    box.close()


def test_a_file_that_lost_its_numbering_is_refused(tmp_path):
    (tmp_path / "outbox.bin").write_bytes(b"")
    with pytest.raises(OutboxError, match=r"outbox\.bin: damaged, its numbering is lost; begin a new run"):
        Outbox(tmp_path / "outbox.bin")


WRITER = """
import sys
from pathlib import Path
from hilrl_actor.outbox import Outbox
box = Outbox(Path(sys.argv[1]), compact_bytes=4000)
while True:
    seq = box.sent + 1
    box.add(seq.to_bytes(8, "little") * (seq % 50 + 1))
    print(seq, flush=True)
    if seq % 7 == 0:
        box.acknowledge(seq - 3 if seq % 2 else seq)
"""


def test_a_killed_writer_loses_nothing_that_it_sent(tmp_path):
    path, sent = tmp_path / "outbox.bin", 0
    for trial in range(4):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True
        )
        for _ in range(200 + 31 * trial):
            process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        last = [int(line) for line in process.communicate()[0].split("\n") if line.isdigit()]
        box = Outbox(path, compact_bytes=4000)
        assert box.sent >= max(last, default=0) and box.sent > sent
        for seq, data in box.waiting:
            assert data == seq.to_bytes(8, "little") * (seq % 50 + 1)
        numbers = [seq for seq, _ in box.waiting]
        assert numbers == list(range(box.acknowledged + 1, box.sent + 1))
        sent = box.sent
        box.close()
