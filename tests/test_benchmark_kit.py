import dataclasses
import json

import numpy as np
import pytest
from kit import nets, plan_loop, processes, results, tables, turns

pytestmark = pytest.mark.benchmark


def test_each_has_its_turn_in_each_round_every_second_one_in_reverse():
    ran = []
    actions = {name: lambda name=name: ran.append(name) for name in "ab"}
    times = turns.by_turns(actions, rounds=3, warmup=2)
    assert "".join(ran) == "abab" + "abbaab"
    assert {name: seconds.shape for name, seconds in times.seconds.items()} == dict.fromkeys(
        "ab", (3, 2)
    )


def test_a_stretch_is_filled_with_calls_after_one_that_does_not_count(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(turns.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(turns.time, "process_time", lambda: now[0] / 2)
    ran = []

    def action():
        ran.append(now[0])
        now[0] += 3.0

    times = turns.by_turns({"a": action}, rounds=2, warmup=1, stretch=7.0)
    assert len(ran) == 1 + 1 + 2 * (1 + 3)
    np.testing.assert_allclose(times.seconds["a"], [[3, 1.5]] * 2)


def test_ratios_are_those_within_the_rounds():
    seconds = {
        "slow": np.array([[3.0, 1.0], [30.0, 1.0], [8.0, 4.0]]),
        "bare": np.array([[1.0, 1.0], [10.0, 2.0], [2.0, 1.0]]),
    }
    times = turns.Times(seconds, (0.0, 0.0))
    assert times.median("slow") == 8
    assert times.ratio("slow", "bare") == 3
    assert times.ratio("slow", "bare", turns.PROCESSOR) == 1
    assert times.quartiles("slow", "bare") == [3, 3.5]
    np.testing.assert_allclose(times.added("slow", "bare"), [4, 6, 13])


def test_documents_are_read_as_they_were_written(tmp_path):
    file = tmp_path / "new" / "x.json"
    results.write(file, {"a": [1, 2]})
    assert json.loads(file.read_text()) == {"a": [1, 2]}
    cells = [{"layer": "one"}, {"layer": "two", "error": None}]
    assert results.read_cells(tmp_path / "cells.json") == []
    results.write_cells(tmp_path / "cells.json", ["numpy"], {"counts": {}}, cells)
    assert results.read_cells(tmp_path / "cells.json") == cells
    document = json.loads((tmp_path / "cells.json").read_text())
    assert document["versions"] == {"numpy": np.__version__}
    assert [file.name for file in tmp_path.rglob("*.part")] == []


def test_a_document_that_cannot_be_written_leaves_the_old_one(tmp_path):
    results.write(tmp_path / "x.json", {"a": 1})
    with pytest.raises(TypeError):
        results.write(tmp_path / "x.json", {"a": object()})
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": 1}


def test_a_table_has_a_line_for_each_row():
    assert tables.table(["a", "b"], [[1, "x"]]) == ["| a | b |", "| --- | --- |", "| 1 | x |", ""]
    assert tables.table(["a"], []) == ["Not measured yet.", ""]


def test_what_a_script_prints_last_is_its_result(tmp_path):
    script = tmp_path / "script.py"
    script.write_text("import sys, json\nprint('noise')\nprint(json.dumps({'got': sys.argv[1:]}))")
    assert processes.measured_apart(str(script), "--one", "x") == {"got": ["--one", "x"]}
    assert 0 < processes.memory("VmRSS") <= processes.memory("VmHWM")


def test_the_nets_are_as_wide_as_they_say():
    for net, widths in nets.WIDTHS.items():
        model = nets.lenet(net)
        assert nets.live_widths(model) == widths
        assert sum(np.prod(kernel.shape) for kernel in nets.kernels_of(model)) == nets.KERNELS[net]


@dataclasses.dataclass(frozen=True)
class Run:
    net: str
    seed: int


def test_a_plan_makes_the_runs_that_have_no_line_group_by_group(tmp_path):
    made = []

    def make(runs):
        made.append([(run.net, run.seed) for run in runs])
        return [{"result": 10 * run.seed} for run in runs]

    plan = [Run(net, seed) for seed in (0, 1) for net in "ab"]
    out = tmp_path / "results.jsonl"
    results.append(out, {"net": "a", "seed": 0, "result": 0})
    for _ in range(2):
        plan_loop.make_together(plan, out, make, lambda run: run.net)
    assert made == [[("a", 1)], [("b", 0), ("b", 1)]]
    assert [line["result"] for line in results.read_lines(out)] == [0, 10, 0, 10]
    plan_loop.make_runs([*plan, Run("c", 3)], out, lambda run: {"result": run.net})
    assert results.read_lines(out)[-1]["result"] == "c" and len(results.read_lines(out)) == 5
