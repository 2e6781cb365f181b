import json
import math

import pytest

from hdet.replica.explorer.run_log import RunLog

HEADER = {"replicas": 2, "written": [0.1]}
TRACK = {
    "step": 40,
    "phase": "track",
    "base_lr": [0.0123456789],
    "replica_lr": [[0.01, 0.015]],
    "losses": [1.0, math.nan],
    "decision": "step 40: lr factor 0.5 -> 0.4",
}
CLIMB = {**TRACK, "step": 3, "phase": "climb", "decision": "", "found": [0.1]}


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_header_and_then_a_line_for_each_sync(tmp_path):
    path = tmp_path / "runs" / "x.jsonl"
    log = RunLog(path, HEADER, writes=True)
    log.add(CLIMB)
    log.add(TRACK)
    header, climb, track = lines(path)
    assert header["replicas"] == 2
    assert header["format"] == 1
    assert header["hdet"].count(".") == 2
    assert {*climb} == {"time_ms", "step", "phase", "base_lr", "replica_lr"}
    assert track["base_lr"] == [0.012346]
    assert track["losses"] == [1.0, None]
    assert track["decision"] == TRACK["decision"]


def test_a_beta_near_one_keeps_what_it_lacks_of_it(tmp_path):
    path = tmp_path / "x.jsonl"
    RunLog(path, HEADER, writes=True).add({**TRACK, "values": {"beta1/0": 0.999998765}})
    assert lines(path)[1]["values"] == {"beta1/0": 0.9999987650}


def test_the_search_tells_of_its_losses_and_trials(tmp_path):
    path = tmp_path / "x.jsonl"
    tried = {"before": 2.0, "factors": [0.1, 0.2], "losses": [1.5, math.inf]}
    RunLog(path, HEADER, writes=True).add({**CLIMB, "loss": 3.0, "tried": tried})
    line = lines(path)[1]
    assert line["loss"] == 3.0
    assert line["tried"] == {**tried, "losses": [1.5, None]}
    assert "found" not in line


def test_a_decision_stands_there_once(tmp_path):
    path = tmp_path / "x.jsonl"
    log = RunLog(path, HEADER, writes=True)
    for step in (40, 41):
        log.add({**TRACK, "step": step})
    assert ["decision" in line for line in lines(path)] == [False, True, False]


def test_a_resumed_run_goes_on_after_a_line_that_was_cut_off(tmp_path):
    path = tmp_path / "x.jsonl"
    RunLog(path, HEADER, writes=True).add(TRACK)
    path.write_text(path.read_text()[:-20])
    RunLog(path, HEADER, writes=True).add({**TRACK, "step": 50})
    texts = path.read_text().splitlines()
    assert len(texts) == 4
    with pytest.raises(json.JSONDecodeError):
        json.loads(texts[1])
    assert json.loads(texts[3])["step"] == 50


def test_a_run_that_changes_its_directory_goes_on_in_the_same_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    log = RunLog("x.jsonl", HEADER, writes=True)
    log.add(TRACK)
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    log.add({**TRACK, "step": 50})
    assert len(lines(tmp_path / "x.jsonl")) == 3


def test_two_logs_in_one_file_are_warned_of_once(tmp_path):
    path = tmp_path / "x.jsonl"
    first, second = (RunLog(path, HEADER, writes=True) for _ in range(2))
    first.add(TRACK)
    second.add(TRACK)
    with pytest.warns(UserWarning, match="must be a file of its own"):
        first.add(TRACK)
    path.write_text(path.read_text() * 2)
    first.add(TRACK)


def test_other_processes_write_nothing(tmp_path):
    path = tmp_path / "x.jsonl"
    RunLog(path, HEADER, writes=False).add(TRACK)
    assert not path.exists()


def test_a_file_that_cannot_be_written_is_warned_of_once(tmp_path):
    (tmp_path / "file").write_text("")
    log = RunLog(tmp_path / "file" / "x.jsonl", HEADER, writes=True)
    with pytest.warns(UserWarning, match="Training goes on without it"):
        log.add(TRACK)
    log.add(TRACK)


def test_what_json_cannot_hold_does_not_end_the_run(tmp_path):
    log = RunLog(tmp_path / "x.jsonl", {**HEADER, "sync_every": object()}, writes=True)
    with pytest.warns(UserWarning, match="not JSON serializable. Training goes on without it"):
        log.add(TRACK)
    log.add(TRACK)


def test_a_sync_of_eight_replicas_takes_at_most_a_kilobyte(tmp_path):
    path, row = tmp_path / "x.jsonl", [0.123456789 * (r + 1) for r in range(8)]
    found = {
        **{"step": 123_456, "phase": "track", "base_lr": [0.1], "replica_lr": [row]},
        **{"values": {"lr": 0.123456789}, "replica_values": {"lr": row}},
        **{"losses": row, "probes": row, "divergence": row, "masked_total": [0] * 8},
        **{"slope": {"lr": 0.00123}, "t": {"lr": 2.3456}, "confidence": {"lr": 0.98765}},
        **{"rollbacks": 0, "exclusions": 0, "new_levels": 0, "syncs": 1000, "masked": []},
        **{"excluded": [], "confounded": False, "sync_ms": 12.345, "probe_ms": 3.21},
        "found": [0.123456789],
        "decision": "step 123456: lr factor 0.7 -> 0.65, larger is worse (t = 2.3, loss slope "
        "0.004 +- 0.0017); cosine of old updates and new gradients -0.01: smaller is better",
    }
    RunLog(path, HEADER, writes=True).add(found)
    assert len(path.read_text().splitlines()[1]) <= 1000
