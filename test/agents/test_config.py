import ast
import dataclasses
import inspect
import sys

import pytest

from hilrl_agents import AGENTS, ConfigError, PolicySpec, agent_config, make_agent

OPTIONS = [(name, item) for name, agent in AGENTS.items() for item in dataclasses.fields(agent.Config)]


@pytest.mark.parametrize(("name", "item"), OPTIONS, ids=[f"{name}.{item.name}" for name, item in OPTIONS])
def test_every_option_is_documented_and_read(name, item):
    assert len(item.metadata["reason"]) > 15
    read = set()
    for base in (*AGENTS[name].__mro__[:-2], *AGENTS[name].Config.__mro__[:-1]):
        for node in ast.walk(ast.parse(inspect.getsource(sys.modules[base.__module__]))):
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) in ("c", "config", "self.config"):
                read.add(node.attr)
    assert item.name in read, f"nothing reads {name}.{item.name}"


@pytest.mark.parametrize("name", AGENTS)
def test_configs_are_frozen_and_their_defaults_valid(name):
    config = agent_config(name, {})
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.batch_size = 3
    assert agent_config(name, dataclasses.asdict(config)) == config


@pytest.mark.parametrize(
    ("overrides", "error"),
    [
        (
            {"utd_ration": 2},
            r"sac\.utd_ration: unknown option; did you mean 'utd_ratio'\? Allowed: backup_entropy,",
        ),
        ({"gamma": 1.5}, r"sac\.gamma: 1\.5 is outside \[0, 1\]"),
        ({"gamma": float("nan")}, r"sac\.gamma: nan is outside"),
        ({"batch_size": 0}, r"sac\.batch_size: 0 is outside \[2, ∞\]"),
        ({"batch_size": 2.5}, r"sac\.batch_size: 2\.5 is not of type int"),
        ({"batch_size": True}, r"sac\.batch_size: True is not of type int"),
        ({"backup_entropy": "no"}, r"sac\.backup_entropy: 'no' is not of type bool"),
        ({"hidden": 256}, r"sac\.hidden: 256 is not of type tuple"),
        ({"precision": "half"}, r"sac\.precision: 'half' is none of auto, float32, bfloat16"),
    ],
)
def test_a_bad_option_is_one_clear_sentence(overrides, error):
    with pytest.raises(ConfigError, match=error):
        make_agent("sac", PolicySpec(2, 1), overrides)


def test_an_unknown_agent_names_the_nearest_one():
    with pytest.raises(
        ConfigError,
        match=r"unknown agent 'sacc'; did you mean 'sac'\? Allowed: act, bc, .*, sac, .*\.$",
    ):
        make_agent("sacc", PolicySpec(2, 1))


def test_yaml_writes_numbers_as_text():
    config = agent_config("sac", {"temperature_init": "1e-2", "gamma": 1, "hidden": [64, 64]})
    assert (config.temperature_init, config.gamma, config.hidden) == (0.01, 1.0, (64, 64))


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"state_dim": 0, "action_dim": 1}, r"PolicySpec\.state_dim: a positive whole number, not 0"),
        ({"state_dim": 1, "action_dim": 1, "horizon": 0}, r"PolicySpec\.horizon: a positive whole number"),
        (
            {"state_dim": 1, "action_dim": 1, "cameras": {"a": (3, 4)}},
            r"cameras\.a: \(height, width, channels\)",
        ),
    ],
)
def test_a_bad_spec_is_one_clear_sentence(arguments, error):
    with pytest.raises(ValueError, match=error):
        PolicySpec(**arguments)
