import pytest
import torch

from hilrl_agents import PolicySpec, ReplayBuffer


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def spec():
    return PolicySpec(state_dim=2, action_dim=2, cameras={"front": (8, 6, 3)})


@pytest.fixture
def buffer(tmp_path, spec):
    made = ReplayBuffer(tmp_path / "replay", spec, 64)
    yield made
    made.close()
