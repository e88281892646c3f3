import make_results
import pytest


def run(nonzero, validation, seed=0, **changes):
    names = ("net", "protocol", "method", "penalty", "factor", "amount")
    values = ("300-100", "ours", "gradual", "HoyerSquare", 1e-4, float(nonzero))
    rest = {"teacher": "dense", "shifts": True, "dropout": True, "weight_decay": 0.0}
    line = {**dict(zip(names, values, strict=True)), **rest, "seed": seed, "epochs": [1, 2, 3, 4]}
    return {**line, "nonzero": nonzero, "validation": validation, "cut_epochs": 3, **changes}


def test_seeds_of_a_setting_are_one_group():
    runs = [run(10, 0.9), run(10, 0.8, seed=1), run(20, 0.9), run(10, 0.9, weight_decay=1e-4)]
    sizes = sorted(len(group) for group in make_results.by_setting(runs))
    assert sizes == [1, 1, 2]


def test_curves_leave_out_settings_that_another_beats():
    runs = [run(10, 0.90), run(20, 0.89), run(30, 0.95), run(30, 0.93, factor=1e-3), run(5, 0.5)]
    groups = make_results.front(make_results.by_setting(runs))
    kept = [(group[0]["nonzero"], group[0]["factor"]) for group in groups]
    assert kept == [(30, 1e-4), (10, 1e-4), (5, 1e-4)]


def test_sweeps_count_shared_sparse_training_once():
    sweep = [run(10, 0.9), run(20, 0.9), run(10, 0.9, factor=1e-3)]
    assert make_results.epochs_of(sweep) == 2 * 2 + 3 * (3 + 4)


def test_the_automatic_choice_is_compared_with_the_sparsest_of_its_accuracy():
    budget = run(15, 0.95, method="budget", test=0.9)
    sweep = [run(count, 0.94 + count / 1000, test=0.9) for count in range(2, 14)]
    table = make_results.automatic_table([budget, *sweep, run(5, 0.99, seed=1, test=0.9)])
    assert "| 15 |" in table[2]
    assert "| 10 |" in table[2]
    assert len(table) == 4


def test_committed_results_are_whole_lines_of_known_nets():
    runs = make_results.read_lines("mnist.jsonl")
    assert {line["net"] for line in runs} == set(make_results.TITLES)
    for line in runs:
        # The paper's protocol has no accuracy on held-out images, ours no best test epoch.
        assert ("validation" in line) == (line["protocol"] == "ours")
        assert ("best_test" in line) == (line["protocol"] == "paper")
        assert line["nonzero"] == pytest.approx(sum(line["layers"]))
