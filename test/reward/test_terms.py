import dataclasses
import math

import numpy as np
import pytest
from loop_messages import CONTRACT, TASK

from hilrl_reward.terms import TERMS, RewardFunction, Situation, make_term
from hilrl_ros.contract import ContractError

NAMES = ("x", "y", "z")


def value(term, state=(0.0, 0.0, 0.0), before=(0.0, 0.0, 0.0), action=(0.0,), success=False, **settings):
    made = make_term("t.reward.r", {"term": term, **settings}, TERMS, NAMES)
    situation = Situation(
        dict(zip(NAMES, state, strict=True)), dict(zip(NAMES, before, strict=True)), np.array(action), success
    )
    return made(situation)


@pytest.mark.parametrize(("z", "expected"), [(0.0601, 1.0), (0.06, 0.0), (-1.0, 0.0)])
def test_above_pays_beyond_its_threshold(z, expected):
    made = make_term("w", {"term": "above", "state": "z", "threshold": 0.06}, TERMS, NAMES)
    assert made(Situation({"z": z}, {}, np.zeros(1), False)) == expected


@pytest.mark.parametrize(("state", "expected"), [((0.03, 0.04, 9), 0.0), ((0.03, 0.039, 9), 1.0)])
def test_near_looks_at_the_norm_of_the_named_entries(state, expected):
    assert value("near", state, states=["x", "y"], threshold=0.05) == expected


def test_distance_is_1_when_there_and_0_far_away():
    assert value("distance", (0, 0, 5), states=["x", "y"]) == 1.0
    assert value("distance", (0.3, 0.4, 0), states=["x", "y"], scale=0.5) == pytest.approx(1 - math.tanh(1.0))
    assert value("distance", (90, 0, 0), states=["x"]) == pytest.approx(0.0)


def test_progress_is_signed_and_in_the_entries_unit():
    assert value("progress", (0.3, 0.4, 0), (0.6, 0.8, 0), states=["x", "y"]) == pytest.approx(0.5)
    assert value("progress", (0.6, 0.8, 0), (0.3, 0.4, 0), states=["x", "y"]) == pytest.approx(-0.5)


def test_the_rest():
    assert value("time") == 1.0
    assert value("success", success=True) == 1.0 and value("success") == 0.0
    assert value("action_size", action=(1.0, -0.5)) == pytest.approx(0.625)
    assert value("action_size", action=()) == 0.0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"term": "abov"}, r"t\.reward\.r\.term: is 'abov', expected one of above, near, success"),
        ({}, r"t\.reward\.r\.term: is None, expected one of"),
        ("time", r"t\.reward\.r\.term: is 'time', expected one of"),
        ({"term": ["time"]}, r"t\.reward\.r\.term: is \['time'\], expected one of"),
        (
            {"term": "near", "states": ["x"], "treshold": 1},
            r"t\.reward\.r\.treshold: unknown key of term 'near'; allowed: states, threshold",
        ),
        ({"term": "time", "scale": 1}, r"t\.reward\.r\.scale: unknown key of term 'time'; allowed: none"),
        ({"term": "above", "state": "z"}, r"t\.reward\.r: term 'above' needs threshold"),
        (
            {"term": "above", "state": "w", "threshold": 0},
            r"t\.reward\.r\.state: 'w' is no state entry; there are x, y, z",
        ),
        ({"term": "distance", "states": ["x", "v"]}, r"t\.reward\.r\.states: 'v' is no state entry"),
        (
            {"term": "distance", "states": "x"},
            r"t\.reward\.r\.states: is 'x', expected a list of state entries",
        ),
        ({"term": "distance", "states": 3}, r"t\.reward\.r\.states: is 3, expected a list of state entries"),
        (
            {"term": "above", "state": ["x"], "threshold": 0},
            r"t\.reward\.r\.state: is \['x'\], expected the name of a state entry",
        ),
        (
            {"term": "above", "state": "x", "threshold": "high"},
            r"t\.reward\.r\.threshold: is 'high', expected a number",
        ),
        (
            {"term": "distance", "states": ["x"], "scale": 0},
            r"t\.reward\.r\.scale: is 0, expected a positive number",
        ),
    ],
    ids=str,
)
def test_wrong_settings_are_one_sentence(settings, message):
    with pytest.raises(ContractError, match=message):
        make_term("t.reward.r", settings, TERMS, NAMES)


def task(**fields):
    return dataclasses.replace(TASK, **fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"reward": {"calm": {"term": "action_size"}}},
            r"cube\.reward\.calm\.weight: is None, expected a number",
        ),
        ({"reward": {"calm": {"term": "time", "weight": "much"}}}, r"reward\.calm\.weight: is 'much'"),
        ({"reward": {"calm": "time"}}, r"reward\.calm\.weight: is None"),
        ({"success": {"term": "time"}}, r"cube\.success\.term: is 'time', expected one of above, near"),
    ],
)
def test_a_task_whose_reward_does_not_fit_names_the_key(fields, message):
    with pytest.raises(ContractError, match=message):
        RewardFunction(task(**fields), CONTRACT.state_names)


def test_the_terms_of_a_step_are_weighted_and_named():
    reward = {
        "done": {"term": "success", "weight": 2},
        "hurry": {"term": "time", "weight": -0.01},
        "lift": {"term": "progress", "states": ["cube_z"], "weight": -1.0},
    }
    function = RewardFunction(task(reward=reward), CONTRACT.state_names)
    before = dict.fromkeys(CONTRACT.state_names, 0.0)
    after = before | {"cube_z": 0.07}
    terms, success = function(before, np.zeros(4), after)
    assert success and terms == pytest.approx({"done": 2.0, "hurry": -0.01, "lift": 0.07})
    terms, success = function(after, np.zeros(4), before)
    assert not success and terms == pytest.approx({"done": 0.0, "hurry": -0.01, "lift": -0.07})
