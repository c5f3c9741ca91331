import dataclasses
import itertools

import numpy as np
import pytest

from hilrl_ros.contract import ContractError
from hilrl_ros.contract_reader import load_contract
from hilrl_sim.scene import image_size
from hilrl_sim.simulation import Simulation

CONTRACT, TASK = load_contract("so101", "pick_cube_vision")
LOOKS = ("light_diffuse", "light_pos", "mat_rgba", "geom_rgba", "cam_pos", "cam_quat")


def with_scene(**changes):
    return dataclasses.replace(TASK, scene=TASK.scene | changes)


@pytest.fixture(scope="module")
def simulation():
    made = Simulation(CONTRACT, TASK)
    yield made
    made.close()


def looks(simulation, seed):
    simulation.reset(seed)
    return {name: getattr(simulation.model, name).copy() for name in LOOKS}


def test_a_seed_decides_how_an_episode_looks(simulation):
    first, other = looks(simulation, 5), looks(simulation, 6)
    again = looks(simulation, 5)
    for name in LOOKS:
        assert np.array_equal(first[name], again[name]), name
        assert not np.array_equal(first[name], other[name]), name


def test_looks_stay_within_their_ranges(simulation):
    ranges, plain = TASK.scene["variation"], Simulation(CONTRACT, with_scene(variation={})).model
    for seed in range(20):
        found = looks(simulation, seed)
        assert np.abs(found["cam_pos"] - plain.cam_pos).max() <= ranges["camera_position"] * 3**0.5
        turn = 2 * np.arccos(np.clip(np.abs((found["cam_quat"] * plain.cam_quat).sum(1)), 0, 1))
        assert np.degrees(turn).max() <= ranges["camera_angle"] * 3**0.5 + 1e-6
        assert np.abs(found["geom_rgba"] - plain.geom_rgba).max() <= ranges["color"] + 1e-6
        assert (found["geom_rgba"][:, 3] == plain.geom_rgba[:, 3]).all()
        factor = found["light_diffuse"] / plain.light_diffuse
        assert np.abs(factor - 1).max() <= ranges["light"] + 1e-6


def test_variation_moves_no_thing_and_changes_what_the_camera_sees(simulation):
    plain = Simulation(CONTRACT, with_scene(variation={}))
    for sim in (plain, simulation):
        sim.reset(3)
    assert np.array_equal(plain.get_state(), simulation.get_state())
    pictures = [sim.render("front", 64, 64).astype(int) for sim in (plain, simulation)]
    assert np.abs(pictures[0] - pictures[1]).mean() > 3
    plain.close()


def test_things_lie_apart(simulation):
    for seed in range(20):
        simulation.reset(seed)
        places = [position[:2] for position, _ in simulation.object_poses().values()]
        for a, b in itertools.combinations(places, 2):
            assert np.linalg.norm(a - b) > TASK.scene["apart"] - 0.002  # they settle a little


@pytest.mark.parametrize(
    "scene, sentence",
    [
        ({"variation": {"lihgt": 0.1}}, r"scene.variation.*lihgt.*light"),
        (
            {"variation": {"light": -1}},
            r"scene.variation.light: is -1, expected a number that is not negative",
        ),
        ({"apart": 1.0}, r"scene.apart: no place 1.0 m from the others for 'blue_cube'; widen its spawn"),
    ],
)
def test_a_scene_that_does_not_fit_is_one_clear_sentence(scene, sentence):
    with pytest.raises(ContractError, match=sentence):
        Simulation(CONTRACT, with_scene(**scene))


def test_size_of_published_pictures():
    assert image_size(TASK) == (128, 128)
    assert image_size(load_contract("so101", "pick_cube")[1]) == (480, 640)
    with pytest.raises(ContractError, match=r"scene.image_size: is \[128\], expected \[height, width\]"):
        image_size(with_scene(image_size=[128]))
