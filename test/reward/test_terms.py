import dataclasses
import math

import numpy as np
import pytest
from loop_messages import CONTRACT, TASK

from hilrl_reward.terms import TERMS, RewardFunction, Situation, make_term
from hilrl_ros.contract import ContractError

NAMES, ACTIONS = ("x", "y", "z"), ("x", "grip")


def value(
    term, after=(0.0, 0.0, 0.0), before=(0.0, 0.0, 0.0), /, action=None, action_before=None, **settings
):
    made = make_term("t.reward.r", {"term": term, **settings}, TERMS, NAMES, ACTIONS)
    situation = Situation(
        dict(zip(NAMES, after, strict=True)), dict(zip(NAMES, before, strict=True)), action, action_before
    )
    return made(situation)


@pytest.mark.parametrize(("z", "expected"), [(0.0601, 1.0), (0.06, 0.0), (-1.0, 0.0)])
def test_above_pays_beyond_its_threshold(z, expected):
    assert value("above", (0, 0, z), state="z", threshold=0.06) == expected


@pytest.mark.parametrize(("state", "expected"), [((0.03, 0.04, 9), 0.0), ((0.03, 0.039, 9), 1.0)])
def test_near_looks_at_the_distance_of_the_named_entries(state, expected):
    assert value("near", state, states=["x", "y"], threshold=0.05) == expected
    moved = (state[0] + 1.0, state[1] - 2.0, 9)
    assert value("near", moved, states=["x", "y"], threshold=0.05, target=[1.0, -2.0]) == expected


@pytest.mark.parametrize(
    ("state", "expected"),
    [((0.01, 0.0, 0.1), 1.0), ((0.01, 0.0, 0.3), 0.0), ((0.01, 0.0, -0.1), 0.0), ((0.04, 0.0, 0.1), 0.0)],
    ids=["held", "open", "empty", "elsewhere"],
)
def test_grasp_is_jaws_that_closed_on_something_that_is_there(state, expected):
    settings = {"gripper": "z", "around": 0.2, "empty": -0.05, "states": ["x", "y"], "threshold": 0.02}
    assert value("grasp", state, **settings) == expected


def test_distance_is_1_when_there_and_0_far_away():
    assert value("distance", (0, 0, 5), states=["x", "y"]) == 1.0
    assert value("distance", (0.3, 0.4, 0), states=["x", "y"], scale=0.5) == pytest.approx(1 - math.tanh(1.0))
    assert value("distance", (90, 0, 0), states=["x"]) == pytest.approx(0.0)
    assert value("distance", (0.1, 0, 0), states=["x", "y"], target=[0.1, 0]) == 1.0


@pytest.mark.parametrize(("z", "expected"), [(0.0, 0.0), (0.01, 0.0), (0.035, 0.5), (0.06, 1.0), (1.0, 1.0)])
def test_lift_is_the_share_of_the_way_up(z, expected):
    assert value("lift", (0, 0, z), state="z", rest=0.01, top=0.06) == pytest.approx(expected)


def test_opening_is_the_share_of_the_way_and_a_bonus_at_its_end():
    settings = {"state": "x", "closed": 0.0, "open": -0.08, "bonus": 3.0}  # it may open either way
    assert value("opening", (0, 0, 0), **settings) == 0.0
    assert value("opening", (-0.06, 0, 0), **settings) == pytest.approx(0.75)
    assert value("opening", (-0.08, 0, 0), **settings) == 4.0


@pytest.mark.parametrize(
    ("motion", "expected"),
    [((0, 0.02), 0.0), ((0, 0), 0.0), ((0, -0.02), -2.0), ((0.02, 0), -1.0), ((0, -9), -2.0)],
    ids=["right", "still", "wrong", "aside", "far"],
)
def test_pull_costs_what_strays_from_the_direction(motion, expected):
    before = (0.1, 0.2, 0.3)
    after = (0.1 + motion[0], 0.2 + motion[1], 0.0)
    settings = {"states": ["x", "y"], "direction": [0, 5], "scale": 0.02}
    assert value("pull", after, before, **settings) == pytest.approx(expected)


def test_smoothness_is_the_change_of_the_action():
    assert value("smoothness", action={"x": 1, "grip": -1}, action_before={"x": -1, "grip": 0}) == 0.625
    assert value("smoothness", action={"x": 1.0, "grip": -1}, action_before={"x": 1.0, "grip": -1}) == 0.0


@pytest.mark.parametrize(
    ("grip", "was", "expected"),
    [(-1, 0.6, 1), (-1, 0.3, 0), (1, 0.3, 1), (1, 0.6, 0), (-0.4, 0.6, 0), (0.4, 0.3, 0)],
)
def test_gripper_marks_commands_that_toggle_it(grip, was, expected):
    made = make_term(
        "w", {"term": "gripper", "action": "grip", "state": "z", "open": 0.5}, TERMS, NAMES, ACTIONS
    )
    assert made(Situation({"z": 0.0}, {"z": was}, {"x": 1, "grip": grip})) == expected


def test_the_rest():
    assert value("time") == 1.0
    assert value("action_size", action={"x": 1.0, "grip": -0.5}) == pytest.approx(0.625)
    assert value("action_size", action={}) == 0.0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"term": "abov"}, r"t\.reward\.r\.term: is 'abov', expected one of above, near, grasp, success"),
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
        (
            {"term": "distance", "states": ["x"], "target": [0, 1]},
            r"t\.reward\.r\.target: is \[0, 1\], expected 1 numbers, one for each state",
        ),
        (
            {"term": "pull", "states": ["x"], "direction": "up", "scale": 1},
            r"t\.reward\.r\.direction: is 'up', expected a list of numbers",
        ),
        (
            {"term": "pull", "states": ["x"], "direction": [0], "scale": 1},
            r"t\.reward\.r\.direction: is \[0\], expected one that is not zero",
        ),
        (
            {"term": "lift", "state": "z", "rest": 0.1, "top": 0.1},
            r"t\.reward\.r\.top: is 0\.1 as rest is, expected another number",
        ),
        (
            {"term": "gripper", "action": "claw", "state": "z", "open": 0.5},
            r"t\.reward\.r\.action: 'claw' is no action entry; there are x, grip",
        ),
    ],
    ids=str,
)
def test_wrong_settings_are_one_sentence(settings, message):
    with pytest.raises(ContractError, match=message):
        make_term("t.reward.r", settings, TERMS, NAMES, ACTIONS)


def task(**fields):
    return dataclasses.replace(TASK, **fields)


def rewarded(reward, **fields):
    return RewardFunction(task(reward=reward, **fields), CONTRACT.entry_names, CONTRACT.action.names)


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
        (
            {"reward": {"r": {"term": "time", "weight": 1, "change": True}}},
            r"cube\.reward\.r\.change: is True, expected true or false; true fits above, near, grasp, distance",
        ),
        (
            {"reward": {"r": {"term": "time", "weight": 1, "while": {"term": "time"}}}},
            r"cube\.reward\.r\.while\.term: is 'time', expected one of above, near, grasp",
        ),
        (
            {
                "reward": {
                    "r": {"term": "distance", "states": ["cube_z"], "weight": 1, "change": True, "while": {}}
                }
            },
            r"cube\.reward\.r\.while: does not go with change: true",
        ),
    ],
    ids=str,
)
def test_a_task_whose_reward_does_not_fit_names_the_key(fields, message):
    with pytest.raises(ContractError, match=message):
        RewardFunction(task(**fields), CONTRACT.entry_names, CONTRACT.action.names)


def entries(**values):
    return dict.fromkeys(CONTRACT.entry_names, 0.0) | values


STILL = np.zeros(len(CONTRACT.action.names))
LIFT = {"term": "lift", "state": "cube_z", "rest": 0.0, "top": 0.1}


def test_the_terms_of_a_step_are_weighted_scaled_and_named():
    function = rewarded(
        {
            "done": {"term": "success", "weight": 3},
            "hurry": {"term": "time", "weight": -0.01},
            "lift": {**LIFT, "weight": 1.0, "change": True},
        }
    )
    low, high = entries(), entries(cube_z=0.07)
    terms, success = function(low, STILL, high)
    assert success and terms == pytest.approx({"done": 0.75, "hurry": -0.0025, "lift": 0.175})
    terms, success = function(high, STILL, low)
    assert not success and terms == pytest.approx({"done": 0.0, "hurry": -0.0025, "lift": -0.175})


@pytest.mark.parametrize("change", [True, False])
def test_no_episode_earns_more_than_1(change):
    function = rewarded(
        {
            "done": {"term": "success", "weight": 2.0},
            "lift": {**LIFT, "weight": 0.5, "change": change},
            "away": {"term": "distance", "states": ["cube_z"], "weight": -0.2, "change": change},
            "open": {
                "term": "opening",
                "state": "cube_x",
                "closed": 0,
                "open": 1,
                "bonus": 2.0,
                "weight": 1.0,
            },
        },
        max_episode_steps=10,
    )
    before, total = entries(), 0.0
    for height in [0.05] * 9 + [9.0]:  # lingers, then succeeds far away
        after = entries(cube_z=height, cube_x=1.0)
        terms, _ = function(before, STILL, after)
        before, total = after, total + sum(terms.values())
    assert 0.8 < total <= 1.0


def test_a_reward_of_success_alone_is_1_whatever_its_weight():
    terms, _ = rewarded({"done": {"term": "success", "weight": 5}})(entries(), STILL, entries(cube_z=0.07))
    assert terms == {"done": 1.0}


def test_a_term_is_paid_only_while_its_condition_holds():
    high = {"term": "above", "state": "cube_z", "threshold": 0.02}
    function = rewarded({"calm": {"term": "action_size", "weight": -1.0, "while": high}})
    full = np.ones(len(STILL))
    assert function(entries(), full, entries())[0] == {"calm": 0.0}
    assert function(entries(), full, entries(cube_z=0.03))[0] == {"calm": -1.0}


def test_smoothness_compares_with_the_step_before_where_there_is_one():
    function = rewarded({"smooth": {"term": "smoothness", "weight": -1.0}})
    full = np.ones(len(STILL))
    assert function(entries(), full, entries(), -full)[0] == {"smooth": -1.0}
    assert function(entries(), full, entries())[0] == {"smooth": 0.0}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"hold": [3, 2]}, r"cube\.success\.hold: is \[3, 2\], expected \[k, n\]: k of the newest n steps"),
        ({"hold": 2}, r"cube\.success\.hold: is 2, expected"),
        ({"and": {"term": "near"}}, r"cube\.success\.and: is .*, expected a list of conditions"),
        (
            {"and": [{"term": "classifier"}]},
            r"cube\.success\.and\[0\]\.term: is 'classifier', expected one of above",
        ),
        ({"threshold": "high"}, r"cube\.success\.threshold: is 'high', expected a number"),
    ],
)
def test_a_success_condition_that_does_not_fit_names_the_key(more, message):
    with pytest.raises(ContractError, match=message):
        RewardFunction(
            task(success={"term": "classifier", **more}), CONTRACT.state_names, CONTRACT.action.names
        )


def test_any_success_condition_may_be_held_and_joined_by_others():
    success = {
        "term": "above", "state": "cube_z", "threshold": 0.06, "hold": [2, 2],
        "and": [{"term": "above", "state": "tip_z", "threshold": 0.05}],
    }  # fmt: skip
    function = RewardFunction(task(success=success), CONTRACT.state_names, CONTRACT.action.names)
    state = dict.fromkeys(CONTRACT.state_names, 0.0)
    seen = [(0.07, 0.06), (0.07, 0.0), (0.07, 0.06), (0.07, 0.06)]
    told = [function(state, np.zeros(4), state | {"cube_z": cube, "tip_z": tip})[1] for cube, tip in seen]
    assert told == [False, False, False, True]
    assert not function.condition.needs_classifier
